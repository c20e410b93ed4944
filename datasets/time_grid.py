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


def off_grid(t, step):
    """What is wrong with the times of a trajectory, or `""`.

    Args:
        t: float array `(points,)`, two points at least.
        step: float > 0, the step wanted.

    Returns:
        str: the first point that is not later than the one before, or the
        step of the trajectory if it is not the one wanted, or the point
        farthest from the grid of that step.
    """
    falls = np.flatnonzero(np.diff(t) <= 0)
    if len(falls):
        k = int(falls[0])
        return f"t={t[k + 1]:g} at point {k + 1} after t={t[k]:g}"
    own = (t[-1] - t[0]) / (len(t) - 1)
    if abs(own - step) > UNEVEN * step:
        return f"steps of {own:g}"
    grid = t[0] + own * np.arange(len(t))
    far = np.abs(t - grid)
    k = int(np.argmax(far))
    if far[k] > UNEVEN * step:
        return f"t={t[k]:g} at point {k}, where {grid[k]:g} would stand"
    return ""
