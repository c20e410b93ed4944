"""Every benchmark at its smallest, and the CSV that it leaves."""

import csv
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from orrery.zoo import EarlyExitLM

ROOT = Path(__file__).resolve().parents[2]
BACKEND = keras.backend.backend()
SMOKE = "--smoke", "--backend", BACKEND
MODEL = ROOT / "saved_models" / "koopman_lm_stdlib"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def smoke(tmp_path):
    """Runs a script with such flags, small; the rows of its CSV."""

    def run(script, *flags):
        script = ROOT / "benchmarks" / f"{script}.py"
        subprocess.run(
            [sys.executable, *map(str, (script, *flags))],
            check=True,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        name = f"{script.stem}*keras-{keras.__version__}*.csv"
        (path,) = tmp_path.rglob(name)
        with open(path, newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    return run


def numbers(row, *columns):
    """The row's numbers in these columns, each finite and above zero."""
    found = [float(row[column]) for column in columns]
    for column, value in zip(columns, found, strict=True):
        assert math.isfinite(value) and value > 0, (column, row)
    return found


def test_mixers(smoke, tmp_path):
    rows = smoke("mixers", *SMOKE, "--out", tmp_path)
    cells = {(row["mixer"], row["length"]) for row in rows}
    assert len(cells) == len(rows)
    for mixer in ("attention", "attention-fused", "resolvent", "recurrence"):
        assert {(mixer, "128"), (mixer, "300")} <= cells
    for row in rows:
        low, median, high = numbers(row, "low", "median", "high")
        assert low <= median <= high
        numbers(row, "first_call", "megabytes")


def test_koopman_arms(smoke):
    flags = ["--dataset", "stdlib", "--preset", "koopman_lm_stdlib"]
    flags += [*SMOKE, "--epochs", 1, "--seeds", 2]
    *rows, last = smoke("koopman_arms", *flags)
    found = {}
    for row in rows:
        numbers(row, "parameters", "valid_without_unknown", "seconds")
        (perplexity,) = numbers(row, "valid_perplexity")
        found[row["arm"], row["seed"]] = math.log(perplexity)
    assert list(found) == [
        ("base", "0"),
        ("koopman", "0"),
        ("lstm", "0"),
        ("base", "1"),
        ("koopman", "1"),
    ]
    difference = statistics.mean(
        found["koopman", seed] - found["base", seed] for seed in "01"
    )
    assert float(last["valid_perplexity"]) == pytest.approx(
        difference, abs=1e-4
    )
    low, high = map(float, last["interval_95"].strip("[]").split(","))
    assert low < difference < high
    inside = low <= 0 <= high
    assert (last["verdict"] == "no difference found") == inside


def test_koopman_ablation(smoke):
    rows = smoke("koopman_ablation", *SMOKE)
    assert rows[0]["variant"] == "as published"
    assert len({row["variant"] for row in rows}) == len(rows) > 1
    for row in rows:
        ratios = [f"ratio_{count}" for count in (1, 2, 3, 4)]
        numbers(row, "valid_perplexity", "epochs", "seconds", *ratios)


def test_koopman_overhead(smoke, tmp_path):
    rows = smoke("koopman_overhead", *SMOKE, "--out", tmp_path)
    threads = ["1", ""] if BACKEND == "jax" else [""]
    assert [row["blas_threads"] for row in rows] == threads
    for row in rows:
        assert row["backend"] == BACKEND
        assert row["windows"] == "2"
        for measure in ("seconds", "cpu_seconds"):
            numbers(row, measure)
            middle = float(row[f"{measure}_overhead"])
            low, high = (
                float(row[f"{measure}_overhead_{quartile}"])
                for quartile in ("q1", "q3")
            )
            assert -1 < low <= middle <= high


def test_hamiltonian_overhead(smoke, tmp_path):
    rows = smoke("hamiltonian_overhead", *SMOKE, "--out", tmp_path)
    assert [row["what"] for row in rows] == ["account", "blocks"]
    for row in rows:
        numbers(row, "seconds", "cpu_seconds")
        assert float(row["seconds_overhead"]) > -1


def test_ablation(smoke, tmp_path):
    out = "--out", tmp_path / "runs"
    rows = smoke("ablation", *SMOKE, "--dataset", "stdlib", "--seeds", 2, *out)
    arms = ["base", "koopman", "physics", "both", "unpenalised"]
    assert [row["arm"] for row in rows[:10]] == arms * 2
    assert len(rows) == 10 + 7
    for row in rows[:10]:
        numbers(row, "valid_perplexity", "test_perplexity", "parameters")
        if row["arm"] not in ("base", "koopman"):
            numbers(row, "drift", "potential_off_ratio", "kick")
    for row in rows[10:]:
        assert row["verdict"]


def test_energy_weight(smoke, tmp_path):
    out = "--out", tmp_path / "runs"
    rows = smoke("energy_weight", *SMOKE, "--dataset", "stdlib", *out)
    assert [row["weight"] for row in rows] == ["", "0", "100"]
    for row in rows:
        numbers(row, "valid_perplexity")
    assert float(rows[1]["energy_of_loss"]) == 0
    numbers(rows[2], "energy_of_loss", "drift")


def test_exit_training(smoke, tmp_path):
    rows = smoke("exit_training", *SMOKE, "--out", tmp_path / "runs")
    assert [row["arm"] for row in rows] == ["preset", "no random exits"]
    for row in rows:
        numbers(row, "perplexity", "exit_perplexity", "exit_weight")
        for policy in ("propagate", "defer"):
            assert 0 <= float(row[f"leave_for_1_percent_{policy}"]) < 1
            assert math.isfinite(float(row[f"half_leave_{policy}"]))
    assert [float(row["random_exits"]) for row in rows] == [1, 0]


def test_learning_rate(smoke, tmp_path):
    rows = smoke("learning_rate", *SMOKE, "--out", tmp_path / "runs")
    assert [row["arm"] for row in rows] == [
        "base",
        "physics",
        "unpenalised",
    ] * 2
    for row in rows:
        numbers(row, "valid_perplexity")
    assert sorted(row["arm"] for row in rows if row["best"]) == [
        "base",
        "physics",
        "unpenalised",
    ]


def test_scaling(smoke, tmp_path):
    out = "--out", tmp_path / "runs"
    rows = smoke("scaling", *SMOKE, "--dataset", "stdlib", *out)
    assert [row["arm"] for row in rows] == ["base", "physics"] * 2
    for row in rows:
        numbers(row, "valid_perplexity", "test_perplexity", "seconds_per_step")
        norms = [float(norm) for norm in row["gradient_norms"].split()]
        assert len(norms) == int(row["layers"]) and min(norms) > 0
    assert all(float(row["largest_drift"]) > 0 for row in rows[1::2])


def test_koopman_forward(smoke):
    rows = smoke("koopman_forward", *SMOKE, MODEL, "--dataset", "stdlib")
    measured = {(row["delays"], row["lift_dim"]): row for row in rows}
    assert len(measured) == len(rows)
    assert {("own", "own"), ("skip", "skip"), ("0", "0")} < measured.keys()
    for row in rows:
        standard, half, everything = numbers(row, "standard", "half", "all")
        assert numbers(row, "half_ratio", "all_ratio") == pytest.approx(
            [half / standard, everything / standard], rel=1e-3
        )
    own, without = (
        float(measured[kind, kind]["all_ratio"]) for kind in ("own", "skip")
    )
    assert 1 < own < without


def test_precision(smoke):
    rows = smoke("precision", *SMOKE, MODEL, "--dataset", "stdlib")
    exact, *_ = rows
    assert [row["precision"] for row in rows] == [
        "float32",
        "mixed_bfloat16",
        "int8",
    ]
    assert float(exact["change"]) == 0
    for row in rows:
        numbers(row, "perplexity")
        assert abs(float(row["change"])) < 0.05
    if exact["largest_logit_difference"]:
        assert float(exact["largest_logit_difference"]) < 1e-3


def test_generation(smoke):
    rows = smoke("generation", *SMOKE)
    cells = {(row["mixer"], row["batch"]) for row in rows}
    assert len(cells) == len(rows) == 6
    for row in rows:
        streaming, recomputed, ratio = numbers(
            row, "streaming_tokens_per_s", "recomputed_tokens_per_s", "ratio"
        )
        assert ratio == pytest.approx(streaming / recomputed, rel=1e-4)


def test_operator_recovery(smoke, tmp_path):
    (row,) = smoke("operator_recovery", "--backend", BACKEND, "--out", tmp_path)
    error, difference = numbers(row, "error", "partition_difference")
    assert error < 1e-4
    assert difference < 1e-5
    for scale in (1, 10, 1000):
        (radius,) = numbers(row, f"radius_scale_{scale}")
        assert radius <= 1 + 1e-6


def test_legacy_physics(smoke, tmp_path):
    flags = [*SMOKE, "--dataset", "stdlib", "--out", tmp_path / "runs"]
    rows = smoke("legacy_physics", *flags)
    found = {(row["arm"], row["seed"], row["epoch"]): row for row in rows}
    assert len(found) == len(rows) == 5
    for row in rows:
        numbers(row, "batch-mean perplexity", "drift", "lambda")
        numbers(row, "energy spread")
        assert row["published"] == row["difference"] == ""
    base, physics = (found[arm, "0", "2"] for arm in ("base", "physics"))
    assert float(physics["energy loss"]) > 0 == float(base["energy loss"])
    first = [found[arm, "0", "1"] for arm in ("base", "physics")]
    assert {**first[0], "arm": ""} == {**first[1], "arm": ""}
    (path,) = tmp_path.rglob("legacy_verdict*.csv")
    with open(path, newline="", encoding="utf-8") as stream:
        *_, paired = csv.DictReader(stream)
    assert paired["compared"] == "physics - base"
    difference = float(physics["batch-mean perplexity"]) - float(
        base["batch-mean perplexity"]
    )
    assert float(paired["last_difference"]) == pytest.approx(difference, 1e-3)


def test_optimizers(smoke):
    rows = smoke("optimizers", *SMOKE, "--seeds", 2)
    assert len({row["optimizer"] for row in rows}) == len(rows) == 7
    for row in rows:
        numbers(row, "test_accuracy", "digits_rate")


def test_equilibrium_propagation(smoke, tmp_path):
    flags = [*SMOKE, "--seeds", 1, "--runs", tmp_path / "runs"]
    rows = smoke("equilibrium_propagation", *flags)
    arms = {row["arm"] for row in rows}
    assert arms == {"equilibrium", "backprop", "mlp"}
    for row in rows:
        numbers(row, "test_accuracy", "weights", "processor_seconds")
        if row["arm"] != "mlp":
            assert float(row["residual"]) <= 1e-6
    (path,) = tmp_path.rglob("equilibrium_gradient*.csv")
    with open(path, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if float(row["beta"]) <= 1e-2:
                assert float(row["cosine"]) > 0.99
                assert float(row["lowest_cosine_of_a_block"]) > 0.99


def test_hamiltonian_mechanics(smoke, tmp_path):
    cases = "pendulum", "kepler"  # The latter with one arm more.
    runs = "--runs", tmp_path / "runs"
    rows = smoke(
        "hamiltonian_mechanics", *SMOKE, "--seeds", 2, "--cases", *cases, *runs
    )
    found = [(row["case"], row["arm"], row["seed"]) for row in rows]
    assert len(set(found)) == len(rows) == 2 * (6 + 7)
    for row in rows:
        numbers(row, "weights", "valid_rmse", "position_10", "seconds")
    (path,) = tmp_path.rglob("mechanics_paired*.csv")
    with open(path, newline="", encoding="utf-8") as stream:
        paired = list(csv.DictReader(stream))
    assert len(paired) == 5 + 6
    by_run = dict(zip(found, rows, strict=True))
    logarithms = [
        math.log(
            float(by_run[cases[0], "neural_ode", seed]["position_10"])
            / float(by_run[cases[0], "hamiltonian", seed]["position_10"])
        )
        for seed in "01"
    ]
    (row,) = (
        row
        for row in paired
        if (row["case"], row["arm"]) == (cases[0], "neural_ode")
    )
    assert float(row["position_10_ratio"]) == pytest.approx(
        math.exp(statistics.mean(logarithms)), rel=1e-3
    )


def test_hnn_protocol(smoke, tmp_path):
    rows = smoke("hnn_protocol", *SMOKE, "--seeds", 2, "--out", tmp_path)
    assert len(rows) == 2 * (2 * 3 + 3 * 2 + 2)
    for row in rows:
        numbers(row, "test_loss", "energy_as_published")
        if row["seed"] != "published":
            numbers(row, "weights", "energy", "energy_trained_starts")


def test_rollouts(smoke, tmp_path):
    rows = smoke("rollouts", *SMOKE, "--out", tmp_path)
    found = {
        (row["arithmetic"], row["system"], row["start"], row["method"]): row
        for row in rows
    }
    assert len(found) == len(rows) == 5 * (3 + 5) + 1
    for (arithmetic, *rest), row in found.items():
        numbers(row, "energy_error")
        if row["method"] == "leapfrog" and arithmetic == BACKEND:
            exact = found["NumPy float64", *rest]
            assert float(row["energy_error"]) == pytest.approx(
                float(exact["energy_error"]), rel=0.01
            )


def test_hard_examples(smoke, tmp_path):
    flags = (*SMOKE, "--dataset", "stdlib", "--out", tmp_path / "runs")
    rows = smoke("hard_examples", *flags, "--arms", "four_layers", "hard")
    runs = [row for row in rows if not row["interval_95"]]
    assert [row["arm"] for row in runs] == 2 * ["four_layers", "hard"]
    assert len({row["steps"] for row in runs}) == 1
    for row in runs:
        numbers(row, "test_perplexity", "routed_perplexity", "macs_with_head")
        assert (row["arm"] == "hard") == (float(row["leave"]) > 0)
    assert len(rows) == len(runs) + 2


def test_leak_or_context(smoke, tmp_path):
    flags = (*SMOKE, "--dataset", "stdlib", "--out", tmp_path / "runs")
    rows = smoke("leak_or_context", *flags)
    cells = [row for row in rows if not row["interval_95"]]
    assert len(cells) == 2 * (1 + 3 * 2 + 1)
    assert [row["mined"] for row in cells[::8]] == 2 * ["nothing"]
    whole = {
        row["steps"] for row in cells if row["mined"] not in ("half", "nothing")
    }
    half = {row["steps"] for row in cells if row["mined"] == "half"}
    assert {int(steps) * 2 for steps in half} == set(map(int, whole))
    for row in cells:
        numbers(row, "valid", "test", "valid_best", "test_best", "leave")
    found = {row["mined"]: row for row in rows if row["interval_95"]}
    for score in ("valid", "test"):
        both = float(found["leak"][score]) + float(found["context"][score])
        total = float(found["leak + context"][score])
        assert both == pytest.approx(total, abs=1e-4)
    numbers(
        {"x": abs(float(found["what half gains by being mined"]["valid"]))}, "x"
    )


def test_early_exit(smoke, tmp_path):
    model = EarlyExitLM(256, dim=16, blocks=(1, 1), num_heads=2, threshold=0.0)
    model.build()
    model.save(tmp_path / "model.keras")
    flags = ("--dataset", "stdlib", "--backend", BACKEND, "--smoke")
    rows = smoke("early_exit", tmp_path / "model.keras", *flags)
    assert [row["what"] for row in rows] == (
        4 * ["steps"] + 2 * ["drafts"] + 4 * ["capacity"]
    )
    for row in rows:
        low, ratio, high = numbers(row, "ratio_q1", "ratio", "ratio_q3")
        assert low <= ratio <= high
    for nobody, everybody in (rows[:2], rows[2:4]):
        assert nobody["setting"] == "nobody leaves"
        assert float(everybody["exit_rate"]) == 1
        low, more, high = (
            float(everybody[f"percent_more{edge}"])
            for edge in ("_low", "", "_high")
        )
        assert low <= more <= high
        assert int(everybody["windows"]) >= 16
    for row in rows[4:6]:
        same, _, asked = row["identical"].partition(" of ")
        assert same == asked


def test_one_file(smoke, tmp_path):
    (row,) = smoke("one_file", MODEL.name, "--out", tmp_path)
    for column in ("logits", "sgd_weights", "adamw_weights"):
        (difference,) = numbers(row, column)
        assert difference < 1e-4


def test_bsm1_plant(tmp_path, data_dir):
    script = ROOT / "benchmarks" / "bsm1_plant.py"
    flags = ("--smoke", "--out", tmp_path, "--data-dir", data_dir)
    subprocess.run([sys.executable, *map(str, (script, *flags))], check=True)
    tables = {}
    for path in tmp_path.glob("bsm1_*.csv"):
        with open(path, newline="", encoding="utf-8") as stream:
            tables["_".join(path.stem.split("_")[:2])] = list(
                csv.DictReader(stream)
            )
    assert all(float(row["missing"]) < 1e-6 for row in tables["bsm1_balances"])
    found = {(r["weather"], r["largest KLa5"]) for r in tables["bsm1_indices"]}
    assert len(found) == len(tables["bsm1_indices"]) == 6
    for row in tables["bsm1_indices"]:
        numbers(row, "EQI", "OCI", "AE", "PE", "SP")
    first, *_, second = tables["bsm1_episodes"]
    assert float(first["largest error"]) < float(second["largest error"]) < 1e-2


def test_plant_verdict(smoke, tmp_path):
    pytest.importorskip("scipy")
    rows = smoke("plant_verdict", *SMOKE, "--out", tmp_path)
    found = {
        (r["data"], r["forecaster"], r["rows_ahead"]): float(
            r["relative_percent"]
        )
        for r in rows
    }
    assert found["ramp at 92,000", "last value", "1"] < 1.2
    assert found["ramp across 0", "training mean, 220,000", "20"] > 4000
    for plant in ("euler", "plant"):
        for who in ("last value", "KoVAE, effective", "KoVAE", "MamKO"):
            assert math.isfinite(found[plant, who, "20"])


def test_kovae_step(smoke, tmp_path):
    rows = smoke("kovae_step", "--smoke", "--out", tmp_path)
    assert {row["model"] for row in rows} == {"KoVAE", "effective"}
    for row in rows:
        numbers(row, "step_ms", "over_peer", "first_epoch_s", "epochs_401_h")
        if row["way"] == "PyTorch by hand":
            assert float(row["over_peer"]) == 1


def test_plant_control(smoke, tmp_path):
    pytest.importorskip("osqp")
    rows = smoke("plant_control", *SMOKE, "--seeds", 2, "--out", tmp_path)
    for row in rows:
        numbers(row, "EQI", "OCI")
    pi = rows[0]
    assert (pi["control"], float(pi["EQI_over_PI"])) == ("PI", 0)
    mpc = [row for row in rows if row["control"] == "MPC"]
    kinds = {(row["trained_on"], row["flow"]) for row in mpc}
    expected = {("open loop", flow) for flow in ("daily", "held", "known")}
    assert kinds == expected | {("all", "daily")}
    for kind in kinds:
        seeds = {
            row["seed"]: float(row["EQI_over_PI"])
            for row in mpc
            if (row["trained_on"], row["flow"]) == kind
        }
        mean = (seeds["0"] + seeds["1"]) / 2
        assert seeds["mean"] == pytest.approx(mean, rel=1e-3, abs=1e-3)
        numbers(mpc[0], "step_ms_median", "step_ms_99")


def test_interval_coverage(smoke, tmp_path):
    rows = smoke("interval_coverage", *SMOKE, "--out", tmp_path)
    for kind in ("validation", "all others"):
        *episodes, mean = (
            float(row["coverage"])
            for row in rows
            if row["stretched_on"] == kind
        )
        assert all(0 <= share <= 1 for share in episodes)
        assert mean == pytest.approx(statistics.mean(episodes), abs=1e-4)
