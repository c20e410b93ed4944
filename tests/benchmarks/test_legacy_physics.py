"""What the benchmark of the original's physics run says of its rows."""

import argparse
import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("legacy_physics")


def history(offset, epochs, energies):
    """A run that lies `offset` above the published curve, in epoch 2 twice."""
    from _legacy_published import PERPLEXITY

    curve = [value + offset for value in PERPLEXITY[:epochs]]
    curve[1] += offset
    logs = dict.fromkeys(energies, [0.25] * epochs)
    return {
        "val_batch_mean_perplexity": curve,
        "val_perplexity": curve,
        "seconds": [60.0] * epochs,
        **logs,
    }


def test_verdicts(benchmark):
    keys = ("energy_loss", "energy_drift", "energy_multiplier", "energy_spread")
    rows = []
    for arm, seed, offset, epochs in (
        ("physics", 0, 5.0, 10),
        ("base", 0, 8.0, 10),
        ("physics", 1, -9.0, 4),
    ):
        run = history(offset, epochs, keys)
        rows += benchmark.curve(arm, seed, run, compare=True)
    assert rows[4]["published energy loss"] == 3.1889
    assert rows[3]["published lambda"] == ""
    verdicts = {
        (row["compared"], row["seed"], row["epochs"]): row
        for row in benchmark.judge(rows)
    }
    early = "physics before its start - published"
    for key, largest, epoch, within, last in (
        (("physics - published", 0, "1 to 10"), 10, 2, "yes", 5),
        (("base - published", 0, "1 to 10"), 16, 2, "no", 8),
        ((early, 1, "1 to 4"), -18, 2, "no", -9),
        # Of the epochs that both have; the rest is of one seed.
        ((early, "mean of 2", "1 to 4"), -4, 2, "yes", -2),
        (("physics - published", 0, "5 to 10"), 5, 5, "yes", 5),
        (("physics - base", 0, "1 to 10"), -6, 2, "", -3),
    ):
        row = verdicts.pop(key)
        assert row["largest_difference"] == pytest.approx(largest, abs=0.01)
        assert (row["at_epoch"], row["within_15"]) == (epoch, within)
        assert row["last_difference"] == pytest.approx(last, abs=0.01)
    assert not verdicts
    rows = benchmark.curve("base", 0, run, compare=False)
    assert benchmark.judge(rows)[0]["within_15"] == ""


def test_runs_are_parsed(benchmark):
    assert benchmark.parse_run("base:3:4") == ("base", 3, 4)
    for text in ("base", "koopman:0:1", "base:-1:4", "base:0:0", "base:x:1"):
        with pytest.raises(argparse.ArgumentTypeError, match="ARM:SEED:EPOCHS"):
            benchmark.parse_run(text)


def test_published_multipliers_follow_the_rule(benchmark):
    """But for what AdamW took off: its descent and its decay.

    The drift is a mean over 498 steps, of which 496 compared two batches.
    """
    from _legacy_published import PHYSICS

    multipliers = [0.05, *PHYSICS["lambda"]]
    taken_off = [
        before + 0.01 * (498 * drift - 496 * 0.1) - after
        for before, after, drift in zip(
            multipliers[:-1], multipliers[1:], PHYSICS["drift"], strict=True
        )
    ]
    assert taken_off == pytest.approx(
        [0.098, 0.057, 0.045, 0.039, 0.038, 0.040], abs=0.001
    )
