"""Scores of forecasts against closed values."""

import numpy as np
import pytest
from orrery.metrics.forecast_scores import (
    crps,
    interval_coverage,
    nrmse,
    skill_score,
    window_mean_relative_error,
)

# Nothing here asks a backend for anything.
pytestmark = pytest.mark.one_backend("torch")
RNG = np.random.default_rng(0)


def test_nrmse_by_hand():
    truth = np.zeros((2, 1, 2))
    forecast = np.array([[[1.0, 4.0]], [[3.0, 0.0]]])
    found = nrmse(truth, forecast, np.array([1.0, 2.0]))
    np.testing.assert_allclose(found, [[np.sqrt(5), np.sqrt(2)]])


def test_skill_by_hand():
    truth = np.array([[[1.0], [2.0]], [[1.0], [4.0]]])
    last = np.zeros((2, 1, 1))
    forecast = np.array([[[1.0], [1.0]], [[0.0], [4.0]]])
    found = skill_score(truth, forecast, last, np.array([3.0]))
    np.testing.assert_allclose(found, [1 - 0.5, 1 - 0.5 / 10])


def test_persistence_has_no_skill():
    truth, last = RNG.normal(size=(5, 3, 2)), RNG.normal(size=(5, 1, 2))
    stays = np.repeat(last, 3, axis=1)
    np.testing.assert_array_equal(
        skill_score(truth, stays, last, np.ones(2)), 0.0
    )
    still = np.zeros((2, 3, 1))
    np.testing.assert_array_equal(
        skill_score(still, still, still, np.ones(1)), 0.0
    )


def test_crps_of_a_gaussian():
    """Samples of N(0, 1) for truth from N(0, 1): 1 / sqrt(pi)."""
    truth = RNG.normal(size=(20_000, 1, 1))
    ensemble = RNG.normal(size=(20_000, 8, 1, 1))
    found = crps(truth, ensemble)[0, 0]
    assert found == pytest.approx(1 / np.sqrt(np.pi), rel=0.02)


def test_crps_does_not_depend_on_the_number_of_members():
    truth = RNG.normal(size=(20_000, 1, 1))
    few, many = (
        crps(truth, RNG.normal(size=(20_000, m, 1, 1)))[0, 0] for m in (2, 32)
    )
    assert few == pytest.approx(many, abs=0.015)


def test_crps_by_pairs():
    truth, ensemble = RNG.normal(size=(3, 2, 2)), RNG.normal(size=(3, 5, 2, 2))
    pairs = np.abs(ensemble[:, :, None] - ensemble[:, None]).sum(axis=(1, 2))
    expected = np.abs(ensemble - truth[:, None]).mean(axis=1) - pairs / 40
    np.testing.assert_allclose(crps(truth, ensemble), expected.mean(axis=0))


def test_a_sure_forecast_has_its_absolute_error():
    truth = np.zeros((4, 1, 1))
    assert crps(truth, np.full((4, 3, 1, 1), 2.0))[0, 0] == 2.0


def test_coverage_of_the_right_distribution():
    truth = RNG.normal(size=(20_000, 2, 1))
    ensemble = RNG.normal(size=(20_000, 100, 2, 1))
    found = interval_coverage(truth, ensemble)
    assert found.shape == (2, 1)
    np.testing.assert_allclose(found, 0.9, atol=0.007)
    assert interval_coverage(truth, ensemble, 0.5).mean() == pytest.approx(
        0.5, abs=0.02
    )
    assert interval_coverage(truth, 0.5 * ensemble).mean() < 0.7


def test_a_relative_error_says_nothing_by_itself():
    """A ramp of 1,000 a row, as the report's plant made them."""
    ramp = 1000.0 * np.arange(-9.0, 11.0)[None, :, None]
    high = ramp + 92_000 - ramp.mean()
    for truth, forecast, error in (
        (high, high - 1000, 100 / 92),  # The last value, one row ahead.
        (ramp, np.full_like(ramp, -10_000), 239.58),  # Twenty rows ahead.
        (ramp, np.full_like(ramp, 220_000), 4391.5),  # The training mean.
    ):
        found = window_mean_relative_error(truth, forecast, [0])
        assert found == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: nrmse(np.ones((2, 3)), np.ones((2, 3)), [1.0]), "one shape"),
        (
            lambda: nrmse(np.ones((2, 3, 1)), np.ones((2, 2, 1)), [1.0]),
            "one shape",
        ),
        (
            lambda: nrmse(np.ones((2, 3, 1)), np.ones((2, 3, 1)), [0.0]),
            "`scale`",
        ),
        (lambda: crps(np.ones((2, 3, 1)), np.ones((2, 1, 3, 1))), "M at least"),
        (
            lambda: interval_coverage(
                np.ones((2, 3, 1)), np.ones((2, 4, 3, 1)), 90
            ),
            "`level`",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
