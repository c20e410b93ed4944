"""What the ablation says of a run."""

import argparse
import importlib
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("ratios", [(math.nan, 0.1), (0.1, math.nan)])
def test_a_block_that_is_not_finite_is_not_passed_over(ratios, monkeypatch):
    for room in ("recipes", "benchmarks"):
        monkeypatch.syspath_prepend(ROOT / room)
    ablation = importlib.import_module("ablation")
    names = ("drift", "shuffled_ratio", "potential_share", "kick")
    measured = {
        "parameters": 1,
        "operator_parameters": 0,
        "valid": {"perplexity": 100.0},
        "test": {"perplexity": 100.0},
        "seconds_per_epoch": 1.0,
        "contributions": {},
        "without_potential": 110.0,
        "energies": {
            "test": [
                {**dict.fromkeys(names, 0.1), "spread_ratio": ratio}
                for ratio in ratios
            ]
        },
    }
    settings = argparse.Namespace(epochs=1, learning_rate=1e-3)
    row = ablation.row("physics", 0, settings, measured)
    assert math.isnan(row["smallest_spread_ratio"])
