"""What a network's energies did in training, and the loss on them."""

import math

import keras
from keras import ops

from ..losses.energy_conservation import (
    EnergyConservation,
    energy_drift,
    initial_spread,
)

TOTALS = ("steps", "drift", "spread", "contribution")


@keras.saving.register_keras_serializable(package="orrery")
class EnergyAccount(keras.layers.Layer):
    """Measures traces of energy and adds `weight` times their loss.

    `weight` is a scalar that a callback assigns (`LagrangeMultiplier`), never
    the optimizer; the loss is `EnergyConservation`. Sums of what was measured
    stay until `reset`; a batch that is not finite is left out. The first
    training batch sets the spread that later ones are compared with.

    Args:
        spread_floor: float, see `EnergyConservation`. Defaults to `0.5`.

    Call arguments:
        trace: float tensor `(..., S + 1)` of energies.

    Returns:
        The trace.

    Example:
    >>> account = EnergyAccount()
    >>> _ = account(keras.ops.array([[1.0, 1.5], [3.0, 3.0]]))
    >>> account.measures()["drift"]
    0.25
    """

    def __init__(self, spread_floor=0.5, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.conservation = EnergyConservation(spread_floor)

        # Here and not in `build`: a callback assigns before the first batch.
        def weight(name, shape=()):
            return self.add_weight(
                shape=shape, initializer="zeros", trainable=False, name=name
            )

        self.weight = weight("weight")
        self.first_spread = weight("first_spread")
        self.totals = weight("totals", (len(TOTALS),))

    def call(self, trace):
        spread = ops.stop_gradient(initial_spread(trace))
        first = ops.convert_to_tensor(self.first_spread)
        unset = ops.logical_and(first == 0, ops.isfinite(spread))
        first = ops.where(unset, spread, first)
        self.first_spread.assign(first)
        loss = self.conservation(trace, ops.maximum(first, 1e-12))
        contribution = ops.convert_to_tensor(self.weight) * loss
        self.add_loss(contribution)
        drift = ops.mean(energy_drift(trace, ops.maximum(spread, 1e-12)))
        row = ops.stack([ops.ones(()), drift, spread, contribution])
        finite = ops.all(ops.isfinite(row))
        self.totals.assign_add(
            ops.where(finite, ops.stop_gradient(row), ops.zeros_like(row))
        )
        return trace

    def measures(self):
        """Means over the calls since `reset`, a dict of floats.

        `drift` is the mean of `max_s |E_s - E_0| / sigma`, `spread` is sigma,
        `spread_ratio` sigma over that of the very first call, `contribution`
        what was added to the loss. NaN before any call.
        """
        calls, *sums = ops.convert_to_numpy(self.totals).tolist()
        measures = {
            name: value / calls if calls else math.nan
            for name, value in zip(TOTALS[1:], sums, strict=True)
        }
        first = float(ops.convert_to_numpy(self.first_spread))
        ratio = measures["spread"] / first if first else math.nan
        return {**measures, "spread_ratio": ratio}

    def reset(self):
        """Start the means of `measures` afresh; the first spread stays."""
        self.totals.assign(ops.zeros((len(TOTALS),)))

    def compute_output_shape(self, trace_shape):
        return trace_shape

    def get_config(self):
        return {
            **super().get_config(),
            "spread_floor": self.conservation.spread_floor,
        }
