"""Thresholds with a promise: how much leaving early may cost, at most."""

import bisect
import functools
import math
import numbers

import numpy as np

from .._checks import check_integer, check_real

METHODS = ("ltt", "crc", "quantile")
BOUNDS = ("hb", "wsr")
KINDS = ("disagree", "excess_nll")
CLIP = 0.25


def window_losses(confidences, losses, thresholds):
    """Mean loss of a window under each threshold.

    `L_i(t) = mean_n 1[c_in >= t] l_in`: who stays costs nothing.

    Args:
        confidences: float array `(n, N)`, of the tokens of n windows.
        losses: float array `(n, N)`, what leaving costs each of them.
        thresholds: float array `(T,)`.

    Returns:
        float64 array `(T, n)`.
    """
    confidences = np.asarray(confidences, "float64")
    losses = np.asarray(losses, "float64")
    return np.stack(
        [np.where(confidences >= t, losses, 0).mean(1) for t in thresholds]
    )


def fixed_thresholds(count):
    """`1 - (k / (count - 1))^2`, k = 0, 1, ...: the denser, the nearer to 1."""
    check_integer("thresholds", count, 2)
    return 1 - np.linspace(0, 1, count) ** 2


def hoeffding_bentkus(losses, alpha):
    """P-value of `E L > alpha`, from independent losses in [0, 1].

    `min(exp(-n h(min(r, alpha), alpha)), e P(Bin(n, alpha) <= ceil(n r)))`,
    r being their mean and h the divergence of two coins.
    """
    n, mean = len(losses), float(np.mean(losses))
    a = min(mean, alpha)
    divergence = (0 if a == 0 else a * math.log(a / alpha)) + (
        0 if a == 1 else (1 - a) * math.log((1 - a) / (1 - alpha))
    )
    hoeffding = math.exp(-n * divergence)
    # A mean like 0.1 + 0.2 must not count as one loss more.
    bentkus = math.e * _binomial(math.ceil(n * mean - 1e-9), n, alpha)
    return min(1.0, hoeffding, float(bentkus))


def _binomial(k, n, p):
    try:
        from scipy.stats import binom
    except ModuleNotFoundError as error:
        raise ImportError(
            'SciPy is not installed. Run: pip install "orrery[science]"'
        ) from error
    return binom.cdf(k, n, p)


def waudby_smith_ramdas(losses, alpha, delta):
    """P-value of `E L > alpha` by betting, from losses in [0, 1], in order.

    `1 / max_i prod_{j <= i} (1 - v_j (L_j - alpha))` with stakes v_j that look
    at earlier losses only, the smaller the more these vary.
    """
    losses = np.asarray(losses, "float64")
    count = np.arange(1, len(losses) + 1)
    mean = (0.5 + np.cumsum(losses)) / (count + 1)
    variance = (0.25 + np.cumsum((losses - mean) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    stake = np.minimum(
        1, np.sqrt(2 * math.log(1 / delta) / (len(losses) * before))
    )
    # The stakes are below 1 / (1 - alpha), so capital stays positive.
    capital = np.cumsum(np.log1p(-stake * (losses - alpha)))
    return float(min(1.0, math.exp(-max(0.0, capital.max()))))


def calibrate_threshold(
    confidences,
    losses,
    alpha,
    delta=0.02,
    method="ltt",
    bound="hb",
    thresholds=200,
    kind="disagree",
):
    """The lowest threshold whose risk is at most `alpha`, as far as one knows.

    The unit is a window of text, never a token: tokens of a text depend on
    each other. The risk `R(t) = E L(t)` is that of `window_losses`.

    Args:
        confidences: float array `(n, N)` in [0, 1], of text that neither the
            model nor its confidence was fitted to.
        losses: float array `(n, N)`, what leaving costs each token: for
            `kind="disagree"` 0 or 1, whether the exit's choice is another than
            the last one's; for `"excess_nll"` the nats by which its loss is
            higher, of which window means are clipped to +-0.25. Or a function
            from a threshold to such an array, of all tokens, for a network
            in which who leaves changes what the others see.
        alpha: float in (0, 1), the largest risk; for `"excess_nll"` in nats,
            below 0.25.
        delta: float in (0, 1), of `"ltt"`: how often the risk may be higher
            than alpha, over calibration sets. Defaults to `0.02`.
        method: `"ltt"`, learn then test: from the highest threshold down, each
            is tested, and the first that fails ends it. `R > alpha` has
            probability at most delta, for any losses. `"crc"`, conformal risk
            control: `n / (n + 1) R + 1 / (n + 1) <= alpha`, of which the
            expectation is at most alpha, for losses that no exit of another
            token changes, and that only grow as more leave: `"disagree"`.
            `"quantile"`, alpha is the share that goes on, and nothing is
            promised.
        bound: of `"ltt"`: `"hb"` (Hoeffding and Bentkus), `"wsr"` (betting,
            tighter where losses vary little). Defaults to `"hb"`.
        thresholds: int, how many are tried, see `fixed_thresholds`; or an
            array of them that was chosen without a look at these confidences,
            for the promise is for levels that were there before. Defaults to
            `200`.
        kind: what the losses are. Defaults to `"disagree"`.

    Returns:
        A dict: `threshold`, or `None` where none passes at which anybody
        leaves; `feasible`, whether one does; `alpha`, `delta`, `n`,
        `exit_rate`, `empirical_risk` (of means that are clipped where those
        that are promised are) and `p_value` at the threshold.

    Raises:
        ValueError: if an argument is out of its range, or if n windows without
            any loss would be too few for `alpha`: says how many are needed.

    Example:
    >>> confidences = np.linspace(0, 1, 400)[:, None]
    >>> losses = 1.0 * (confidences < 0.5)
    >>> found = calibrate_threshold(confidences, losses, alpha=0.05)
    >>> 0.45 < found["threshold"] < 0.5
    True

    Reference:
        - [Angelopoulos et al., 2021](https://arxiv.org/abs/2110.01052)
        - [Angelopoulos et al., 2022](https://arxiv.org/abs/2208.02814)
        - [Bates et al., 2021](https://arxiv.org/abs/2101.02703), the bound.
        - [Waudby-Smith and Ramdas, 2020](https://arxiv.org/abs/2010.09686)
    """
    confidences = np.asarray(confidences, "float64")
    _check_choices(method=method, bound=bound, kind=kind)

    def of_windows(level):
        if callable(losses):
            given = np.asarray(losses(level), "float64")
            _check_arrays(confidences, given, kind)
            return given.mean(axis=1)
        return window_losses(confidences, losses, [level])[0]

    if not callable(losses):
        _check_arrays(confidences, np.asarray(losses, "float64"), kind)
    # A risk that is clipped cannot be told from a larger one.
    most = 1 if kind == "disagree" else CLIP
    for name, value, top in (("alpha", alpha, most), ("delta", delta, 1)):
        check_real(
            name, value, f"between 0 and {top}", lambda a, top=top: 0 < a < top
        )
    if method == "crc" and kind == "excess_nll":
        raise ValueError(
            "`method='crc'` needs losses that only grow as more leave, which "
            "kind='excess_nll' does not have: use method='ltt'."
        )
    n = len(confidences)
    if method == "quantile":
        level = float(np.quantile(confidences, alpha))
        means = of_windows(level)
        return _result(level, confidences, means, alpha, kind)

    def passes(means):
        unit, target = _unit_losses(means, alpha, kind)
        if method == "crc":
            return (unit.sum() + 1) / (len(unit) + 1) <= target, None
        p = (
            hoeffding_bentkus(unit, target)
            if bound == "hb"
            else waudby_smith_ramdas(unit, target, delta)
        )
        return p <= delta, p

    _require_enough(n, passes, alpha, delta, method)
    if isinstance(thresholds, numbers.Integral):
        thresholds = fixed_thresholds(thresholds)
    levels = np.atleast_1d(np.asarray(thresholds, "float64"))
    if levels.ndim != 1 or not levels.size or not _within(levels):
        raise ValueError(
            "`thresholds` must be a number of them, or an array of numbers in "
            f"[0, 1]. Received: {thresholds!r}"
        )
    found, risk, p_value = None, np.zeros(n), None
    for level in np.unique(levels)[::-1]:
        means = of_windows(level)
        passed, p = passes(means)
        if not passed:
            break
        if (confidences >= level).any():
            found, risk, p_value = float(level), means, p
    delta = delta if method == "ltt" else None
    return _result(found, confidences, risk, alpha, kind, delta, p_value)


def risk_resampling(
    confidences,
    losses,
    alpha,
    resamples=100,
    fraction=0.5,
    seed=0,
    groups=None,
    **options,
):
    """How often a calibrated threshold keeps its promise on other windows.

    Args:
        confidences: as those of `calibrate_threshold`, which is run on one
            part of the windows, drawn anew each time; the rest judges it.
        losses: likewise; a function is asked once for each threshold.
        alpha: float, the largest risk.
        resamples: int, how many draws. Defaults to `100`.
        fraction: float in (0, 1), the part to calibrate on. Defaults to `0.5`.
        seed: int. Defaults to `0`.
        groups: int array `(n,)`, which of them stay together: the articles of
            a text, say, whose windows depend on each other. What calibrates is
            then `fraction` of the groups, and what is promised for windows
            drawn alike is only tried. `None`: each window is drawn by itself.
        **options: further arguments of `calibrate_threshold`.

    Returns:
        A dict of arrays, an entry per draw: `threshold` (NaN: none), `risk`
        and `exit_rate` on the other windows, 0 without a threshold.
    """
    confidences = np.asarray(confidences, "float64")
    under = losses
    kind = options.get("kind", "disagree")
    if not callable(losses):
        losses = np.asarray(losses, "float64")
        _check_arrays(confidences, losses, kind)

        def under(level):
            return np.where(confidences >= level, losses, 0.0)

    under = functools.lru_cache(None)(under)
    check_real("fraction", fraction, "between 0 and 1", lambda f: 0 < f < 1)
    check_integer("resamples", resamples, 1)
    random = np.random.default_rng(seed)
    n = len(confidences)
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(
            f"`groups` must name a group for each of the {n} windows. "
            f"Received: shape {groups.shape}"
        )
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    size = round(fraction * len(members))
    if not 0 < size < len(members):
        raise ValueError(
            "`groups` and `fraction` must leave some of the windows to "
            f"calibrate on and some to judge. Received: {len(members)} groups, "
            f"fraction={fraction}"
        )
    rows = []
    for _ in range(resamples):
        order = random.permutation(len(members))
        inside, outside = (
            np.concatenate([members[place] for place in part])
            for part in (order[:size], order[size:])
        )
        level = calibrate_threshold(
            confidences[inside],
            lambda level, inside=inside: under(float(level))[inside],
            alpha,
            **options,
        )["threshold"]
        means = np.zeros(len(outside))
        if level is not None:
            means = np.mean(under(level)[outside], axis=1)
        kept = _result(level, confidences[outside], means, alpha, kind)
        rows.append(
            (
                math.nan if level is None else level,
                kept["empirical_risk"],
                kept["exit_rate"],
            )
        )
    names = "threshold", "risk", "exit_rate"
    return dict(zip(names, np.array(rows).T, strict=True))


def _clipped(means, kind):
    return means if kind == "disagree" else np.clip(means, -CLIP, CLIP)


def _unit_losses(means, alpha, kind):
    """Losses and their target, in [0, 1]."""
    if kind == "disagree":
        return means, alpha
    means = _clipped(means, kind)
    return (means + CLIP) / (2 * CLIP), (alpha + CLIP) / (2 * CLIP)


def _within(values):
    return bool(((values >= 0) & (values <= 1)).all())


def _result(level, confidences, means, alpha, kind, delta=None, p_value=None):
    left = 0.0 if level is None else float((confidences >= level).mean())
    return {
        "threshold": level,
        "feasible": level is not None,
        "alpha": alpha,
        "delta": delta,
        "n": len(confidences),
        "exit_rate": left,
        "empirical_risk": float(np.mean(_clipped(means, kind))),
        "p_value": p_value,
    }


def _check_choices(**given):
    allowed = {"method": METHODS, "bound": BOUNDS, "kind": KINDS}
    for name, value in given.items():
        if value not in allowed[name]:
            raise ValueError(
                f"`{name}` must be one of {allowed[name]}. Received: {value!r}"
            )


def _check_arrays(confidences, losses, kind):
    if confidences.ndim != 2 or confidences.shape != losses.shape:
        raise ValueError(
            "`confidences` and `losses` must be arrays (windows, tokens) of "
            f"one shape. Received: {confidences.shape} and {losses.shape}"
        )
    if not np.isfinite(losses).all() or not np.isfinite(confidences).all():
        raise ValueError("`confidences` and `losses` must be finite.")
    if not _within(confidences):
        raise ValueError(
            "`confidences` must be in [0, 1]. Received: "
            f"{confidences.min()} to {confidences.max()}"
        )
    if kind == "disagree" and not _within(losses):
        raise ValueError(
            "`losses` must be in [0, 1] for kind='disagree'. Received: "
            f"{losses.min()} to {losses.max()}"
        )


def _require_enough(n, passes, alpha, delta, method):
    """Could windows without any loss tell that the risk is below alpha?"""

    def enough(count):
        return passes(np.zeros(count))[0]

    if not enough(n):
        # The more windows, the more they can tell.
        needed = max(1, 2 * n)
        while not enough(needed):
            needed *= 2
        needed = bisect.bisect_left(range(needed), True, lo=n, key=enough)
        raise ValueError(
            f"`confidences` must have at least {needed} windows for "
            f"alpha={alpha}"
            + (f" and delta={delta}" if method == "ltt" else "")
            + ": give more text to calibrate on, cut it into shorter windows, "
            f"or allow a higher risk. Received: {n} windows"
        )
