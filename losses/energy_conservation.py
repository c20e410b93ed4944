"""How far the energy of a trajectory strays from its initial value."""

import numbers

import keras
from keras import ops

from .._checks import check_real

# Energies closer together than this part of their first spread are all alike:
# there is no unit to measure an error in.
LEAST_RATIO = 1e-3


def initial_spread(trace):
    """Standard deviation of the initial energies over all trajectories."""
    return ops.std(ops.cast(trace, "float32")[..., 0])


def energy_drift(trace, spread):
    """`max_s |E_s - E_0| / spread` of each trajectory, `(...)`."""
    trace = ops.cast(trace, "float32")
    return ops.max(ops.abs(trace - trace[..., :1]), axis=-1) / spread


@keras.saving.register_keras_serializable(package="orrery")
class EnergyConservation:
    """Mean squared energy error in units of the spread over inputs.

    `L = mean ((E_s - E_0) / sigma)^2 + max(0, floor - sigma / sigma_init)^2`,
    the mean over trajectories and steps s = 1 ... S, `sigma` the standard
    deviation of `E_0` over the trajectories of the batch. The gradient flows
    through `sigma`, so the first term does not change under `E -> a E + b`:
    shrinking the energy scale is not rewarded. Energies of different inputs are
    never asked to agree; the second term, which needs the spread at
    initialisation, resists their collapse to one value. Where `sigma` is less
    than a thousandth of `sigma_init`, the first term is left out.

    Args:
        spread_floor: float in `[0, 1]`, the fraction of the initial spread
            below which the second term sets in. Defaults to `0.5`.

    Call arguments:
        trace: float tensor `(..., S + 1)` of energies, one axis or more of
            trajectories, S >= 1.
        initial: scalar `sigma_init`, or `None` for no second term.

    Returns:
        Scalar float32 tensor.

    Raises:
        ValueError: if `spread_floor` is out of its range, or a trace has no
            axis of trajectories, fewer than two energies or, with no
            `initial`, one trajectory alone; or if `initial` is no scalar above
            0.

    Example:
    >>> loss = EnergyConservation()
    >>> trace = keras.ops.array([[1.0, 1.5], [3.0, 3.0]])  # spread 1
    >>> float(loss(trace))
    0.125
    """

    def __init__(self, spread_floor=0.5):
        check_real(
            "spread_floor", spread_floor, "in [0, 1]", lambda f: 0 <= f <= 1
        )
        self.spread_floor = spread_floor

    def __call__(self, trace, initial=None):
        trace = ops.cast(ops.convert_to_tensor(trace), "float32")
        if (
            len(trace.shape) < 2
            or trace.shape[-1] in (0, 1)
            or (initial is None and set(trace.shape[:-1]) == {1})
        ):
            raise ValueError(
                "`trace` must hold energies (..., S + 1) of several "
                f"trajectories, S > 0. Received: shape {tuple(trace.shape)}"
            )
        if isinstance(initial, numbers.Real):
            check_real("initial", initial, "above 0", lambda spread: spread > 0)
        elif initial is not None and len(ops.shape(initial)):
            raise ValueError(
                "`initial` must be the scalar spread at initialisation, or "
                f"None: this is no loss for `compile`. Received: {initial!r}"
            )
        start = trace[..., 0]
        error = ops.mean(ops.square(trace[..., 1:] - start[..., None]))
        # Of equal energies a spread would have no gradient.
        variance = ops.maximum(ops.var(start), 1e-24)
        if initial is None:
            return error / variance
        ratio = ops.sqrt(variance) / initial
        least = ops.square(LEAST_RATIO * initial)
        loss = ops.where(
            ratio < LEAST_RATIO, 0.0, error / ops.maximum(variance, least)
        )
        return loss + ops.square(ops.maximum(self.spread_floor - ratio, 0.0))

    def get_config(self):
        return {"spread_floor": self.spread_floor}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
