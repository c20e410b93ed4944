"""Dual ascent on the energy drift of a model."""

import math

import keras
from keras import ops

from .._checks import check_integer, check_real
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
    A block whose energies are all alike has no drift (see `EnergyAccount`), and
    is left out of the mean. One whose spread fell below its `spread_floor`, or
    that measured nothing, is named in what is printed at the epoch's end.

    Lambda is no trainable weight: no optimizer sees it, it has no decay. It is
    saved with the model, in the accounts, and a further `fit` goes on with it.

    These keys are added to the epoch's logs, means over its steps: for
    `energy_spread_ratio` see `EnergyAccount.measures`.

    - `energy_multiplier`: the lambda that was in force.
    - `energy_drift`: the drift.
    - `energy_spread_ratio`: the smallest of the blocks, NaN where one has none.
    - `energy_contribution`: lambda times the loss on energy.

    Args:
        target: float > 0, the largest drift allowed. Defaults to `0.01`.
        rate: float >= 0, step of the ascent; with 0 lambda keeps its initial
            value, and if that is 0 too the callback only logs. Defaults to
            `0.1`.
        initial: float from 0 to `maximum`, or `None` for what the accounts
            hold: in a fresh model their `energy_weight`, 0 by default, in a
            trained one the lambda that its training ended with. Defaults to
            `None`.
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
        initial=None,
        maximum=10.0,
        smoothing=0.5,
        warmup=0,
    ):
        super().__init__()
        for name, value in (("target", target), ("maximum", maximum)):
            check_real(name, value, "above 0", lambda v: v > 0)
        check_real("rate", rate, "from 0 on", lambda v: v >= 0)
        if initial is not None:
            allowed = f"from 0 to maximum={maximum}, or None"
            check_real("initial", initial, allowed, lambda v: 0 <= v <= maximum)
        check_real("smoothing", smoothing, "in [0, 1)", lambda v: 0 <= v < 1)
        check_integer("warmup", warmup, 0)
        self.target = target
        self.rate = rate
        self.initial = initial
        self.maximum = maximum
        self.smoothing = smoothing
        self.warmup = warmup
        self.multiplier = initial or 0.0
        self.mean_drift = None

    def on_train_begin(self, logs=None):
        accounts = self._accounts()
        if not accounts:
            raise TypeError(
                "LagrangeMultiplier needs a model with an EnergyAccount, as "
                "every HamiltonianBlock with energy_tokens > 0 has. Received: "
                f"{type(self.model).__name__}"
            )
        self.mean_drift = None
        self.multiplier = self.initial
        if self.initial is None:
            held = sum(
                float(ops.convert_to_numpy(account.weight))
                for account in accounts
            )
            if held > self.maximum:
                raise ValueError(
                    f"`maximum` must be at least {held:g}, the weight that the "
                    "model's energy has; or give `initial`, where it is to "
                    f"start. Received: maximum={self.maximum!r}"
                )
            self.multiplier = held

    def on_epoch_begin(self, epoch, logs=None):
        accounts = self._accounts()
        self._in_force = self.multiplier if epoch >= self.warmup else 0.0
        self._hold(accounts, self._in_force)
        for account in accounts:
            account.reset()

    def on_epoch_end(self, epoch, logs=None):
        accounts = self._accounts()
        measures = [account.measures() for account in accounts]
        drifts = [measure["drift"] for measure in measures]
        drifts = [drift for drift in drifts if math.isfinite(drift)]
        drift = sum(drifts) / len(drifts) if drifts else math.nan
        ratios = [measure["spread_ratio"] for measure in measures]
        self._complain(epoch, accounts, ratios)
        if logs is not None:
            logs["energy_multiplier"] = self._in_force
            logs["energy_drift"] = drift
            finite = all(map(math.isfinite, ratios))
            logs["energy_spread_ratio"] = min(ratios) if finite else math.nan
            logs["energy_contribution"] = sum(
                measure["contribution"] for measure in measures
            )
        # Where no block measured a drift, there is nothing to ascend by.
        if epoch >= self.warmup and drifts:
            self.ascend(drift)
        self._hold(accounts, self.multiplier)

    @staticmethod
    def _complain(epoch, accounts, ratios):
        low = [
            f"block {number}: {ratio:.3g}, floor {floor:g}"
            for number, (ratio, floor) in enumerate(
                zip(
                    ratios,
                    (account.conservation.spread_floor for account in accounts),
                    strict=True,
                ),
                1,
            )
            if not floor <= ratio < math.inf
        ]
        if low:
            print(
                f"\nEpoch {epoch + 1}: the spread of the energy over inputs, "
                f"over its first, is too small in {'; '.join(low)}. Where it "
                "collapsed, the drift says nothing"
            )

    def ascend(self, drift):
        """One step of the ascent, given an epoch's drift."""
        if self.mean_drift is None:
            self.mean_drift = drift
        self.mean_drift += (1.0 - self.smoothing) * (drift - self.mean_drift)
        excess = (self.mean_drift - self.target) / self.target
        raised = self.multiplier + self.rate * excess
        self.multiplier = min(max(raised, 0.0), self.maximum)

    @staticmethod
    def _hold(accounts, multiplier):
        for account in accounts:
            account.weight.assign(multiplier / len(accounts))

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
