"""Promises about risk: closed cases, and how often they are broken."""

import math

import numpy as np
import pytest
from orrery.metrics import calibrate_threshold, risk_control, risk_resampling
from orrery.metrics.risk_control import (
    hoeffding_bentkus,
    waudby_smith_ramdas,
    window_losses,
)

pytest.importorskip("scipy")


def text(windows, tokens=16, seed=0):
    """Windows in which an unsure token is wrong more often.

    A token of confidence c is wrong with probability 0.4 (1 - c), windows
    differ in how hard they are; `R(t)` is known: see `true_risk`.
    """
    random = np.random.default_rng(seed)
    hard = random.uniform(0.5, 1.5, (windows, 1))
    confidence = random.uniform(size=(windows, tokens))
    wrong = random.uniform(size=confidence.shape)
    return confidence, (wrong < 0.4 * hard * (1 - confidence)).astype(float)


def true_risk(threshold):
    """`E 1[c >= t] 0.4 (1 - c) = 0.2 (1 - t)^2`."""
    return 0.0 if threshold is None else 0.2 * (1 - threshold) ** 2


def test_losses_of_windows():
    confidences = np.array([[0.1, 0.9], [0.5, 0.5]])
    losses = np.array([[1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(
        window_losses(confidences, losses, [0.0, 0.5, 0.9, 2.0]),
        [[0.5, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]],
    )


@pytest.mark.parametrize("n, alpha", [(50, 0.05), (390, 0.01)])
def test_p_values_without_a_loss(n, alpha):
    zeros = np.zeros(n)
    expected = (1 - alpha) ** n
    assert hoeffding_bentkus(zeros, alpha) == pytest.approx(expected)
    # The bet's stakes do not depend on what they have not seen yet.
    p = waudby_smith_ramdas(zeros, alpha, 0.02)
    assert 0 < p < 1
    assert hoeffding_bentkus(np.full(n, alpha), alpha) == 1.0
    assert hoeffding_bentkus(np.ones(n), alpha) == 1.0


def test_betting_by_hand():
    losses, alpha, delta = np.array([0.0, 1.0, 0.0]), 0.5, 0.1
    capital, most, mean_sum, square_sum = 1.0, 1.0, 0.5, 0.25
    variance = 0.25
    for j, loss in enumerate(losses, 1):
        stake = min(1, math.sqrt(2 * math.log(1 / delta) / (3 * variance)))
        capital *= 1 - stake * (loss - alpha)
        most = max(most, capital)
        mean_sum += loss
        mean = mean_sum / (j + 1)
        square_sum += (loss - mean) ** 2
        variance = square_sum / (j + 1)
    p = waudby_smith_ramdas(losses, alpha, delta)
    assert p == pytest.approx(1 / most)


def test_binomial_tail_by_hand():
    # Two losses in ten windows at alpha = 0.5: Bentkus beats Hoeffding? The
    # smaller of the two counts, and both are known.
    losses = np.array([1.0, 1.0] + [0.0] * 8)
    tail = math.e * sum(math.comb(10, k) for k in range(3)) / 2**10
    divergence = 0.2 * math.log(0.4) + 0.8 * math.log(1.6)
    expected = min(tail, math.exp(-10 * divergence))
    assert hoeffding_bentkus(losses, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize("bound, trials", [("hb", 2000), ("wsr", 400)])
def test_promise_of_learn_then_test(bound, trials):
    alpha, delta = 0.05, 0.1
    broken, found = 0, 0
    for seed in range(trials):
        result = calibrate_threshold(
            *text(400, seed=seed), alpha, delta, bound=bound, thresholds=50
        )
        broken += true_risk(result["threshold"]) > alpha
        found += result["feasible"]
    # Three deviations of a binomial above delta.
    limit = delta + 3 * math.sqrt(delta * (1 - delta) / trials)
    assert broken / trials <= limit
    assert found > 0.9 * trials


def test_promise_of_conformal_risk_control():
    alpha = 0.05
    risks = [
        true_risk(
            calibrate_threshold(*text(100, seed=seed), alpha, method="crc")[
                "threshold"
            ]
        )
        for seed in range(300)
    ]
    error = np.std(risks) / math.sqrt(len(risks))
    assert np.mean(risks) <= alpha + 3 * error
    assert np.mean(risks) > 0.5 * alpha


def test_quantile_is_numpys():
    confidences, losses = text(50)
    result = calibrate_threshold(confidences, losses, 0.3, method="quantile")
    assert result["threshold"] == np.quantile(confidences, 0.3)
    assert result["exit_rate"] == pytest.approx(0.7, abs=0.01)


def test_excess_may_be_negative():
    random = np.random.default_rng(0)
    confidences = random.uniform(size=(2000, 16))
    excess = 0.3 * (0.5 - confidences) + 0.1 * random.normal(size=(2000, 16))
    options = {"kind": "excess_nll", "bound": "wsr"}
    result = calibrate_threshold(confidences, excess, 0.01, **options)
    # E 1[c >= t] 0.3 (1/2 - c) = 0.15 (t^2 - t): at no threshold above 0.
    assert result["feasible"] and result["threshold"] < 0.01
    result = calibrate_threshold(confidences, -excess, 0.02, **options)
    level = result["threshold"]
    assert 0.15 * (level - level**2) <= 0.02
    assert level > 0.7


def test_the_risk_told_is_the_one_that_is_promised():
    """A few windows that lose much: their means count as 0.25."""
    confidences = np.ones((400, 4))
    excess = np.zeros((400, 4))
    excess[:40] = 2.0
    options = {"kind": "excess_nll", "bound": "wsr"}
    result = calibrate_threshold(confidences, excess, 0.1, **options)
    assert result["feasible"] and result["empirical_risk"] == 0.025
    drawn = risk_resampling(confidences, excess, 0.1, resamples=20, **options)
    assert drawn["risk"].max() <= 0.1


def test_losses_may_depend_on_the_threshold():
    confidences, losses = text(400)
    asked = []

    def under(threshold):
        asked.append(threshold)
        return np.where(confidences >= threshold, losses, 0)

    expected = calibrate_threshold(confidences, losses, 0.05)
    assert calibrate_threshold(confidences, under, 0.05) == expected
    # From the highest down, and none after the first that fails.
    assert asked == sorted(asked, reverse=True)
    assert asked[-2] == expected["threshold"]


def test_nothing_passes():
    confidences = np.full((400, 4), 0.5)
    result = calibrate_threshold(confidences, np.ones((400, 4)), 0.01)
    assert result["threshold"] is None and not result["feasible"]
    assert result["exit_rate"] == result["empirical_risk"] == 0.0


def test_resampling_keeps_the_promise():
    result = risk_resampling(*text(800), 0.05, resamples=100)
    assert all(len(values) == 100 for values in result.values())
    assert (result["risk"] <= 0.05).sum() >= 95
    assert result["exit_rate"].mean() > 0.2
    confidences, losses = text(800)
    asked = []

    def under(level):
        asked.append(level)
        return np.where(confidences >= level, losses, 0)

    again = risk_resampling(confidences, under, 0.05, resamples=100)
    assert len(asked) == len(set(asked))
    np.testing.assert_array_equal(result["risk"], again["risk"])


def test_groups_stay_together(monkeypatch):
    confidences, losses = text(800)
    groups = np.arange(800) // 40
    seen = []

    def under(level):
        return np.where(confidences >= level, losses, 0)

    def spied(given, *args, **options):
        seen.append({row.tobytes() for row in given})
        return calibrate_threshold(given, *args, **options)

    monkeypatch.setattr(risk_control, "calibrate_threshold", spied)
    result = risk_resampling(
        confidences, under, 0.05, resamples=5, groups=groups
    )
    assert len(result["risk"]) == len(seen) == 5
    for inside in seen:
        count = np.bincount(
            groups, [row.tobytes() in inside for row in confidences]
        )
        assert set(count) == {0, 40} and (count > 0).sum() == 10
    same = risk_resampling(confidences, under, 0.05, groups=np.arange(800))
    alone = risk_resampling(confidences, under, 0.05)
    np.testing.assert_array_equal(same["risk"], alone["risk"])


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.02},
        {"alpha": 0.02, "bound": "wsr"},
        {"alpha": 0.1, "kind": "excess_nll"},
        {"alpha": 0.1, "kind": "excess_nll", "bound": "wsr"},
        {"alpha": 0.05, "method": "crc"},
    ],
)
def test_the_number_asked_for_is_enough(options):
    """And one window less is refused, for all bounds and kinds."""
    nothing = np.zeros((20_000, 2))
    with pytest.raises(ValueError, match="at least") as error:
        calibrate_threshold(nothing[:3], nothing[:3], **options)
    count = int(str(error.value).split("at least ")[1].split()[0])
    sure = np.ones((count, 2))
    found = calibrate_threshold(sure, nothing[:count], **options)
    assert found["exit_rate"] == 1
    with pytest.raises(ValueError, match="at least"):
        calibrate_threshold(sure[1:], nothing[1:count], **options)


def test_bad_arguments():
    confidences, losses = text(400)
    with pytest.raises(ValueError, match="at least 390 windows.*shorter"):
        calibrate_threshold(confidences[:389], losses[:389], 0.01)
    with pytest.raises(ValueError, match="at least 77 windows"):
        calibrate_threshold(confidences[:76], losses[:76], 0.05)
    with pytest.raises(ValueError, match="at least 99 windows"):
        calibrate_threshold(confidences[:9], losses[:9], 0.01, method="crc")
    for name, value in (
        ("method", "hope"),
        ("bound", "hoeffding"),
        ("kind", "nll"),
        ("alpha", 0.0),
        ("delta", 1.0),
    ):
        with pytest.raises(ValueError, match=name):
            calibrate_threshold(
                confidences, losses, **{"alpha": 0.05, name: value}
            )
    for levels in (50.0, [], [-1, 0.9], [0.5, 2.0], [np.nan]):
        with pytest.raises(ValueError, match="`thresholds`"):
            calibrate_threshold(confidences, losses, 0.05, thresholds=levels)
    with pytest.raises(ValueError, match="`confidences` must be in"):
        calibrate_threshold(2 * confidences, losses, 0.05)
    for wrong in (losses[:, 0], losses[:, :1]):
        with pytest.raises(ValueError, match="of one shape"):
            risk_resampling(confidences, wrong, 0.05)
    with pytest.raises(ValueError, match="excess_nll"):
        calibrate_threshold(
            confidences, losses, 0.1, method="crc", kind="excess_nll"
        )
    one = calibrate_threshold(confidences, losses, 0.05, thresholds=50)
    other = calibrate_threshold(
        confidences, losses, 0.05, thresholds=np.int64(50)
    )
    assert one == other
    with pytest.raises(ValueError, match="0.25"):
        calibrate_threshold(confidences, losses, 0.3, kind="excess_nll")
    for groups in (np.zeros(400), np.zeros(3)):
        with pytest.raises(ValueError, match="groups"):
            risk_resampling(confidences, losses, 0.05, groups=groups)
    with pytest.raises(ValueError, match="one shape"):
        calibrate_threshold(confidences, losses[:, :3], 0.05)
    with pytest.raises(ValueError, match="finite"):
        calibrate_threshold(confidences, losses * np.nan, 0.05)
    with pytest.raises(ValueError, match="losses"):
        calibrate_threshold(confidences, 2 * losses, 0.05)
