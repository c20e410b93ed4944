"""When and how strongly a Koopman loss pulls on the model it is read from."""

import keras


class KoopmanSchedule(keras.callbacks.Callback):
    """Warm-up, linear ramp and fallback of a Koopman loss weight.

    Epoch e (from 0) has the weight
    `w(e) = max_weight min(1, (e - warmup + 1) / ramp)`, and 0 while
    `e < warmup`. After an epoch whose mean relative error
    `L_lin = ||K z - z'||^2 / ||z'||^2` exceeds `enter`, or is not finite, the
    following weights are multiplied by `fallback_scale`, until it was below
    `leave` for `patience` epochs running.

    The model must be built and have the scalar weight `koopman_weight`, which
    is assigned at each epoch's begin, and the methods `reset_koopman_totals()`,
    called then, and `koopman_measures()`, which returns the means since then
    as a dict with the keys `linear`, `state`, `skill` and `contribution`.
    These keys are added to the epoch's logs:

    - `koopman_weight`: w(e).
    - `koopman_effective_weight`: the weight that was in force.
    - `koopman_fallback_fraction`: fraction of the epochs with w > 0 so far
      that were spent in fallback.
    - `koopman_linear`, `koopman_state`, `koopman_skill`: means over steps.
    - `koopman_contribution`: mean weighted Koopman loss, that is the total
      loss less the model's own.

    Args:
        warmup: Integer, epochs with weight 0. Defaults to `2`.
        ramp: Integer, epochs over which the weight rises. Defaults to `4`.
        max_weight: Float, weight after the ramp. Defaults to `0.05`.
        enter: Float, relative error above which fallback begins. Defaults to
            `1.0`, the error of predicting zero.
        leave: Float, not above `enter`, relative error below which an epoch
            counts towards the end of fallback. Defaults to `0.5`.
        patience: Integer, such epochs needed. Defaults to `1`.
        fallback_scale: Float in [0, 1), factor in fallback. With 0 an operator
            that learns from this loss alone, by gradient, stays in fallback:
            give it some weight. Defaults to `0.0`.
        verbose: 1 prints one line per epoch, 0 none. Defaults to `1`.

    Raises:
        ValueError: If an argument is outside the range given above.
        TypeError: If the model is not built or lacks an attribute above.

    Example:
    >>> schedule = KoopmanSchedule(warmup=2, ramp=4, max_weight=0.05)
    >>> [round(schedule.weight(epoch), 4) for epoch in range(7)]
    [0.0, 0.0, 0.0125, 0.025, 0.0375, 0.05, 0.05]
    """

    def __init__(
        self,
        warmup=2,
        ramp=4,
        max_weight=0.05,
        enter=1.0,
        leave=0.5,
        patience=1,
        fallback_scale=0.0,
        verbose=1,
    ):
        super().__init__()
        for name, value, least in (
            ("warmup", warmup, 0),
            ("ramp", ramp, 1),
            ("max_weight", max_weight, 0),
            ("patience", patience, 1),
        ):
            if not value >= least:
                raise ValueError(
                    f"`{name}` must be at least {least}. Received: {value}"
                )
        if not 0 < leave <= enter:
            raise ValueError(
                "`leave` must be positive and not above `enter`. Received: "
                f"leave={leave}, enter={enter}"
            )
        if not 0 <= fallback_scale < 1:
            raise ValueError(
                "`fallback_scale` must be at least 0 and below 1. Received: "
                f"{fallback_scale}"
            )
        self.warmup = warmup
        self.ramp = ramp
        self.max_weight = max_weight
        self.enter = enter
        self.leave = leave
        self.patience = patience
        self.fallback_scale = fallback_scale
        self.verbose = verbose
        self._reset()

    def _reset(self):
        self._fallback = False
        self._calm_epochs = 0
        self._weighted_epochs = 0
        self._fallback_epochs = 0

    def weight(self, epoch):
        """The scheduled weight w(e) of an epoch, without fallback."""
        if epoch < self.warmup:
            return 0.0
        return self.max_weight * min(1.0, (epoch - self.warmup + 1) / self.ramp)

    def on_train_begin(self, logs=None):
        for name in (
            "koopman_weight",
            "koopman_measures",
            "reset_koopman_totals",
        ):
            if not hasattr(self.model, name):
                raise TypeError(
                    f"KoopmanSchedule needs a built model with `{name}`. "
                    f"Received: {self.model.__class__.__name__}, "
                    f"built={self.model.built}"
                )
        self._reset()

    def on_epoch_begin(self, epoch, logs=None):
        weight = self.weight(epoch)
        if weight > 0:
            self._weighted_epochs += 1
            self._fallback_epochs += self._fallback
        scale = self.fallback_scale if self._fallback else 1.0
        model = self.model
        model.koopman_weight.assign(weight * scale)
        model.reset_koopman_totals()

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        measures = model.koopman_measures()
        record = {
            "koopman_weight": self.weight(epoch),
            "koopman_effective_weight": float(model.koopman_weight),
            "koopman_fallback_fraction": (
                self._fallback_epochs / max(1, self._weighted_epochs)
            ),
            **{f"koopman_{name}": value for name, value in measures.items()},
        }
        self._update_fallback(measures["linear"])
        if logs is not None:
            logs.update(record)
        if self.verbose:
            values = " ".join(
                f"{key.removeprefix('koopman_')} {value:.4g}"
                for key, value in record.items()
            )
            fallback = ", fallback next" if self._fallback else ""
            print(f"\nEpoch {epoch + 1} koopman: {values}{fallback}")

    def _update_fallback(self, linear):
        if self._fallback:
            self._calm_epochs = (
                self._calm_epochs + 1 if linear < self.leave else 0
            )
            self._fallback = self._calm_epochs < self.patience
        else:
            self._fallback = not linear <= self.enter
            self._calm_epochs = 0

    def get_state(self):
        """Returns the JSON-plain state that `TrainingState` stores."""
        return {
            "fallback": self._fallback,
            "calm_epochs": self._calm_epochs,
            "weighted_epochs": self._weighted_epochs,
            "fallback_epochs": self._fallback_epochs,
        }

    def set_state(self, state):
        """Takes the state that `get_state` returned."""
        self._fallback = state["fallback"]
        self._calm_epochs = state["calm_epochs"]
        self._weighted_epochs = state["weighted_epochs"]
        self._fallback_epochs = state["fallback_epochs"]
