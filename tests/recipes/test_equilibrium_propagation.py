"""The recipe of equilibrium propagation, as a user runs it."""

import csv
import importlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "equilibrium_propagation.py"
BACKEND = keras.backend.backend()
ARMS = ("equilibrium", "backprop", "mlp")

pytestmark = pytest.mark.one_backend("torch")


def recipe(name="equilibrium_propagation"):
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE.parent))


@pytest.fixture
def stopped(capsys):
    """What the recipe says as it refuses its flags, in this process."""

    def call(*flags):
        with pytest.raises(SystemExit) as stop:
            recipe().main(["--backend", BACKEND, *map(str, flags)])
        assert stop.value.code not in (0, None)
        return f"{stop.value}\n{capsys.readouterr().err}"

    return call


def run(*flags):
    flags = ["--smoke", "--dataset", "synthetic", "--backend", BACKEND, *flags]
    recipe().main([*map(str, flags)])


def history(folder, arm):
    with open(folder / arm / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            key: value
            for key, value in row.items()
            if not key.endswith("seconds")
        }
        for row in rows
    ]


def test_leaves_everything_and_resumes(tmp_path, monkeypatch, stopped):
    """Stopped after an epoch and continued: the numbers of a run in one go."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run("--out", whole)
    names = ["config.json", "metrics.json", "report.md", "model.keras"]
    names += [f"{arm}/history.csv" for arm in ARMS]
    for name in names:
        assert (whole / name).stat().st_size > 0, name
    metrics = json.loads((whole / "metrics.json").read_text())
    assert tuple(metrics) == ARMS
    for arm in ARMS:
        assert 0 < metrics[arm]["test"]["accuracy"] <= 1
    for arm in ("equilibrium", "backprop"):
        assert metrics[arm]["test"]["residual"] <= 1e-6
        assert metrics[arm]["test"]["relaxation_steps"] > 1
    text = (whole / "report.md").read_text()
    assert "back-propagation, same energy" in text
    if importlib.util.find_spec("matplotlib"):
        for name in ("accuracy", "relaxation"):
            picture = (whole / f"{name}.png").read_bytes()
            assert picture.startswith(b"\x89PNG"), name
            assert f"{name}.png" in text
    loaded = keras.saving.load_model(whole / "model.keras")
    assert np.isfinite(loaded.predict(np.ones((2, 16)), verbose=0)).all()

    experiment = recipe("_equilibrium_experiment")

    class Stop(experiment.EpochSeconds):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            if epoch == 1:
                raise OSError("killed")

    monkeypatch.setattr(experiment, "EpochSeconds", Stop)
    assert "killed" in stopped(
        *("--smoke", "--dataset", "synthetic", "--arms", "equilibrium"),
        *("--out", parts),
    )
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    assert not (parts / "equilibrium" / "history.csv").exists()
    monkeypatch.setattr(
        experiment, "trace", lambda *_: {"residual": np.ones(3)}
    )
    monkeypatch.setattr(experiment, "write_report", lambda folder: None)
    state = parts / "equilibrium" / "state.npz"
    assert state.exists()
    run("--arms", "equilibrium", "--out", parts, "--resume")
    assert history(whole, "equilibrium") == history(parts, "equilibrium")
    assert "--resume" in stopped("--smoke", "--out", whole)
    flags = ("--smoke", "--dataset", "synthetic", "--out", whole)
    changed = stopped(*flags, "--resume", "--seed", 5)
    assert "seed (0 in the file, 5 now)" in changed


@pytest.mark.parametrize(
    ("residual", "rests"), [(1e-7, True), (1e-5, False), (np.nan, False)]
)
def test_the_report_says_what_is_not_at_rest(residual, rests, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    report = importlib.import_module("_equilibrium_report")
    numbers = ("beta", "learning_rate", "mlp_learning_rate", "tolerance")
    names = ("dataset", "hidden_dims", "rho", "epochs", "batch_size", "seed")
    names += ("backend", "unrolled_steps", "max_steps")
    config = {
        "arguments": {
            **dict.fromkeys(names, 1),
            **dict.fromkeys(numbers, 1e-6),
        },
        "examples": {"train": 1, "valid": 1, "test": 1},
        "versions": {"command": ""},
    }
    test = {"accuracy": 1.0, "relaxation_steps": 1.0, "residual": residual}
    metrics = {
        "equilibrium": {
            "parameters": 1,
            "valid": {"accuracy": 1.0},
            "test": test,
            "seconds": 1.0,
        }
    }
    text = report.report(config, metrics, [])
    assert ("Not at rest" not in text) == rests


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "mnist"], "--dataset"),
        (["--epochs", "0"], "--epochs"),
        (["--beta", "1.5"], "beta"),
        (["--rho", "relu"], "--rho"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--max-steps", "0"], "--max-steps"),
        (["--arms", "lstm"], "--arms"),
        (["--data-dir", "x"], "--data-dir"),
    ],
)
def test_bad_input_is_named(flags, message, tmp_path, stopped):
    out = tmp_path / "out"
    assert message in stopped("--dataset", "synthetic", "--out", out, *flags)
    assert not out.exists()
