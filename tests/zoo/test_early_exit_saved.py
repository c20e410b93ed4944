"""The saved early-exit model: what its file promises, on every backend."""

import csv
from pathlib import Path

import numpy as np
import orrery
import pytest
from keras import ops
from orrery.zoo.exit_decoding import ExitDecoder
from orrery.zoo.registry import read_metadata
from orrery.zoo.step_scores import score_steps

ROOT = Path(__file__).resolve().parents[2]
NAME = "early_exit_lm_small"


@pytest.fixture(scope="module")
def model():
    return orrery.load(NAME)


def table(what):
    with open(ROOT / "results" / f"{NAME}_{what}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_threshold_is_the_chosen_one(model):
    (chosen,) = (r for r in table("thresholds") if r["chosen"])
    level = pytest.approx(float(chosen["threshold"]), rel=1e-4)
    assert model.thresholds == [level]
    card = read_metadata(ROOT / "saved_models" / NAME)
    assert card["exits"]["threshold in the file"] == level


def test_risks_are_those_of_the_table(model):
    """And of these weights, whichever backend has read them."""
    before = model.thresholds
    card = read_metadata(ROOT / "saved_models" / NAME)
    for row in table("risks"):
        found = model.set_risk(float(row["limit"]))
        level = float(row["threshold"])
        assert found["threshold"] == pytest.approx(level, rel=1e-4)
        assert found["n"] == int(row["calibrated on"])
        assert found["empirical_risk"] <= found["alpha"]
        assert (
            f"{found['threshold']:.4f}"
            in (card["calibrated_risks"][row["limit"]])
        )
    model.set_threshold(before)


def test_bytes_leave_alike_in_texts_and_in_steps(model):
    text = b"The history of the city begins in the middle of the 12th century"
    tokens = np.frombuffer(text, "uint8").astype("int32")[None]
    routed = ops.convert_to_numpy(model.route(tokens)["exit"])
    loss, left = score_steps(ExitDecoder(model), tokens)
    np.testing.assert_array_equal(left, routed[:, :-1])
    assert 0.2 < (left == 0).mean() < 0.8
    assert loss.mean() < 2.0
