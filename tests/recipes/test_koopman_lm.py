"""The recipe as a user runs it: results, resumption, broken input."""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "koopman_lm.py"
BACKEND = keras.backend.backend()
PHASES = ("koopman", "koopman/operators_only")


def command(*flags):
    return [sys.executable, str(RECIPE), "--backend", BACKEND, *map(str, flags)]


def recipe(*flags, check=True, env=None):
    done = subprocess.run(
        command(*flags), capture_output=True, text=True, timeout=580, env=env
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def stopped(monkeypatch, capsys):
    """What the recipe says as it refuses its flags, in this process."""
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    main = importlib.import_module("koopman_lm").main

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
    """With all its arms; on two backends with those that tests compare."""
    folder = tmp_path_factory.mktemp("recipe")
    arms = [] if BACKEND == "torch" else ["--arms", "koopman", "base"]
    recipe("--smoke", "--out", folder, *arms)
    return folder


@pytest.mark.skipif(BACKEND != "torch", reason="with torch all arms run")
def test_leaves_everything_it_promises(run):
    for name in (
        "config.json",
        "metrics.json",
        "report.md",
        "model.keras",
        "vocabulary.txt",
        "sample.txt",
        "koopman/history.csv",
        "base/history.csv",
        "lstm/history.csv",
    ):
        assert (run / name).stat().st_size > 0, name
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["arms"]) == {"koopman", "base", "lstm", "ngram"}
    for kind, curve in metrics["replaced"].items():
        arm = "base" if kind.startswith("base arm") else "koopman"
        standard = metrics["arms"][arm]["valid"]["perplexity"]
        assert len(curve) == 5
        assert curve[0] == pytest.approx(standard, rel=1e-4)
    assert [row["block"] for row in metrics["operators"]] == [1, 2, 3, 4]
    for row in metrics["operators"]:
        assert all(np.isfinite(value) for value in row.values())
        assert row["distance_from_identity"] > 0


def test_draws_pictures(run):
    pytest.importorskip("matplotlib")
    for name in (
        "curves.png",
        "koopman.png",
        "replaced.png",
        "koopman/operators/eigenvalues.png",
    ):
        assert (run / name).read_bytes().startswith(b"\x89PNG"), name


def kill(flags, path):
    """SIGKILL to the recipe as soon as it has written this file."""
    process = subprocess.Popen(
        command(*flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    try:
        while not path.exists():
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run killed in an epoch, between its phases, and after the last."""
    folder = tmp_path_factory.mktemp("resumed")
    koopman, alone = (folder / arm for arm in PHASES)
    flags = ("--smoke", "--arms", "koopman", "--out", folder)
    kill(flags, koopman / "state.npz")
    assert not (koopman / "history.csv").exists()
    flags += ("--resume",)
    kill(flags, koopman / "history.csv")
    assert not (alone / "state.npz").exists()
    kill(flags, alone / "state.npz")
    assert not (folder / "metrics.json").exists()
    recipe(*flags)
    return folder


@pytest.mark.timeout(900)
@pytest.mark.parametrize("phase", PHASES)
def test_same_seed_gives_the_same_history_even_if_killed(phase, run, resumed):
    assert history(run, phase) == history(resumed, phase)


@pytest.mark.timeout(900)
def test_same_seed_gives_the_same_perplexities_even_if_killed(run, resumed):
    def perplexities(folder):
        metrics = json.loads((folder / "metrics.json").read_text())
        arm = metrics["arms"]["koopman"]
        curves = metrics["replaced"]
        curves.pop("base arm, random lift, K by EDMD", None)  # one run's only
        return arm["valid"], arm["test"], curves, metrics["operators"]

    assert perplexities(run) == perplexities(resumed)


def test_operators_train_alone_in_the_end(run):
    before = history(run, "koopman")[-1]["val_perplexity"]
    alone = history(run / "koopman", "operators_only")
    assert [row["val_perplexity"] for row in alone] == [before]


def contents(folder):
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_does_not_overwrite_a_run(run, stopped):
    before = contents(run)
    assert "--resume" in stopped("--smoke", "--out", run)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--seed", 5, "seed (0 in the file, 5 now)"),
        ("--batch-size", 16, "batch_size (32 in the file, 16 now)"),
        ("--tokenizer", "byte_pair", "tokenizer ('word' in the file"),
        ("--precision", "mixed_bfloat16", "precision ('float32' in the file"),
        ("--preset", "koopman_lm_small", "layers (4 in the file, 5 now)"),
    ],
)
def test_refuses_the_state_of_another_run(run, flag, value, message, stopped):
    if value == "byte_pair":
        pytest.importorskip("tokenizers")
    before = contents(run)
    flags = "--smoke", "--out", run, "--resume", flag, value
    assert message in stopped(*flags)
    assert contents(run) == before


def test_a_new_arm_joins_the_measures_of_a_run(run):
    recipe("--smoke", "--arms", "ngram", "--out", run, "--resume")
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["arms"]) >= {"koopman", "base", "ngram"}
    assert "replaced" in metrics


@pytest.mark.one_backend("torch")
def test_byte_pairs_lie_beside_the_model(tmp_path):
    pytest.importorskip("tokenizers")
    flags = ["--arms", "base", "--tokenizer", "byte_pair", "--epochs", 1]
    recipe("--smoke", *flags, "--out", tmp_path / "run")
    text = tmp_path / "text.txt"
    text.write_text("Return the value of the argument as a string. " * 60)
    model = tmp_path / "run" / "base" / "model.keras"
    scores = json.loads(recipe("--evaluate", model, text).stdout)
    assert scores["unknown_rate"] == 0.0


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution needs JAX")
def test_two_devices_give_the_history_of_one(run, tmp_path):
    flags = ["--smoke", "--arms", "base", "--devices", 2, "--out", tmp_path]
    devices = "--xla_force_host_platform_device_count=2"
    recipe(*flags, env={**os.environ, "XLA_FLAGS": devices})
    for one, two in zip(
        history(run, "base"), history(tmp_path, "base"), strict=True
    ):
        for key in ("perplexity", "val_perplexity"):
            assert float(one[key]) == pytest.approx(float(two[key]), rel=1e-3)


@pytest.mark.one_backend("torch")
def test_operators_in_fallback_fail_the_run(tmp_path):
    # No operator is as good as `enter` demands here.
    changed = (
        "import koopman_lm, _koopman_setup as setup; "
        "setup.SCHEDULE.update(enter=1e-9, leave=1e-9); koopman_lm.main()"
    )
    flags = ["--smoke", "--arms", "koopman", "--epochs", 4, "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, "-c", changed, *map(str, flags)],
        env={**os.environ, "PYTHONPATH": str(RECIPE.parent)},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 1
    assert "in fallback for 100% of its epochs" in done.stderr
    assert (tmp_path / "report.md").exists()


def test_a_fifth_of_the_epochs_in_fallback_is_allowed(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    arms = importlib.import_module("_koopman_arms")
    assert arms.fallback_complaint({}) == ""
    assert arms.fallback_complaint({"fallback_fraction": 0.2}) == ""
    assert "25%" in arms.fallback_complaint({"fallback_fraction": 0.25})


@pytest.mark.one_backend("torch")
def test_fine_tunes_a_saved_model(run, tmp_path):
    flags = ["--arms", "koopman", "--operator-epochs", 0, "--epochs", 1]
    recipe("--smoke", *flags, "--start-from", run, "--out", tmp_path / "more")
    first, more = (
        float(history(folder, "koopman")[0]["val_perplexity"])
        for folder in (run, tmp_path / "more")
    )
    assert more < first


@pytest.mark.one_backend("torch")
def test_trains_the_original_network(tmp_path):
    recipe("--smoke", "--protocol", "legacy", "--epochs", 2, "--out", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == {"valid", "koopman_forward", "operator_change"}
    assert len(history(tmp_path.parent, tmp_path.name)) == 2
    assert "published" in (tmp_path / "report.md").read_text()


@pytest.mark.one_backend("torch")
def test_trains_the_original_physics_run(tmp_path):
    preset = "resnet_bk_legacy_physics"
    flags = ["--protocol", "legacy", "--preset", preset, "--epochs", 5]
    recipe("--smoke", *flags, "--out", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == {"valid"}
    rows = history(tmp_path.parent, tmp_path.name)
    assert [float(row["energy_loss"]) > 0 for row in rows] == 4 * [False] + [
        True
    ]
    report = (tmp_path / "report.md").read_text()
    assert "energy spread" in report
    assert "before they are in the loss" in report
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "energies.png").exists()


def test_scores_any_text(run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Return the value of the argument as a string . " * 60)
    scores = json.loads(recipe("--evaluate", run, text).stdout)
    assert scores["perplexity"] == pytest.approx(
        np.exp(scores["nats_per_token"])
    )
    assert scores["tokens"] == 600
    # Four blocks of 129, of which 128 are scored, and one of 84.
    assert scores["scored_tokens"] == 4 * 128 + 83
    text.write_text("Return the value")
    assert json.loads(recipe("--evaluate", run, text).stdout)["tokens"] == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "no_such_data"], "no_such_data"),
        (["--preset", "no_such_preset"], "koopman_lm_small"),
        (["--batch-size", "0"], "--batch-size"),
        (["--epochs", "0"], "--epochs"),
        (["--operator-epochs", "-1"], "--operator-epochs"),
        (["--protocol", "legacy", "--preset", "x"], "resnet_bk_legacy"),
        (["--protocol", "legacy", "--tokenizer", "byte_pair"], "--tokenizer"),
        (["--prompt", ""], "--prompt"),
        (["--seed", "-1"], "--seed"),
        (["--precision", "float8"], "--precision"),
        (["--evaluate", "model", "file"], "--out has no effect"),
        (["--start-from", "x", "--precision", "mixed_bfloat16"], "--precision"),
        (["--learning-rate", "0"], "--learning-rate"),
    ],
)
def test_bad_input_is_named(flags, message, tmp_path, stopped):
    assert message in stopped("--smoke", "--out", tmp_path, *flags)


def test_a_model_to_score_that_is_not_there(stopped):
    message = stopped("--evaluate", "no_such_model", "no_such_file")
    assert "no_such_model" in message


def test_unknown_and_missing_backends(tmp_path):
    done = recipe("--backend", "numpy3", check=False)
    assert done.returncode == 2
    assert "jax, torch, tensorflow" in done.stderr
    # A backend that is not installed: hide it from the import system.
    code = (
        "import importlib.util, runpy, sys; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda n, *a: None if n == 'torch' "
        "else find(n, *a);"
        f"sys.path.insert(0, {str(RECIPE.parent)!r});"
        f"sys.argv = [{str(RECIPE)!r}, '--backend', 'torch'];"
        f"runpy.run_path({str(RECIPE)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert re.search(r"pip install .*orrery\[torch\]", done.stderr)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_out_that_cannot_be_written(tmp_path, stopped):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder is needed")
    assert "--out" in stopped("--smoke", "--out", blocked / "run")
