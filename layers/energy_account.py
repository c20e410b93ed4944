"""What a network's energies did in training, and the loss on them."""

import math

import keras
from keras import ops

from .._checks import check_real
from ..losses.energy_conservation import (
    LEAST_RATIO,
    EnergyConservation,
    energy_drift,
    initial_spread,
)

TOTALS = ("calls", "measured", "drift", "spread", "contribution")


@keras.saving.register_keras_serializable(package="orrery")
class EnergyAccount(keras.layers.Layer):
    """Measures traces of energy and adds `weight` times their loss.

    The weight is a scalar that a callback may assign (`LagrangeMultiplier`),
    never the optimizer; the loss is `EnergyConservation`. Sums of what was
    measured stay until `reset`. The first training batch sets the spread that
    later ones are compared with.

    A batch of a single trajectory, which has no spread, is left out of
    everything; one that is not finite, of the sums, while the loss it adds is
    not finite either, so that a guard can skip the step. One whose energies are
    all alike (see the loss) has no drift, but counts in the spread.

    Args:
        weight: float >= 0, the weight of the loss. Defaults to `0`.
        spread_floor: float, see `EnergyConservation`. Defaults to `0.5`.

    Call arguments:
        trace: float tensor `(..., S + 1)` of energies.

    Returns:
        The trace.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
    >>> account = EnergyAccount()
    >>> _ = account(keras.ops.array([[1.0, 1.5], [3.0, 3.0]]))
    >>> account.measures()["drift"]
    0.25

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563)
        - [Platt and Barr, 1987](https://papers.nips.cc/paper/1987/hash/a87ff679a2f3e71d9181a67b7542122c-Abstract.html),
          what moves the weight.
    """

    def __init__(self, weight=0.0, spread_floor=0.5, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        check_real("weight", weight, "from 0 on", lambda w: w >= 0)
        self.given_weight = weight
        self.conservation = EnergyConservation(spread_floor)

        # Here and not in `build`: a callback assigns before the first batch.
        def state(name, shape=(), value=0.0):
            return self.add_weight(
                shape=shape,
                initializer=keras.initializers.Constant(value),
                trainable=False,
                name=name,
            )

        self.weight = state("weight", value=weight)
        self.first_spread = state("first_spread")
        self.totals = state("totals", (len(TOTALS),))

    def call(self, trace):
        spread = ops.stop_gradient(initial_spread(trace))
        several = math.prod(ops.shape(trace)[:-1]) > 1
        usable = ops.logical_and(several, ops.isfinite(spread))
        first = ops.convert_to_tensor(self.first_spread)
        first = ops.where(ops.logical_and(first == 0, usable), spread, first)
        self.first_spread.assign(first)
        loss = self.conservation(trace, ops.maximum(first, 1e-12))
        contribution = ops.convert_to_tensor(self.weight) * loss
        contribution = ops.where(several, contribution, 0.0)
        self.add_loss(contribution)
        least = ops.maximum(LEAST_RATIO * first, 1e-12)
        measured = ops.cast(spread >= least, "float32")
        drift = ops.mean(energy_drift(trace, ops.maximum(spread, least)))
        row = ops.stack(
            [ops.ones(()), measured, measured * drift, spread, contribution]
        )
        usable = ops.logical_and(usable, ops.all(ops.isfinite(row)))
        self.totals.assign_add(
            ops.where(usable, ops.stop_gradient(row), ops.zeros_like(row))
        )
        return trace

    def measures(self):
        """Means over the calls since `reset`, a dict of floats.

        `drift` is the mean of `max_s |E_s - E_0| / sigma`, `spread` is sigma,
        `spread_ratio` sigma over that of the very first call, `contribution`
        what was added to the loss. NaN where nothing was measured.
        """
        totals = ops.convert_to_numpy(self.totals).tolist()
        sums = dict(zip(TOTALS, totals, strict=True))
        calls = sums["calls"] or math.nan
        spread = sums["spread"] / calls
        first = float(ops.convert_to_numpy(self.first_spread))
        return {
            "drift": sums["drift"] / (sums["measured"] or math.nan),
            "spread": spread,
            "spread_ratio": spread / (first or math.nan),
            "contribution": sums["contribution"] / calls,
        }

    def reset(self):
        """Start the means of `measures` afresh; the first spread stays."""
        self.totals.assign(ops.zeros((len(TOTALS),)))

    def compute_output_shape(self, trace_shape):
        return trace_shape

    def get_config(self):
        return {
            **super().get_config(),
            "weight": self.given_weight,
            "spread_floor": self.conservation.spread_floor,
        }
