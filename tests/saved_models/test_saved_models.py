"""Every saved model, on the running backend: outputs, files, card."""

import numpy as np
import orrery
import pytest
from keras import ops
from orrery.datasets import pendulum, pendulum_system
from orrery.zoo import HamiltonianNet
from orrery.zoo.energy_measures import evaluate_energies
from orrery.zoo.model_card import REQUIRED, render_card
from orrery.zoo.publishing import golden_differences
from orrery.zoo.registry import find, read_metadata

NAMES = orrery.list_models()
KOOPMAN = orrery.list_models("koopman_lm*")
HAMILTONIAN = orrery.list_models("hamiltonian_lm*")


def test_the_first_ones_are_here():
    assert {"koopman_lm_small", "koopman_lm_stdlib"} <= set(KOOPMAN)
    assert "hamiltonian_lm_small" in HAMILTONIAN
    assert "hamiltonian_pendulum" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_recorded(name):
    assert max(golden_differences(name).values()) <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_files_metadata_and_card(name):
    folder, metadata = find(name), read_metadata(name)
    assert set(REQUIRED) <= set(metadata)
    assert set(metadata["verified"]) == {"jax", "torch", "tensorflow"}
    assert max(metadata["verified"].values()) <= 1e-4
    for file in metadata["files"]:
        assert (folder / file).stat().st_size < 25_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == render_card(metadata)


@pytest.mark.parametrize("name", KOOPMAN)
def test_keeps_the_operators_but_not_their_statistics(name):
    model = orrery.load(name)
    assert len(model.operators) == model.num_layers
    for operator in model.operators:
        assert operator.distance_from_initial() > 0.01
    lines = (find(name) / "vocabulary.txt").read_text("utf-8").split("\n")
    assert lines[:2] == ["<pad>", "<unk>"]
    assert len([line for line in lines if line]) == model.vocabulary_size


@pytest.mark.parametrize("name", KOOPMAN + HAMILTONIAN)
def test_strictly_causal(name):
    model = orrery.load(name)
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, model.vocabulary_size, (1, 12)).astype("int32")
    for replaced in {(), tuple(range(len(model.operators)))}:
        model.set_replaced(replaced)
        before = ops.convert_to_numpy(model(tokens))
        changed = tokens.copy()
        changed[:, 7:] = 2
        after = ops.convert_to_numpy(model(changed))
        np.testing.assert_array_equal(before[:, :7], after[:, :7])


@pytest.mark.parametrize("name", HAMILTONIAN)
def test_every_block_keeps_its_energy(name):
    """On frequent words in any order, within the steps' stability."""
    tokens = np.random.default_rng(0).integers(2, 200, (2, 16))
    for row in evaluate_energies(orrery.load(name), tokens):
        assert row["drift"] <= 0.01
        assert 0 < row["step_angle"] < 2


def test_the_pendulum_swings_as_the_true_one_does():
    model = HamiltonianNet.from_preset("hamiltonian_pendulum")
    start = np.array([[1.0], [-0.5]]), np.array([[0.0], [1.2]])
    truth = pendulum(2, 301, initial=start)
    q, p = model.rollout(*start, 300)
    np.testing.assert_allclose(q, truth["q"], atol=5e-3)
    energy = pendulum_system().energy(q, p)
    np.testing.assert_allclose(energy, truth["energy"], atol=5e-4)
