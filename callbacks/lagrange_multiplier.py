"""Dual ascent on the energy drift of a model."""

import keras

from ..layers.energy_account import EnergyAccount


class LagrangeMultiplier(keras.callbacks.Callback):
    """Raises the weight of the energy losses while energy drifts too much.

    The constraint is `drift <= target`, `drift` being the mean over tokens and
    blocks of `max_s |E_s - E_0| / sigma`. After each epoch
    `lambda <- clip(lambda + rate (ema(drift) - target) / target, 0, maximum)`:
    projected dual ascent on the normalised drift, with an exponential moving
    average of it. While the constraint holds lambda falls to 0, and the loss
    is the model's own. Every `EnergyAccount` of the model gets `lambda / n` as
    its weight, n their number, so the loss on energy is a mean over blocks.

    Lambda is no trainable weight: no optimizer sees it, it has no decay. It is
    saved with the model, in the accounts.

    These keys are added to the epoch's logs, means over its steps: for
    `energy_spread_ratio` see `EnergyAccount.measures`.

    - `energy_multiplier`: the lambda that was in force.
    - `energy_drift`: the drift.
    - `energy_spread_ratio`: the smallest of the blocks.
    - `energy_contribution`: lambda times the loss on energy.

    Args:
        target: float > 0, the largest drift allowed. Defaults to `0.01`.
        rate: float >= 0, step of the ascent; with 0 lambda keeps its initial
            value, and without that too the callback only logs. Defaults to
            `0.1`.
        initial: float from 0 to `maximum`. Defaults to `0`.
        maximum: float > 0, bound of lambda. Defaults to `10`.
        smoothing: float in `[0, 1)`, weight of the past in the moving average.
            Defaults to `0.5`.
        warmup: int, epochs with lambda 0 before the ascent begins. Defaults
            to `0`.

    Raises:
        ValueError: if an argument is out of its range.
        TypeError: if the model has no `EnergyAccount`.

    Example:

    ```python
    model = HamiltonianLM(1000)
    model.compile("adamw")
    model.fit(
        batches, epochs=5, shuffle=False, callbacks=[LagrangeMultiplier()]
    )
    ```

    Reference:
        - [Platt and Barr, 1987](https://papers.nips.cc/paper/1987/hash/a87ff679a2f3e71d9181a67b7542122c-Abstract.html),
          the method of multipliers for networks.
    """

    def __init__(
        self,
        target=0.01,
        rate=0.1,
        initial=0.0,
        maximum=10.0,
        smoothing=0.5,
        warmup=0,
    ):
        super().__init__()
        for name, value in (("target", target), ("maximum", maximum)):
            if not value > 0:
                raise ValueError(f"`{name}` must be above 0. Received: {value}")
        if not rate >= 0:
            raise ValueError(f"`rate` must not be negative. Received: {rate}")
        if not 0 <= initial <= maximum:
            raise ValueError(
                f"`initial` must be from 0 to maximum={maximum}. "
                f"Received: {initial}"
            )
        if not 0 <= smoothing < 1:
            raise ValueError(
                f"`smoothing` must be in [0, 1). Received: {smoothing}"
            )
        if not warmup >= 0:
            raise ValueError(
                f"`warmup` must not be negative. Received: {warmup}"
            )
        self.target = target
        self.rate = rate
        self.initial = initial
        self.maximum = maximum
        self.smoothing = smoothing
        self.warmup = warmup
        self._reset()

    def _reset(self):
        self.multiplier = self.initial
        self.mean_drift = None

    def on_train_begin(self, logs=None):
        if not self._accounts():
            raise TypeError(
                "LagrangeMultiplier needs a model with an EnergyAccount, as "
                "every HamiltonianBlock with energy_tokens > 0 has. Received: "
                f"{type(self.model).__name__}"
            )
        self._reset()

    def on_epoch_begin(self, epoch, logs=None):
        accounts = self._accounts()
        self._in_force = self.multiplier if epoch >= self.warmup else 0.0
        for account in accounts:
            account.weight.assign(self._in_force / len(accounts))
            account.reset()

    def on_epoch_end(self, epoch, logs=None):
        measures = [account.measures() for account in self._accounts()]
        drift = sum(measure["drift"] for measure in measures) / len(measures)
        if logs is not None:
            logs["energy_multiplier"] = self._in_force
            logs["energy_drift"] = drift
            logs["energy_spread_ratio"] = min(
                measure["spread_ratio"] for measure in measures
            )
            logs["energy_contribution"] = sum(
                measure["contribution"] for measure in measures
            )
        # An epoch without a finite batch says nothing.
        if epoch >= self.warmup and drift == drift:
            self.ascend(drift)

    def ascend(self, drift):
        """One step of the ascent, given an epoch's drift."""
        if self.mean_drift is None:
            self.mean_drift = drift
        self.mean_drift += (1.0 - self.smoothing) * (drift - self.mean_drift)
        excess = (self.mean_drift - self.target) / self.target
        raised = self.multiplier + self.rate * excess
        self.multiplier = min(max(raised, 0.0), self.maximum)

    def _accounts(self):
        return [
            layer
            for layer in self.model._flatten_layers()
            if isinstance(layer, EnergyAccount)
        ]

    def get_state(self):
        """Returns the JSON-plain state that `TrainingState` stores."""
        return {"multiplier": self.multiplier, "mean_drift": self.mean_drift}

    def set_state(self, state):
        """Takes the state that `get_state` returned."""
        self.multiplier = state["multiplier"]
        self.mean_drift = state["mean_drift"]
