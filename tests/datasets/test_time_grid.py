"""Points at equal steps of time, and what is said of others."""

import numpy as np
import pytest
from orrery.datasets.time_grid import off_grid

# Nothing here asks a backend for anything.
pytestmark = pytest.mark.one_backend("torch")

EVEN = np.arange(200) / 96


def test_nothing_is_wrong():
    assert off_grid(EVEN, 1 / 96) == ""
    jitter = np.random.default_rng(0).uniform(-0.01, 0.01, 200) / 96
    assert off_grid(EVEN + jitter, 1 / 96) == ""
    assert off_grid(np.round(EVEN, 4), 1 / 96) == ""
    assert off_grid(EVEN[:2], 1 / 96) == ""


@pytest.mark.parametrize("place", [1, 2, 100, 197])
@pytest.mark.parametrize("points", [200, 20_000])
def test_a_row_that_is_missing_is_told_where(place, points):
    """By the gap, not by the point farthest from a grid that is stretched."""
    t = np.delete(0.25 * np.arange(points), place)
    expected = (
        f"t={t[place]:g} at point {place}, where {t[place] - 0.25:g} would "
        "stand"
    )
    mean = (t[-1] - t[0]) / (len(t) - 1)
    for step in (0.25, mean):
        assert off_grid(t, step) == expected


def test_the_first_of_several_is_told():
    t = np.delete(np.arange(50.0), [10, 30, 31])
    assert off_grid(t, 1.0) == "t=11 at point 10, where 10 would stand"


def test_one_point_out_of_its_place():
    t = np.arange(50.0)
    t[20] += 0.3
    assert off_grid(t, 1.0) == "t=20.3 at point 20, where 20 would stand"


def test_a_clock_that_drifts():
    """No step is far from the others, and no grid fits."""
    t = np.cumsum(1 + 0.02 * np.sin(np.arange(300) / 50))
    wrong = off_grid(t, (t[-1] - t[0]) / 299)
    assert "would stand" in wrong


def test_another_step():
    assert off_grid(np.arange(10.0), 0.25) == "steps of 1"


def test_digits_are_those_that_tell():
    t = 123_456 + np.arange(20) / 96
    t[5:] += 1 / 96
    wrong = off_grid(t, 1 / 96)
    assert wrong == "t=123456.0625 at point 5, where 123456.0521 would stand"


def test_rows_of_a_file():
    t, rows = np.array([0.0, 1.0, 3.0, 4.0]), [2, 3, 7, 8]
    assert off_grid(t, 1.0, rows) == "t=3 in row 7, where 2 would stand"
    t[2] = 0.5
    assert off_grid(t, 1.0, rows) == "t=0.5 in row 7 after t=1"
