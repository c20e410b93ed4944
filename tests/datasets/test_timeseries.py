"""Sines, stocks, dropped rows and tables of one's own."""

import numpy as np
import pytest
from orrery.datasets.timeseries import (
    drop_values,
    read_series,
    sines,
    stock_windows,
)


def test_sines():
    series = sines(500, seed=1)
    assert series.shape == (500, 24, 5) and series.dtype == "float32"
    assert series.min() >= 0 and series.max() <= 1
    phase = np.arcsin(2 * series[:, 0] - 1)
    assert phase.min() >= 0 and phase.max() < 0.1 + 1e-6
    frequency = np.arcsin(2 * series[:, 1] - 1) - phase
    assert frequency.min() > -1e-6 and frequency.max() < 0.1 + 1e-6
    np.testing.assert_array_equal(series, sines(500, seed=1))
    assert not np.array_equal(series, sines(500, seed=2))


def test_sines_are_sines():
    series = sines(20, length=10).astype("float64")
    phase = np.arcsin(2 * series[:, :1] - 1)
    frequency = np.arcsin(2 * series[:, 1:2] - 1) - phase
    again = np.sin(frequency * np.arange(10)[:, None] + phase)
    np.testing.assert_allclose(series, 0.5 * (again + 1), atol=1e-5)


def test_stocks(data_dir):
    windows = stock_windows(data_dir=data_dir)
    assert windows.shape == (3662, 24, 6)
    assert windows.min() == 0 and windows.max() == 1
    again = stock_windows(data_dir=data_dir, seed=1)
    assert not np.array_equal(windows[0], again[0])


def test_stocks_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("ORRERY_DATA_DIR", raising=False)
    for folder in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match="stock_data.csv"):
            stock_windows(data_dir=folder)


def test_dropped_rows():
    series = sines(50)
    kept = drop_values(series, 0.5)
    mask = kept["mask"][..., 0] == 1
    assert (mask.sum(axis=1) == 12).all()
    np.testing.assert_array_equal(kept["values"][mask], series[mask])
    for one, mine, values, elapsed in zip(
        series, mask, kept["values"], kept["elapsed"][..., 0], strict=True
    ):
        for row in range(24):
            before = np.flatnonzero(mine[: row + 1])
            seen = before[-1] if len(before) else np.flatnonzero(mine)[0]
            np.testing.assert_array_equal(values[row], one[seen])
            assert elapsed[row] == (row - seen if len(before) else 0)


def test_nothing_or_nearly_all_dropped():
    series = sines(5)
    kept = drop_values(series, 0.0)
    np.testing.assert_array_equal(kept["values"], series)
    assert (kept["mask"] == 1).all() and (kept["elapsed"] == 0).all()
    assert (drop_values(series, 0.99)["mask"].sum(axis=1) == 1).all()
    for wrong in (1.0, -0.1):
        with pytest.raises(ValueError, match="`share`"):
            drop_values(series, wrong)
    with pytest.raises(ValueError, match="`series`"):
        drop_values(series[0], 0.5)


@pytest.fixture
def write(tmp_path):
    def call(names=("t", "level", "valve", "rain"), rows=40, step=15.0):
        lines = [",".join(names)]
        lines += [
            ",".join(
                str(step * k if n == "t" else k + 0.1 * j)
                for j, n in enumerate(names)
            )
            for k in range(rows)
        ]
        path = tmp_path / "tank.csv"
        path.write_text("\n".join(lines))
        return path

    return call


def test_a_table_of_ones_own(write):
    data = read_series(
        write(), controls=["valve"], disturbances=["rain"], time="t", unit="min"
    )
    assert data.name == "tank" and data.step == pytest.approx(0.25)
    assert data.observed == ("level",) and data.controls == ("valve",)
    rows = [len(part[0]) for part in data.splits.values()]
    assert list(data.splits) == ["train", "valid", "test"] and rows == [
        28,
        6,
        6,
    ]
    values = np.concatenate([part[0].values for part in data.splits.values()])
    np.testing.assert_allclose(values[:, 0], np.arange(40) + 0.1)
    valid = data.splits["valid"][0]
    np.testing.assert_allclose(valid.controls[:, 0], np.arange(28, 33) + 0.2)
    windows = data.windows("train", 4, 3)
    assert windows["past"].shape == (22, 4, 1)


def test_a_table_without_times(write):
    data = read_series(write(("a", "b")))
    assert data.observed == ("a", "b") and data.step == 1.0
    assert data.windows("test", 2, 2)["controls"].shape == (3, 3, 0)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"controls": ["pump"]}, "Received: 'pump'"),
        ({"controls": ["valve"], "disturbances": ["valve"]}, "'valve'"),
        ({"time": "valve", "controls": ["valve"]}, "'valve'"),
        ({"time": "t", "unit": "weeks"}, "`unit` must be one of"),
        (
            {"time": "t", "controls": ["valve", "level", "rain"]},
            "no column to observe",
        ),
    ],
)
def test_bad_arguments(write, given, message):
    with pytest.raises(ValueError, match=message):
        read_series(write(), **given)


def test_times_that_are_not_even(write):
    path = write()
    text = path.read_text().splitlines()
    path.write_text("\n".join(text[:10] + text[11:]))
    with pytest.raises(ValueError, match="column 't': times .* in row"):
        read_series(path, time="t")


def test_a_table_too_short(write):
    with pytest.raises(ValueError, match="too short: 8 rows leave 1"):
        read_series(write(rows=8))
