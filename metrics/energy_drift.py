"""How much energy drifts along trajectories, against what could be had."""

import math

import keras
from keras import ops

from .._checks import check_real


@keras.saving.register_keras_serializable(package="orrery")
class EnergyDrift(keras.metrics.Metric):
    """Mean of `max_s |E_s - E_0|` in units of the spread of `E_0` over inputs.

    A drift in units of energy can be made small by making all energies alike,
    so it is divided by their standard deviation `sigma`, over every trajectory
    since the last reset. Two controls come with it: the ratio of `sigma` to a
    reference, for energies that collapse, and the drift as a fraction of the
    difference between two unrelated trajectories, which is near 1 where energy
    says nothing about the trajectory (for Gaussian energies that difference is
    `2 / sqrt(pi) sigma` on average).

    Args:
        reference_spread: float > 0 or `None`, `sigma` at initialisation.
            Defaults to `None`.
        spread_floor: float in `[0, 1]`, the ratio to the reference below which
            energies count as collapsed. Defaults to `0.5`.
        name: str. Defaults to `"energy_drift"`.
        dtype: float dtype of the sums. Defaults to `"float32"`.

    Call arguments:
        y_true: not used: energies have no targets.
        y_pred: float tensor `(..., S + 1)`, energies along trajectories, S > 0.
        sample_weight: `(...)` or the leading axes of it; 1 by default.

    Returns:
        `result()`: the drift, a scalar; 0 before any trajectory was seen, NaN
        or infinite where all energies are equal. `results()` adds the controls.

    Raises:
        ValueError: if an argument is out of its range, or a trace has fewer
            than two energies.

    Example:
    >>> metric = EnergyDrift()
    >>> metric.update_state(None, [[1.0, 1.5], [3.0, 3.0]])
    >>> float(metric.result())  # 0.25 on average, and a spread of 1
    0.25

    Reference:
        - [Chan, Golub, LeVeque, 1983](https://doi.org/10.1080/00031305.1983.10483115),
          the spread, batch by batch.
    """

    def __init__(
        self,
        reference_spread=None,
        spread_floor=0.5,
        name="energy_drift",
        dtype="float32",
        **kwargs,
    ):
        super().__init__(name=name, dtype=dtype, **kwargs)
        if reference_spread is not None:
            check_real(
                "reference_spread",
                reference_spread,
                "above 0, or None",
                lambda spread: spread > 0,
            )
        check_real(
            "spread_floor", spread_floor, "in [0, 1]", lambda f: 0 <= f <= 1
        )
        self.reference_spread = reference_spread
        self.spread_floor = spread_floor
        for sum_name in (
            "count",
            "mean",
            "squares",
            "excursion",
            "pairs",
            "pair_difference",
        ):
            variable = self.add_weight(
                shape=(), initializer="zeros", dtype=self.dtype, name=sum_name
            )
            setattr(self, sum_name, variable)

    def update_state(self, y_true, y_pred, sample_weight=None):
        trace = ops.cast(ops.convert_to_tensor(y_pred), self.dtype)
        if not trace.shape or trace.shape[-1] < 2:
            raise ValueError(
                "`y_pred` must hold energies (..., S + 1) with S > 0. "
                f"Received: shape {tuple(trace.shape)}"
            )
        start = trace[..., 0]
        weight = ops.ones_like(start)
        if sample_weight is not None:
            given = ops.cast(ops.convert_to_tensor(sample_weight), self.dtype)
            while len(given.shape) < len(start.shape):
                given = ops.expand_dims(given, -1)
            for axis, (size, other) in enumerate(
                zip(given.shape, start.shape, strict=True)
            ):
                if None not in (size, other) and size not in (1, other):
                    raise ValueError(
                        "`sample_weight` must have the leading axes of "
                        f"`y_pred`, whose axis {axis} is {other} long. "
                        f"Received: shape {tuple(given.shape)}"
                    )
            weight = weight * given
        start, weight = ops.reshape(start, (-1,)), ops.reshape(weight, (-1,))
        excursion = ops.max(ops.abs(trace - trace[..., :1]), axis=-1)
        self.excursion.assign_add(
            ops.sum(ops.reshape(excursion, (-1,)) * weight)
        )
        # Half a batch away lies a trajectory of another sequence, where there
        # is one, and where there is one trajectory, that one.
        shift = ops.shape(start)[0] // 2
        pair_weight = weight * ops.roll(weight, shift)
        pair_weight = pair_weight * ops.cast(shift > 0, self.dtype)
        difference = ops.abs(start - ops.roll(start, shift))
        self.pairs.assign_add(ops.sum(pair_weight))
        self.pair_difference.assign_add(ops.sum(pair_weight * difference))
        self._merge(start, weight)

    def _merge(self, start, weight):
        """Chan's update: energies may lie far from zero, in float32."""
        count = ops.sum(weight)
        mean = ops.divide_no_nan(ops.sum(start * weight), count)
        squares = ops.sum(weight * ops.square(start - mean))
        before = ops.convert_to_tensor(self.count)
        step = mean - self.mean
        total = before + count
        self.squares.assign_add(
            squares
            + ops.divide_no_nan(ops.square(step) * before * count, total)
        )
        self.mean.assign_add(ops.divide_no_nan(step * count, total))
        self.count.assign(total)

    def _spread(self):
        return ops.sqrt(
            ops.divide_no_nan(
                ops.convert_to_tensor(self.squares),
                ops.convert_to_tensor(self.count),
            )
        )

    def result(self):
        count = ops.convert_to_tensor(self.count)
        mean = ops.divide_no_nan(ops.convert_to_tensor(self.excursion), count)
        # Equal energies must not look like kept ones.
        return ops.where(count > 0, mean / self._spread(), 0.0)

    def results(self):
        """The drift and its controls.

        Returns:
            dict of floats: `drift`, as `result()` but NaN before anything was
            seen; `spread`, sigma; `spread_ratio`, over the reference (NaN
            without one); `shuffled_ratio`, the drift over that of unrelated
            pairs, NaN where there is nothing to divide by.
        """
        spread = float(self._spread())
        pairs = float(ops.convert_to_tensor(self.pairs))
        difference = float(ops.convert_to_tensor(self.pair_difference))
        count = float(ops.convert_to_tensor(self.count))
        excursion = float(ops.convert_to_tensor(self.excursion))
        unrelated = difference / pairs if pairs else 0.0
        mean = excursion / count if count else 0.0
        reference = self.reference_spread
        return {
            "drift": float(self.result()) if count else math.nan,
            "spread": spread,
            "spread_ratio": spread / reference if reference else math.nan,
            "shuffled_ratio": mean / unrelated if unrelated else math.nan,
        }

    @property
    def collapsed(self):
        """Whether the spread fell below the floor, or is not finite.

        Raises:
            ValueError: if there is no `reference_spread` to compare with.
        """
        if self.reference_spread is None:
            raise ValueError(
                "`collapsed` compares with the spread at initialisation: give "
                "`reference_spread`. Received: reference_spread=None"
            )
        least = self.spread_floor * self.reference_spread
        return not least <= float(self._spread()) < math.inf

    def get_config(self):
        return {
            **super().get_config(),
            "reference_spread": self.reference_spread,
            "spread_floor": self.spread_floor,
        }
