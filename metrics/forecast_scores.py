"""How good forecasts are: errors, skill, ensembles and intervals, in NumPy."""

import numpy as np


def nrmse(truth, forecast, scale):
    """Root mean square error of each step and variable, in units of `scale`.

    Args:
        truth: array `(N, H, X)`.
        forecast: array `(N, H, X)`.
        scale: array `(X,)` > 0, standard deviations of the training data.

    Returns:
        A float64 array `(H, X)`; its mean over X is the usual figure.

    Raises:
        ValueError: if shapes do not fit or the scale is not positive.

    Example:
    >>> nrmse(np.zeros((4, 2, 1)), np.full((4, 2, 1), 3.0), np.array([2.0]))
    array([[1.5],
           [1.5]])
    """
    truth, forecast, scale = _checked(truth, forecast, scale)
    return np.sqrt(np.mean(((forecast - truth) / scale) ** 2, axis=0))


def skill_score(truth, forecast, reference, scale):
    """What a forecast saves of the reference's squared error, of each step.

    `1 - sum_j MSE_j / s_j^2 / sum_j MSE_j(reference) / s_j^2`: 1 is perfect, 0
    no better than the reference (usually persistence: the last value seen).

    Args:
        truth: array `(N, H, X)`.
        forecast: array `(N, H, X)`.
        reference: array `(N, H, X)`, or `(N, 1, X)` for persistence.
        scale: array `(X,)` > 0.

    Returns:
        A float64 array `(H,)`; minus infinity where the reference alone makes
        no error.

    Example:
    >>> truth = np.arange(6.0).reshape(1, 6, 1)
    >>> skill_score(truth[:, 1:], truth[:, 1:], truth[:, :1], np.ones(1))
    array([1., 1., 1., 1., 1.])
    """
    truth, forecast, scale = _checked(truth, forecast, scale)
    reference = np.broadcast_to(np.asarray(reference, "float64"), truth.shape)
    mine, theirs = (
        np.mean(((guess - truth) / scale) ** 2, axis=0).sum(axis=-1)
        for guess in (forecast, reference)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        score = 1 - mine / theirs
    return np.where((mine == 0) & (theirs == 0), 0.0, score)


def crps(truth, ensemble):
    """Continuous ranked probability score of an ensemble, the fair form.

    `mean |x_i - y| - sum_{i,j} |x_i - x_j| / (2 M (M - 1))`, in the unit of y:
    for a single sure forecast the absolute error, and least on average for
    samples of the true distribution.

    Args:
        truth: array `(N, H, X)`.
        ensemble: array `(N, M, H, X)`, M >= 2 members.

    Returns:
        A float64 array `(H, X)`, the mean over N.

    Raises:
        ValueError: if shapes do not fit or there is one member only.

    Reference:
        - [Ferro, 2014](https://doi.org/10.1002/qj.2270)
    """
    truth, ensemble = _ensemble(truth, ensemble)
    members = ensemble.shape[1]
    error = np.abs(ensemble - truth[:, None]).mean(axis=1)
    ordered = np.sort(ensemble, axis=1)
    # The sum of all |x_i - x_j|, i < j, by rank.
    rank = 2 * np.arange(members) - (members - 1)
    spread = np.tensordot(ordered, rank.astype("float64"), (1, 0))
    return (error - spread / (members * (members - 1))).mean(axis=0)


def interval_coverage(truth, ensemble, level=0.9):
    """Share of the truth within the central interval of an ensemble.

    Args:
        truth: array `(N, H, X)`.
        ensemble: array `(N, M, H, X)`.
        level: float in (0, 1). Defaults to `0.9`.

    Returns:
        A float64 array `(H, X)`.

    Raises:
        ValueError: if shapes do not fit or the level is out of its range.
    """
    if not 0 < level < 1:
        raise ValueError(
            f"`level` must be in (0, 1). Received: level={level!r}"
        )
    truth, ensemble = _ensemble(truth, ensemble)
    low, high = central_interval(ensemble, level)
    return ((low <= truth) & (truth <= high)).mean(axis=0)


def central_interval(ensemble, level=0.9):
    """The interval in which one more member would lie `level` of the time.

    Args:
        ensemble: array `(N, M, H, X)`.
        level: float in (0, 1). Defaults to `0.9`.

    Returns:
        Two arrays `(N, H, X)`. The quantiles are those of rank `q (M + 1)`,
        which the usual ones, `q (M - 1) + 1`, are narrower than.
    """
    tail = (1 - level) / 2
    return np.quantile(ensemble, [tail, 1 - tail], axis=1, method="weibull")


def window_mean_relative_error(truth, forecast, variables):
    """Root mean square error of a window over its own mean, in per cent.

    The measure of the report that Orrery checks, kept for comparison alone: it
    is small wherever values are large, and has no bound where they cross zero.

    Args:
        truth: array `(N, H, X)`.
        forecast: array `(N, H, X)`.
        variables: indices of those averaged over; there the five of largest
            standard deviation.

    Returns:
        float, the mean over windows and variables.
    """
    truth, forecast, _ = _checked(truth, forecast, np.ones(1))
    truth, forecast = truth[..., variables], forecast[..., variables]
    error = np.sqrt(np.mean((forecast - truth) ** 2, axis=1))
    return float(100 * np.mean(error / np.abs(truth).mean(axis=1)))


def _checked(truth, forecast, scale):
    truth, forecast, scale = (
        np.asarray(x, "float64") for x in (truth, forecast, scale)
    )
    if truth.ndim != 3 or truth.shape != forecast.shape:
        raise ValueError(
            "`truth` and `forecast` must be of one shape (N, H, X). Received: "
            f"{truth.shape} and {forecast.shape}"
        )
    if scale.shape not in ((1,), truth.shape[-1:]) or not (scale > 0).all():
        raise ValueError(
            f"`scale` must be {truth.shape[-1]} numbers above 0. Received: "
            f"shape {scale.shape}"
        )
    return truth, forecast, scale


def _ensemble(truth, ensemble):
    truth, ensemble = (np.asarray(x, "float64") for x in (truth, ensemble))
    expected = truth.shape[:1] + ensemble.shape[1:2] + truth.shape[1:]
    if truth.ndim != 3 or ensemble.shape != expected or ensemble.shape[1] < 2:
        raise ValueError(
            "`truth` must be of shape (N, H, X) and `ensemble` of shape (N, M, "
            f"H, X), M at least 2. Received: {truth.shape} and "
            f"{ensemble.shape}"
        )
    return truth, ensemble
