"""What of the physics run was done around a step: start, multipliers, logs."""

import keras
import numpy as np
from keras import ops


def multipliers(model):
    """The lambdas of a `PhysicsResNetBK`, one per block."""
    return [energy.multiplier for energy in model.energies]


class EnergyMultipliers(keras.callbacks.Callback):
    """Turns the energies on and moves their multipliers: fault 7.

    From epoch `start` on, after every step that compared two batches,

        lambda <- clip(lambda + rate (drift - target), smallest, largest)

    for each block alike, `drift` being the step's mean of |E(x, x') - E(x')|
    over batch and blocks. A callback, because Keras's compiled step on JAX
    returns trainable weights from the optimizer alone. Meant for
    `steps_per_execution=1`. Adds to the logs of an epoch

    - `energy_loss`, the mean of lambda times the loss, and `energy_drift`, both
      over all steps as in the original, where two of 498 count as 0;
    - `energy_multiplier`, the mean over blocks after the last step;
    - `energy_spread`, over the steps that compared two batches the mean of the
      standard deviation of E(x, x') within the batch, averaged over blocks: 0
      if all texts have the same energy.

    The drift and the spread are logged before `start` as well: there they are
    those of networks that nothing has trained.

    Args:
        start: int, first epoch, from 0, with the energies in the loss.
            Defaults to 4.
        rate: float. Defaults to 0.01.
        target: float, the drift that the rule aims at. Defaults to 0.1.
        smallest: float, lower bound of lambda. Defaults to 0.01.
        largest: float, upper bound of lambda. Defaults to 10.
    """

    def __init__(
        self, start=4, rate=0.01, target=0.1, smallest=0.01, largest=10.0
    ):
        super().__init__()
        self.start = start
        self.rate = rate
        self.target = target
        self.smallest = smallest
        self.largest = largest

    def on_epoch_begin(self, epoch, logs=None):
        self._enabled = epoch >= self.start
        self.model.begin_epoch(self._enabled)

    def on_train_batch_end(self, batch, logs=None):
        # On JAX access to `self.model` attaches the whole state anew.
        if not self._enabled:
            return
        model = self.model
        paired, drift = ops.convert_to_numpy(model.last_drift)
        if not paired:
            return
        step = self.rate * (float(drift) - self.target)
        for multiplier in multipliers(model):
            moved = ops.convert_to_numpy(multiplier) + step
            multiplier.assign(np.clip(moved, self.smallest, self.largest))

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        totals = ops.convert_to_numpy(model.energy_totals)
        steps, pairs, loss, drift, spread = map(float, totals)
        values = [ops.convert_to_numpy(m) for m in multipliers(model)]
        if logs is not None:
            logs["energy_loss"] = loss / max(steps, 1.0)
            logs["energy_drift"] = drift / max(steps, 1.0)
            logs["energy_multiplier"] = float(np.mean(values))
            logs["energy_spread"] = spread / max(pairs, 1.0)
