"""How far a roll-out strays from the truth: energy, its drift, positions."""

import numpy as np

# Of a roll-out, at both ends.
WINDOW = 0.1
TINY = 1e-30


def secular_drift(energy):
    """Whether an energy along a trajectory swings, or drifts.

    Args:
        energy: array `(trajectories, points)`, of the true system, at equal
            steps of time.

    Returns:
        A dict of float64 arrays `(trajectories,)`: `error`, the largest
        `|E - E_0|`; `trend`, the slope of the straight line through E times
        the whole time, without its sign; `oscillation`, the largest minus the
        smallest distance from that line; `trend_over_oscillation`; `growth`,
        the largest `|E - E_0|` in the last tenth over that in the first.
        Infinite where the trajectory diverged.

    Example:
    >>> t = np.linspace(0, 100, 1001)
    >>> swings, drifts = np.sin(t), np.sin(t) + 0.1 * t
    >>> found = secular_drift(np.stack([swings, drifts]))
    >>> is_steady(found).tolist()
    [True, False]
    """
    energy = np.asarray(energy, "float64")
    finite = np.isfinite(energy).all(axis=-1)
    # Far outside of float32, where differences would overflow.
    finite &= np.abs(np.nan_to_num(energy)).max(axis=-1) < 1e30
    energy = np.where(finite[:, None], energy, 0.0)
    energy = energy - energy[:, :1]
    points = energy.shape[-1]
    time = np.linspace(-0.5, 0.5, points)
    trend = energy @ time / (time @ time)
    oscillation = np.ptp(energy - trend[:, None] * time, axis=-1)
    error = np.abs(energy)
    window = max(2, int(WINDOW * points))
    first, last = error[:, :window].max(-1), error[:, -window:].max(-1)
    found = {
        "error": error.max(axis=-1),
        "trend": np.abs(trend),
        "oscillation": oscillation,
        "trend_over_oscillation": np.abs(trend) / np.maximum(oscillation, TINY),
        "growth": last / np.where(first > 0, first, 1.0),
    }
    return {
        name: np.where(finite, values, np.inf) for name, values in found.items()
    }


def is_steady(drift):
    """Whether energies only swing: no secular drift.

    The trend is at most a tenth of the oscillation, and the error of the last
    tenth at most 1.1 times that of the first.

    Args:
        drift: dict, what `secular_drift` returned.

    Returns:
        Bool array `(trajectories,)`.
    """
    level = drift["trend_over_oscillation"] <= 0.1
    return level & (drift["growth"] <= 1.1) & np.isfinite(drift["error"])


def position_errors(q, truth, horizons):
    """The error of the positions at some of the steps.

    Args:
        q: array `(trajectories, points, n)`.
        truth: array of the same shape.
        horizons: sequence of int, indices of points.

    Returns:
        Float64 array `(horizons,)`, the root mean square over trajectories of
        `|q - truth|`; infinite where one has diverged.
    """
    difference = np.asarray(q, "float64") - truth
    square = np.sum(difference[:, list(horizons)] ** 2, axis=-1)
    error = np.sqrt(square.mean(axis=0))
    return np.where(np.isfinite(error), error, np.inf)
