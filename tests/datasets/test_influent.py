"""Recorded and generated weather."""

import pathlib

import numpy as np
import pytest
from orrery.datasets.asm1 import COMPONENTS
from orrery.datasets.bsm1 import CONSTANT_INFLUENT
from orrery.datasets.influent import FLOW, generated_influent, load_influent

NAMES = ["t", *COMPONENTS, "Q"]


@pytest.fixture
def write(tmp_path):
    """A file of four rows, with one entry or name changed."""

    def call(row=None, column=None, entry=None, names=NAMES):
        rows = [[k / 96, *CONSTANT_INFLUENT] for k in range(4)]
        if row is not None:
            rows[row - 2][NAMES.index(column)] = entry
        lines = [names, *rows]
        path = tmp_path / "weather.csv"
        path.write_text("\n".join(",".join(map(str, r)) for r in lines))
        return path

    return call


@pytest.mark.parametrize(
    "weather, mean, most",
    [
        ("dry", 18_446.3, 32_180),
        ("rain", 21_319.8, 52_126),
        ("storm", 19_744.7, 60_000),
    ],
)
def test_recorded_weather(data_dir, weather, mean, most):
    influent = load_influent(weather, data_dir)
    assert influent.shape == (1345, 14)
    assert influent[:-1, FLOW].mean() == pytest.approx(mean, abs=0.1)
    assert influent[:, FLOW].max() == pytest.approx(most, abs=1)
    np.testing.assert_allclose(influent[0], influent[-1], atol=1e-4)


def test_dry_weather_has_the_published_means(data_dir):
    influent = load_influent("dry", data_dir)[:-1]
    flow = influent[:, FLOW]
    means = flow @ influent[:, :FLOW] / flow.sum()
    np.testing.assert_allclose(means, CONSTANT_INFLUENT[:FLOW], rtol=2e-4)


def test_what_splits_by_file_would_leak(data_dir):
    """The weathers share most of their rows, and dry weeks are the same."""
    dry, rain, storm = (
        load_influent(weather, data_dir)[:-1]
        for weather in ("dry", "rain", "storm")
    )
    np.testing.assert_array_equal(dry[:672], dry[672:])
    differs = (dry[:, FLOW] != rain[:, FLOW]) | (dry[:, 9] != rain[:, 9])
    assert differs.mean() == pytest.approx(0.146, abs=0.005)
    differs = np.abs(storm[:, FLOW] - dry[:, FLOW]) > 1
    assert differs.mean() == pytest.approx(0.053, abs=0.005)


def test_generated_weather_has_the_published_means():
    influent = generated_influent(days=14)
    assert influent.shape == (1345, 14)
    assert (influent >= 0).all()
    week = influent[:672]
    flow = week[:, FLOW]
    assert flow.mean() == pytest.approx(CONSTANT_INFLUENT[FLOW])
    means = flow @ week[:, :FLOW] / flow.sum()
    np.testing.assert_allclose(means, CONSTANT_INFLUENT[:FLOW], rtol=1e-12)


def test_generated_weather_is_like_the_recorded_one(data_dir):
    """In its rhythm; the formula has three harmonics."""
    recorded = load_influent("dry", data_dir)[:672]
    generated = generated_influent(days=7)[:672]
    for column in (1, 2, 3, 4, 9, 10, 11, FLOW):
        together = np.corrcoef(recorded[:, column], generated[:, column])
        assert together[0, 1] > 0.8, NAMES[column + 1]


def test_the_week_may_begin_any_day():
    later = generated_influent(days=2, start=5.0)
    np.testing.assert_allclose(later[0], generated_influent(days=6)[480])
    assert later[:96, FLOW].mean() < 0.95 * CONSTANT_INFLUENT[FLOW]


def test_a_file_of_ones_own(write):
    influent = load_influent(write())
    np.testing.assert_array_equal(influent, np.tile(CONSTANT_INFLUENT, (4, 1)))


@pytest.mark.parametrize(
    "change, message",
    [
        ((3, "Q", -1.0), "row 3, column 'Q': must not be negative"),
        ((5, "Q", 0.0), "row 5, column 'Q': must be above 0"),
        ((2, "SNH", -0.1), "row 2, column 'SNH': must not be negative"),
        ((4, "XS", "nan"), "row 4, column 'XS': must be a finite number"),
        ((3, "t", 0.5), "column 't': must be days, 15 minutes"),
        ((3, "t", 0.0), "column 't': must be days, 15 minutes"),
    ],
)
def test_what_is_wrong_is_named(write, change, message):
    with pytest.raises(ValueError, match=message):
        load_influent(write(*change))


@pytest.mark.parametrize(
    "row, column, entry, message",
    [
        (4, "Q", -1.0, "row 5, column 'Q': must not be negative"),
        (4, "Q", 0.0, "row 5, column 'Q': must be above 0"),
        (4, "t", 0.03, "column 't'.*Received: t=0.03 in row 5, where 0.0208"),
        (4, "t", 0.0, "column 't'.*Received: t=0 in row 5 after"),
        (5, "XS", "x", "row 6, column 'XS': must be a finite number"),
    ],
)
def test_rows_are_counted_as_in_the_file(write, row, column, entry, message):
    """An empty line is counted too, though it holds nothing."""
    path = write(row, column, entry)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "", *lines[2:]]))
    with pytest.raises(ValueError, match=f"{path.name}, .*{message}"):
        load_influent(path)


def test_a_row_that_is_missing(tmp_path):
    path = tmp_path / "weather.csv"
    rows = [[k / 96, *CONSTANT_INFLUENT] for k in range(300) if k != 200]
    path.write_text(
        "\n".join(",".join(map(str, row)) for row in [NAMES, *rows])
    )
    with pytest.raises(
        ValueError, match=r"t=2\.09375 in row 202, where 2\.083"
    ):
        load_influent(path)


def test_minutes_are_no_days(tmp_path):
    path = tmp_path / "weather.csv"
    rows = [[15 * k, *CONSTANT_INFLUENT] for k in range(4)]
    path.write_text(
        "\n".join(",".join(map(str, row)) for row in [NAMES, *rows])
    )
    with pytest.raises(ValueError, match="must be days.*steps of 15"):
        load_influent(path)


def test_a_column_that_is_not_there(write):
    names = ["Q0" if name == "Q" else name for name in NAMES]
    with pytest.raises(ValueError, match="misses the column 'Q'"):
        load_influent(write(names=names))


def test_weather_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("ORRERY_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match="generated_influent"):
        load_influent("storm")
    with pytest.raises(FileNotFoundError, match="influent_storm.csv"):
        load_influent("storm", tmp_path)
    with pytest.raises(FileNotFoundError, match="drizzle"):
        load_influent(pathlib.Path("drizzle"))
