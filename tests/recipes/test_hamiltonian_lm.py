"""The recipe of the Hamiltonian language model, as a user runs it."""

import csv
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from orrery.zoo import HamiltonianLM
from orrery.zoo.energy_measures import energy_tracer, evaluate_energies

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "hamiltonian_lm.py"
BACKEND = keras.backend.backend()
ARMS = ("base", "physics", "unpenalised", "euler", "autonomous")

as_a_user = pytest.mark.one_backend("jax")


def command(*flags):
    return [sys.executable, str(RECIPE), "--backend", BACKEND, *map(str, flags)]


def recipe(*flags):
    done = subprocess.run(
        command(*flags), capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def stopped(monkeypatch, capsys):
    """What the recipe says as it refuses its flags, in this process."""
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    main = importlib.import_module("hamiltonian_lm").main

    def call(*flags):
        with pytest.raises(SystemExit) as stop:
            main(["--backend", BACKEND, *map(str, flags)])
        assert stop.value.code not in (0, None)
        return f"{stop.value}\n{capsys.readouterr().err}"

    return call


def history(folder, arm):
    with open(folder / arm / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in rows
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    recipe("--smoke", "--arms", *ARMS, "--out", folder)
    return folder


@as_a_user
def test_leaves_everything_it_promises(run):
    names = ["config.json", "metrics.json", "report.md", "model.keras"]
    names += ["vocabulary.txt", *(f"{arm}/history.csv" for arm in ARMS)]
    names += [f"{arm}/energies.csv" for arm in ARMS if arm != "base"]
    for name in names:
        assert (run / name).stat().st_size > 0, name
    metrics = json.loads((run / "metrics.json").read_text())
    assert tuple(metrics) == ARMS
    for arm in ARMS:
        assert np.isfinite(metrics[arm]["test"]["perplexity"])
    assert "energies" not in metrics["base"]
    assert not (run / "base" / "energies.csv").exists()
    for arm, blocks in (("physics", 2), ("euler", 2), ("autonomous", 1)):
        rows = metrics[arm]["energies"]["test"]
        assert len(rows) == blocks
        for row in rows:
            assert all(np.isfinite(value) for value in row.values())
        assert metrics[arm]["without_potential"] > 0
        assert metrics[arm]["contributions"].keys() == {"energy"}


@as_a_user
def test_energy_is_kept_by_structure(run):
    """Forward Euler has the same forces and keeps nothing: without penalty."""
    metrics = json.loads((run / "metrics.json").read_text())
    drift = {
        arm: np.mean(
            [row["drift"] for row in metrics[arm]["energies"]["valid"]]
        )
        for arm in ("physics", "unpenalised", "euler")
    }
    assert drift["euler"] > 5 * drift["unpenalised"]
    assert drift["physics"] <= drift["unpenalised"]


def energies(folder, arm):
    with open(folder / arm / "energies.csv", newline="") as file:
        return list(csv.DictReader(file))


@as_a_user
def test_energies_of_every_epoch_and_block(run):
    rows = energies(run, "physics")
    epochs = len(history(run, "physics"))
    assert [(row["epoch"], row["block"]) for row in rows] == [
        (str(epoch), block) for epoch in range(epochs + 1) for block in "12"
    ]
    for row in rows:
        for name in ("drift", "spread_ratio", "shuffled_ratio"):
            assert float(row[name]) > 0
    assert rows[0]["spread_ratio"] == "1.0" != rows[-1]["spread_ratio"]


@as_a_user
def test_measuring_energies_changes_no_training(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    kept = importlib.import_module("_energy_history").EnergyHistory
    tokens = np.random.default_rng(0).integers(0, 20, (8, 9)).astype("int32")
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}
    path = tmp_path / "energies.csv"
    # Of a run that was stopped before its first epoch was kept.
    path.write_text("epoch,block,drift,spread_ratio,shuffled_ratio\n1,9,,,\n")
    weights = []
    for measured in (False, True):
        keras.utils.set_random_seed(0)
        model = HamiltonianLM(20, 8, 2, 2, hidden_dim=6, num_steps=2)
        model.build()
        model.compile("adam")
        callbacks = [kept(path, energy_tracer(model), tokens, 4)] * measured
        model.fit(batch, epochs=3, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    rows = energies(tmp_path, ".")
    assert [(row["epoch"], row["block"]) for row in rows] == [
        (str(epoch), block) for epoch in range(4) for block in "12"
    ]
    last = evaluate_energies(model, tokens, 4)
    for row, expected in zip(rows[-2:], last, strict=True):
        assert float(row["drift"]) == pytest.approx(expected["drift"], rel=1e-5)


@as_a_user
def test_draws_pictures(run):
    pytest.importorskip("matplotlib")
    names = ["curves", "drift", "energies_by_epoch"]
    for name in (*names, "energy_steps", "energy_depth"):
        picture = (run / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG"), name
        assert f"{name}.png" in (run / "report.md").read_text()


@as_a_user
@pytest.mark.timeout(600)
def test_same_seed_gives_the_same_history_even_if_killed(run, tmp_path):
    flags = ("--smoke", "--arms", "physics", "--out", tmp_path)
    state = tmp_path / "physics" / "state.npz"
    process = subprocess.Popen(
        command(*flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    try:
        while not state.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "physics" / "history.csv").exists()
    recipe(*flags, "--resume")
    assert history(run, "physics") == history(tmp_path, "physics")
    assert energies(run, "physics") == energies(tmp_path, "physics")
    one, two = (
        json.loads((folder / "metrics.json").read_text())["physics"]
        for folder in (run, tmp_path)
    )
    for key in ("valid", "test", "energies", "without_potential"):
        assert one[key] == two[key]


def test_arms_start_from_the_weights_they_share(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    arms = importlib.import_module("_hamiltonian_arms")
    architecture = {
        "vocabulary_size": 40,
        "dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 24,
        "num_steps": 2,
    }
    models = {
        arm: arms.build(arm, 3, architecture)
        for arm in (
            "base",
            "koopman",
            "physics",
            "both",
            "euler",
            "frozen",
            "attention_energy",
        )
    }
    values = {
        arm: {
            arms._name(w): keras.ops.convert_to_numpy(w)
            for w in model.trainable_weights
        }
        for arm, model in models.items()
    }
    for arm in ("koopman", "physics", "both", "euler", "frozen"):
        common = values["base"].keys() & values[arm].keys()
        assert {"token_embedding/embeddings", "head/bias"} <= common
        assert sum("mixer" in name for name in common) >= 4
        for name in common:
            np.testing.assert_array_equal(
                values["base"][name], values[arm][name]
            )
    common = values["base"].keys() & values["attention_energy"].keys()
    assert {"token_embedding/embeddings", "head/bias"} <= common
    assert not any("mixer/" in name for name in values["attention_energy"])
    sizes = {
        arm: sum(
            int(np.prod(weight.shape))
            for weight in models[arm].blocks[0].trainable_weights
        )
        for arm in ("base", "attention_energy")
    }
    assert sizes["attention_energy"] == pytest.approx(sizes["base"], rel=0.02)
    assert values["euler"].keys() == values["physics"].keys()
    assert not any("potential" in name for name in values["frozen"])


def test_collapse_fails_a_run(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    arms = importlib.import_module("_hamiltonian_arms")

    experiment = importlib.import_module("_hamiltonian_experiment")

    def complaint(potential_off, *ratios):
        measured = {
            "energies": {"valid": [{"spread_ratio": r} for r in ratios]},
            "valid": {"perplexity": 100.0},
            "without_potential": potential_off,
        }
        return arms.collapse_complaint(*experiment.ratios(measured))

    assert complaint(104.0, 1.0, 0.5) == ""
    assert "0.20" in complaint(104.0, 1.0, 0.2)
    assert "flat" in complaint(102.0, 1.0, 0.5)
    # What is not finite is no pass, whichever block it is.
    for broken in (np.nan, np.inf):
        for ratios in ((broken, 1.0), (1.0, broken), (broken, 0.1)):
            assert "not finite" in complaint(104.0, *ratios)
    assert "flat" in complaint(np.nan, 1.0, 0.5)
    assert "not finite" in arms.collapse_complaint(np.nan, np.nan)


@pytest.mark.parametrize(
    "preset", ["hamiltonian_lm_small", "hamiltonian_lm_stdlib"]
)
def test_arms_have_as_many_weights_in_their_blocks(preset, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    arms = importlib.import_module("_hamiltonian_arms")
    architecture = {**HamiltonianLM.presets[preset], "vocabulary_size": 40}
    base, physics = (
        sum(
            int(np.prod(weight.shape))
            for block in arms.build(arm, 0, architecture).blocks
            for weight in block.trainable_weights
        )
        for arm in ("base", "physics")
    )
    assert physics == pytest.approx(base, rel=0.02)


@as_a_user
def test_does_not_overwrite_a_run(run, stopped):
    assert "--resume" in stopped("--smoke", "--out", run)


@as_a_user
def test_refuses_the_state_of_another_run(run, stopped):
    flags = "--smoke", "--out", run, "--resume", "--seed", 5
    assert "seed (0 in the file, 5 now)" in stopped(*flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "no_such_data"], "no_such_data"),
        (["--preset", "no_such_preset"], "hamiltonian_lm_small"),
        (["--epochs", "0"], "--epochs"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--arms", "lstm"], "--arms"),
        (["--arms", "base", "base"], "each arm once"),
        (["--protocol", "legacy", "--arms", "base"], "--arms"),
        (["--protocol", "legacy", "--preset", "x"], "resnet_bk_legacy"),
    ],
)
def test_bad_input_is_named(flags, message, tmp_path, stopped):
    assert message in stopped("--smoke", "--out", tmp_path, *flags)
