"""The early-exit recipe at its smallest, on every backend."""

import importlib
import json
from pathlib import Path

import keras
import numpy as np
import orrery
import pytest

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.timeout(600)
def test_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    backend = keras.backend.backend()
    recipe = importlib.import_module("early_exit_lm")
    recipe.main(["--smoke", "--backend", backend, "--out", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for arm in ("exits", "shallow"):
        assert np.isfinite(metrics["arms"][arm]["test"]["perplexity"])
    assert metrics["drafts"]["identical"] == metrics["drafts"]["prompts"]
    model = orrery.load(tmp_path / "model.keras")
    chosen = metrics["thresholds"]["chosen"]
    if chosen is not None:
        chosen = pytest.approx(chosen)
    assert model.thresholds == [chosen]
    assert "Leaving early" in (tmp_path / "report.md").read_text()
