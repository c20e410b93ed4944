"""The comparison of forecasters, and control by one, as a user runs them."""

import csv
import importlib
import json
import sys
from pathlib import Path

import keras
import numpy as np
import orrery
import pytest

ROOT = Path(__file__).resolve().parents[2]
BACKEND = keras.backend.backend()
ARMS = ("persistence", "ridge", "MamKO", "KoVAE")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def recipe():
    """Runs a recipe in this process; flags of any type."""
    sys.path.insert(0, str(ROOT / "recipes"))

    def run(name, *flags):
        main = importlib.import_module(name).main
        return main(["--backend", BACKEND, *map(str, flags)])

    yield run
    sys.path.remove(str(ROOT / "recipes"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A tank that a valve fills while something leaks."""
    path = tmp_path_factory.mktemp("data") / "tank.csv"
    generator, level = np.random.default_rng(0), 5.0
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["level", "flow", "valve", "leak"])
        for _ in range(200):
            valve, leak = generator.uniform(size=2)
            writer.writerow([level, level**0.5, valve, leak])
            level += 0.2 * (3 * valve - leak - 0.5 * level**0.5)
    return path


@pytest.fixture(scope="module")
def run(recipe, table, tmp_path_factory):
    pytest.importorskip("scipy")
    folder = tmp_path_factory.mktemp("comparison")
    recipe("compare_koopman", *flags(table), "--robustness", "--out", folder)
    return folder


def flags(table):
    given = ("--dataset", table, "--controls", "valve")
    given += ("--disturbances", "leak", "--history", 4, "--horizon", 3)
    return (*given, "--smoke", "--arms", *ARMS)


def rows(folder):
    with open(folder / "comparison.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_worse_sensors_are_a_table_of_their_own(run):
    with open(run / "robustness.csv", newline="") as file:
        found = list(csv.DictReader(file))
    errors = {
        (r["arm"], float(r["noise"]), float(r["dropout"])): float(r["nrmse"])
        for r in found
    }
    assert len(errors) == len(found) == 10 * len(ARMS)
    for arm in ARMS:
        assert errors[arm, 0.5, 0] != errors[arm, 0, 0]
    assert errors["persistence", 0.5, 0] > errors["persistence", 0, 0]
    assert "| arm | none | noise 1% |" in (run / "report.md").read_text("utf-8")


def test_lost_values_are_taken_from_the_row_before(recipe):
    corrupt = importlib.import_module("_robustness").corrupt
    past = np.arange(4 * 50 * 3, dtype="float32").reshape(4, 50, 3)
    scale = np.array([1.0, 10.0, 100.0])
    same = corrupt(past, scale, 0.0, 0.0)
    np.testing.assert_array_equal(same, past)
    lost = corrupt(past, scale, 0.0, 0.3)
    gone = lost != past
    assert not gone[:, 0].any()
    assert 0.2 < gone[:, 1:].mean() < 0.4
    np.testing.assert_array_equal(
        lost[:, 1:][gone[:, 1:]], lost[:, :-1][gone[:, 1:]]
    )
    noisy = corrupt(past, scale, 0.1, 0.0) - past
    np.testing.assert_allclose(noisy.std((0, 1)), 0.1 * scale, rtol=0.2)


def test_what_nothing_acts_on_is_linear(recipe):
    build = importlib.import_module("_forecast_arms").build
    ranks = [
        build("KoVAE", size, 6, 3, 0).options["bilinear_rank"]
        for size in ((3, 1, 0), (3, 0, 0))
    ]
    assert ranks == [64, 0]


def test_a_difference_is_judged_over_episodes(recipe):
    over = importlib.import_module("_comparison_report").over_episodes
    theirs = {s: {"nrmse_by_episode": [0.1, 0.2, 0.3, 0.4]} for s in (0, 1)}
    worse = {0: {"nrmse_by_episode": [0.11, 0.22, 0.33, 0.44]}}
    # The same in every episode: no doubt is left.
    np.testing.assert_allclose(over(worse, theirs), (10, 10))
    unlike = {0: {"nrmse_by_episode": [0.05, 0.3, 0.3, 0.4]}}
    low, high = over(unlike, theirs)
    assert low < 0 < high
    one, two = ({0: {"nrmse_by_episode": [x]}} for x in (1.0, 2.0))
    assert over(one, two) == ("", "")


def test_a_row_for_every_arm_and_kind_of_windows(run):
    found = {(r["arm"], r["windows"], r["influent"]) for r in rows(run)}
    assert found == {
        (arm, "test", influent)
        for arm in ARMS
        for influent in ("known", "held")
    }
    for row in rows(run):
        assert float(row["nrmse"]) > 0
        if row["arm"] == "persistence":
            assert float(row["skill"]) == 0
        if row["arm"] == "MamKO":
            low, high = float(row["nrmse_low"]), float(row["nrmse_high"])
            assert low <= float(row["nrmse"]) <= high and row["seeds"] == "2"
    report = (run / "report.md").read_text()
    assert "| ridge |" in report and "Intervals of 90 %" in report
    for name in ("kovae", "mamko"):
        orrery.load(run / "models" / f"{name}.keras")


def test_draws_pictures(run):
    pytest.importorskip("matplotlib")
    for name in ("errors", "forecast", "spectrum"):
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_what_is_there_is_not_made_again(run, recipe, table):
    before = {p: p.stat().st_mtime_ns for p in run.glob("cells/*")}
    kept = rows(run)
    (run / "cells" / "mamko-1.json").unlink()
    with pytest.raises(SystemExit, match="--resume"):
        recipe("compare_koopman", *flags(table), "--out", run)
    recipe("compare_koopman", *flags(table), "--out", run, "--resume")
    again = {p: p.stat().st_mtime_ns for p in run.glob("cells/*")}
    assert set(again) == set(before)
    changed = {p.name for p, time in again.items() if time != before[p]}
    assert changed == {"mamko-1.json"}
    for one, two in zip(kept, rows(run), strict=True):
        assert float(one["nrmse"]) == pytest.approx(
            float(two["nrmse"]), rel=1e-3
        )


def test_another_comparison_is_refused(run, recipe, table):
    for other, named in (
        (("--learning-rate", 0.1), "learning_rate"),
        (("--disturbances", "flow", "leak"), "data"),
    ):
        with pytest.raises(SystemExit, match=f"other {named}"):
            recipe(
                "compare_koopman",
                *flags(table),
                *other,
                "--out",
                run,
                "--resume",
            )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--seeds", 1), "--seeds must be at least 2"),
        (("--dataset", "sines"), "--dataset must be"),
        (("--seed", 3), "--seed has no effect"),
        (("--history", 1), "--history must be at least 2"),
    ],
)
def test_bad_flags(recipe, capsys, given, message):
    with pytest.raises(SystemExit):
        recipe("compare_koopman", *given)
    assert message in capsys.readouterr().err


@pytest.mark.one_backend("jax")
def test_a_plant_under_control(recipe, tmp_path, capsys):
    pytest.importorskip("osqp")
    recipe("koopman_mpc", "--smoke", "--out", tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert set(found) == {"mpc", "pi", "retuned", "openloop"}
    for indices in found.values():
        assert 1e3 < indices["EQI"] < 5e4 and 1e4 < indices["OCI"] < 3e4
    assert found["mpc"]["solve_ms_median"] > 0
    assert "| Koopman MPC |" in (tmp_path / "report.md").read_text()
    model = orrery.load(tmp_path / "model.keras")
    assert (model.observed_dim, model.horizon) == (11, 20)
    for given, message in (
        (("--days", 0.5), "--days must be"),
        (("--model", "x", "--steps", 3), "--steps has no effect"),
        (("--price", 0), "--price must be"),
        (("--tracking", -1), "--tracking must be"),
        (("--setpoints", 0, 2), "--setpoints must be"),
        (("--model", "x", "--seed", 3), "--seed has no effect"),
        (("--model", "x", "--forecaster", "MamKO"), "--forecaster has no"),
        (("--controllers", "pi", "--flow", "known"), "--flow has no"),
    ):
        with pytest.raises(SystemExit):
            recipe("koopman_mpc", *given)
        assert message in capsys.readouterr().err
