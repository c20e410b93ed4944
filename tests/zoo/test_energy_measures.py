"""What is said of a model's energies equals NumPy's."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.zoo import HamiltonianLM
from orrery.zoo.energy_measures import energy_traces, evaluate_energies

TOKENS = np.random.default_rng(0).integers(0, 50, (5, 12)).astype("int32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = HamiltonianLM(50, 16, 2, 2, hidden_dim=24, embedding_stddev=0.5)
    model.build()
    return model


def test_traces_of_the_blocks(model):
    kinetic, potential, kick = energy_traces(model, TOKENS, batch_size=2)
    assert kinetic.shape == potential.shape == (5, 2, 12, 5)
    states = model.trajectory(ops.convert_to_tensor(TOKENS))
    for index, block in enumerate(model.blocks):
        h, out = (ops.convert_to_numpy(s) for s in states[index : index + 2])
        before, after = h[..., 8:], out[..., 8:]
        mass = np.log1p(np.exp(ops.convert_to_numpy(block.mass_parameter)))
        for p, step in ((before, 0), (after, -1)):
            np.testing.assert_allclose(
                kinetic[:, index, :, step], (p**2 / mass / 2).sum(-1), 1e-4
            )
        change = np.linalg.norm(after - before, axis=-1)
        np.testing.assert_allclose(
            kick[:, index], change / np.linalg.norm(before, axis=-1), 1e-3
        )


def test_measures_equal_numpy(model):
    kinetic, potential, kick = energy_traces(model, TOKENS)
    for index, row in enumerate(evaluate_energies(model, TOKENS, 2)):
        trace = (kinetic + potential)[:, index].astype("float64")
        start, wells = trace[..., 0], potential[:, index, :, 0]
        drift = np.abs(trace - trace[..., :1]).max(-1).mean() / start.std()
        assert row["drift"] == pytest.approx(drift, rel=1e-3)
        assert row["spread"] == pytest.approx(start.std(), rel=1e-4)
        assert np.isnan(row["spread_ratio"])
        share = ((wells - wells.mean()) * (start - start.mean())).mean()
        assert row["potential_share"] == pytest.approx(
            share / start.var(), rel=1e-3
        )
        assert row["kick"] == pytest.approx(kick[:, index].mean(), rel=1e-4)


def test_the_spread_is_compared_with_that_at_initialisation(model):
    first = evaluate_energies(model, TOKENS)
    again = evaluate_energies(model, TOKENS, reference=first)
    assert [row["spread_ratio"] for row in again] == [pytest.approx(1.0)] * 2


def test_ids_out_of_range_are_named(model):
    with pytest.raises(ValueError, match="between 0 and 49"):
        evaluate_energies(model, TOKENS + 45)
