"""The recipe of Koopman autoencoders, as a user runs it."""

import csv
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import orrery
import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "kovae.py"
BACKEND = keras.backend.backend()
ROWS, FLAGS = 200, ("--controls", "valve", "--history", 4, "--horizon", 3)


@pytest.fixture(scope="module")
def main():
    """The recipe in this process; flags of any type."""
    sys.path.insert(0, str(RECIPE.parent))
    call = importlib.import_module("kovae").main
    yield lambda *flags: call(["--backend", BACKEND, *map(str, flags)])
    sys.path.remove(str(RECIPE.parent))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A tank that a valve fills, as a plant would log it."""
    path = tmp_path_factory.mktemp("data") / "tank.csv"
    generator, level = np.random.default_rng(0), 5.0
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["minute", "level", "flow", "valve"])
        valve = 0.5
        for row in range(ROWS):
            if row % 7 == 0:
                valve = generator.uniform()
            writer.writerow([15 * row, level, level**0.5, valve])
            level += 0.2 * (3 * valve - level**0.5)
    return path


@pytest.fixture(scope="module")
def run(main, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    flags = ("--dataset", table, *FLAGS, "--time", "minute", "--unit", "min")
    main(*flags, "--preset", "lean", "--smoke", "--out", folder)
    return folder


def refused(main, capsys, *flags):
    """What the recipe says as it refuses its flags."""
    with pytest.raises(SystemExit) as stop:
        main(*flags)
    assert stop.value.code not in (0, None)
    return f"{stop.value}\n{capsys.readouterr().err}"


def test_leaves_everything_it_promises(run):
    names = ["config.json", "metrics.json", "history.csv", "report.md"]
    for name in (*names, "model.keras", "state.npz"):
        assert (run / name).stat().st_size > 0, name
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["data"]["step"] == 0.25
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["scores"]) == ["KoVAE", "ridge", "persistence"]
    for scores in metrics["scores"].values():
        assert np.isfinite(scores["test"]["nrmse"])
    assert metrics["scores"]["persistence"]["test"]["skill"] == 0
    assert max(metrics["spectrum"]["modulus"]) <= 1
    report = (run / "report.md").read_text()
    assert "| test | persistence |" in report
    model = orrery.load(run / "model.keras")
    rows = np.ones((4, 3), "float32")
    assert model.forecast(rows, np.zeros((3, 1))).shape == (3, 2)


def test_draws_pictures(run):
    pytest.importorskip("matplotlib")
    for name in ("forecast", "errors", "spectrum", "loss"):
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
        assert f"{name}.png" in (run / "report.md").read_text()


@pytest.mark.one_backend("torch")
@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("--koopman", "free"), "model.koopman"),
        (("--history", 5), "model.history"),
        (("--disturbances", "flow"), "data.disturbances"),
        (("--seed", 1), "seed"),
    ],
)
def test_another_run_is_not_continued(main, table, run, other, named):
    flags = ("--dataset", table, *FLAGS, "--time", "minute", "--unit", "min")
    flags += ("--preset", "lean", "--smoke", "--out", run, "--resume")
    with pytest.raises(SystemExit, match=named):
        main(*flags, *other)


@pytest.mark.one_backend("torch")
@pytest.mark.timeout(600)
def test_resumes_after_a_kill(main, table, tmp_path, capsys):
    """Epochs, loss and weights are those of an uninterrupted run."""
    flags = ("--dataset", table, *FLAGS, "--time", "minute", "--unit", "min")
    flags += ("--preset", "new", "--epochs", 12, "--batch-size", 64)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main(*flags, "--out", whole)
    command = [sys.executable, RECIPE, "--backend", BACKEND, *flags]
    process = subprocess.Popen(
        list(map(str, [*command, "--out", parts])),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    try:
        while not (parts / "checkpoints" / "epoch_0010.keras").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    with np.load(parts / "state.npz") as state:
        assert json.loads(str(state["meta"]))["epoch"] < 12
    said = refused(main, capsys, *flags, "--out", parts)
    assert "--resume" in said
    main(*flags, "--out", parts, "--resume")
    rows = []
    for folder in (whole, parts):
        with open(folder / "history.csv", newline="") as file:
            rows.append([{**r, "seconds": ""} for r in csv.DictReader(file)])
    assert len(rows[0]) == 12
    for one, two in zip(*rows, strict=True):
        for name in set(one) - {"seconds"}:
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-4)
    models = [orrery.load(f / "model.keras") for f in (whole, parts)]
    for one, two in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.one_backend("jax")
@pytest.mark.parametrize("preset", ["old", "effective"])
def test_the_reports_presets_run(main, table, tmp_path, preset):
    flags = ("--dataset", table, *FLAGS, "--time", "minute", "--unit", "min")
    main(*flags, "--preset", preset, "--smoke", "--out", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    sizes = config["settings"]["model"]
    published = preset == "effective"
    # The report's own has an optimizer of its own.
    assert config["settings"].get("clip_norm") == (None if published else 1)
    assert sizes["control_dim"] == published
    assert sizes["latent_dim"] == (64 if published else 16)


@pytest.mark.one_backend("torch")
def test_presets_are_those_of_the_report(main):
    presets = importlib.import_module("_kovae_presets")
    table = {  # z, h, alpha, beta, dropout, norm, clip
        "new": (64, 256, 1.0, 0.01, 0.1, "layer", 2.0),
        "old": (16, 64, 0.1, 1e-3, 0.0, None, 1.0),
    }
    names = ("latent_dim", "hidden_dim", "alpha", "beta", "dropout", "norm")
    for preset, expected in table.items():
        model, training = presets.MODELS[preset], presets.TRAINING[preset]
        found = *(model[name] for name in names), training["clip_norm"]
        assert found == expected
        assert training["learning_rate"] == 1e-3 and training["final"] == 1.0
    assert presets.MODELS["new"]["gamma"] == 0.1
    assert presets.MODELS["new"]["margin"] == 0.0
    assert presets.MODELS["old"]["koopman"] == "free"  # No penalty.


@pytest.mark.one_backend("jax")
@pytest.mark.timeout(600)
def test_series_are_made_and_judged(main, tmp_path):
    main("--dataset", "sines", "--smoke", "--out", tmp_path)
    scores = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert set(scores) == {
        f"{name}/{kind}"
        for name in (
            "discriminative",
            "discriminative, strict",
            "predictive",
        )
        for kind in ("made", "real")
    }
    assert "| predictive |" in (tmp_path / "report.md").read_text()
    model = orrery.load(tmp_path / "model.keras")
    assert model.generate(3).shape == (3, 24, 5)


@pytest.mark.one_backend("torch")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dataset", "series.txt"), "--dataset must be"),
        (("--task", "generate"), "does not fit"),
        (("--dataset", "sines", "--size", "full"), "--size has no effect"),
        (("--dataset", "sines", "--koopman", "free"), "--koopman has no"),
        (("--preset", "effective", "--decoder", "mlp"), "--decoder has no"),
        (("--controls", "valve"), "--controls has no effect"),
        (("--horizon", 0), "--horizon must be"),
        (("--epochs", 0), "--epochs must be"),
        (("--dataset", "absent.csv"), "absent.csv"),
    ],
)
def test_bad_flags(main, capsys, flags, message):
    assert message in refused(main, capsys, *flags)
