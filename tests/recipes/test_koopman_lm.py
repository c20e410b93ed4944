"""The recipe as a user runs it: results, resumption, broken input."""

import csv
import json
import os
import re
import signal
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


def command(*flags):
    return [sys.executable, str(RECIPE), "--backend", BACKEND, *map(str, flags)]


def recipe(*flags, check=True):
    done = subprocess.run(
        command(*flags), capture_output=True, text=True, timeout=280
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


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
    recipe("--smoke", "--out", folder)
    return folder


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
    standard = metrics["arms"]["koopman"]["valid"]["perplexity"]
    for curve in metrics["replaced"].values():
        assert len(curve) == 5
        assert curve[0] == pytest.approx(standard, rel=1e-4)


def test_draws_pictures(run):
    pytest.importorskip("matplotlib")
    for name in (
        "curves.png",
        "koopman.png",
        "replaced.png",
        "koopman/operators/eigenvalues.png",
    ):
        assert (run / name).read_bytes().startswith(b"\x89PNG"), name


def test_same_seed_gives_the_same_history(run, tmp_path):
    recipe("--smoke", "--arms", "koopman", "--out", tmp_path / "again")
    assert history(run, "koopman") == history(tmp_path / "again", "koopman")


def test_killed_run_resumes_to_the_same_history(run, tmp_path):
    """SIGKILL in the second epoch, then --resume."""
    flags = ("--smoke", "--arms", "koopman", "--out", tmp_path)
    process = subprocess.Popen(
        command(*flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    state = tmp_path / "koopman" / "state.npz"
    deadline = time.monotonic() + 200
    while not state.exists():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "koopman" / "history.csv").exists()
    recipe(*flags, "--resume")
    assert history(run, "koopman") == history(tmp_path, "koopman")


def test_does_not_overwrite_a_run(run):
    done = recipe("--smoke", "--out", run, check=False)
    assert done.returncode != 0
    assert "--resume" in done.stderr


def test_refuses_the_state_of_another_configuration(run):
    done = recipe("--smoke", "--out", run, "--resume", "--seed", 5, check=False)
    assert done.returncode != 0
    assert "seed" in done.stderr


def test_scores_any_text(run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Return the value of the argument as a string . " * 60)
    scores = json.loads(recipe("--evaluate", run, text).stdout)
    assert scores["perplexity"] == pytest.approx(
        np.exp(scores["nats_per_token"])
    )
    assert scores["scored_tokens"] % 128 == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "no_such_data"], "no_such_data"),
        (["--preset", "no_such_preset"], "koopman_lm_small"),
        (["--batch-size", "0"], "--batch-size"),
        (["--epochs", "0"], "--epochs"),
        (["--seed", "-1"], "--seed"),
        (["--precision", "float8"], "--precision"),
        (["--evaluate", "no_such_model", "no_such_file"], "no_such_model"),
    ],
)
def test_bad_input_is_named(flags, message, tmp_path):
    done = recipe("--smoke", "--out", tmp_path, *flags, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_and_missing_backends(tmp_path):
    for name, message in (("numpy3", "jax, torch, tensorflow"),):
        done = subprocess.run(
            [sys.executable, str(RECIPE), "--backend", name],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert message in done.stderr
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
def test_out_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder is needed")
    done = recipe("--smoke", "--out", blocked / "run", check=False)
    assert done.returncode != 0
    assert "--out" in done.stderr
