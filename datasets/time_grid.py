"""Points at equal steps of time."""

import numpy as np

# How far a point may lie from its place, in steps: a clock's jitter, or times
# that were written with few digits.
UNEVEN = 0.02


def time_step(data):
    """The time between two points of trajectories, a float.

    Args:
        data: dict with `t` `(trajectories, points)` and perhaps `length`
            `(trajectories,)`, as `simulate` and `read_trajectories` give them.
    """
    steps = np.diff(np.asarray(data["t"], "float64"), axis=-1)
    if "length" in data:
        last = np.asarray(data["length"])[:, None] - 1
        steps = steps[np.arange(steps.shape[-1]) < last]
    return float(np.mean(steps))


def off_grid(t, step, rows=None):
    """What is wrong with the times of a trajectory, or `""`.

    Args:
        t: float array `(points,)`, two points at least.
        step: float > 0, the step wanted.
        rows: sequence of ints, the rows of a file in which the points stand.
            Defaults to `None`: points are counted from 0.

    Returns:
        str: the first point that is not later than the one before, or the step
        of the trajectory if it is even but not the one wanted, or the first
        point that is not one usual step after the one before.
    """

    def place(k):
        return f"at point {k}" if rows is None else f"in row {rows[k]}"

    steps = np.diff(t)
    falls = np.flatnonzero(steps <= 0)
    if len(falls):
        k = int(falls[0]) + 1
        return f"t={t[k]:.10g} {place(k)} after t={t[k - 1]:.10g}"
    own = (t[-1] - t[0]) / (len(t) - 1)
    grid = t[0] + own * np.arange(len(t))
    far = np.abs(t - grid) > UNEVEN * step
    if not far.any():
        return f"steps of {own:g}" if abs(own - step) > UNEVEN * step else ""
    # One missing point stretches the whole grid, but not the usual step. Two
    # neighbours may each be out of place by what is allowed.
    usual = np.median(steps)
    uneven = np.flatnonzero(np.abs(steps - usual) > 2 * UNEVEN * usual)
    if len(uneven):
        k = int(uneven[0]) + 1
        expected = t[k - 1] + usual
    else:
        k = int(np.argmax(far))
        expected = grid[k]
    return f"t={t[k]:.10g} {place(k)}, where {expected:.10g} would stand"
