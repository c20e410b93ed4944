"""What is said of a model's energies equals NumPy's."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import HamiltonianBlock, HarmonicPotential
from orrery.zoo import HamiltonianLM, KoopmanLM
from orrery.zoo.energy_measures import (
    energy_traces,
    evaluate_energies,
    step_angle,
)

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 50, (5, 12)).astype("int32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = HamiltonianLM(50, 16, 2, 2, hidden_dim=24, embedding_stddev=0.5)
    model.build()
    return model


def test_traces_of_the_blocks(model):
    kinetic, potential, kick, _ = energy_traces(model, TOKENS, batch_size=2)
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
    kinetic, potential, kick, angle = energy_traces(model, TOKENS)
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
        assert row["step_angle"] == pytest.approx(
            angle[:, index].max(), rel=1e-3
        )


def test_the_step_angle_is_that_of_the_stiffest_direction():
    """A spring `omega` at every position, and masses that are not one."""
    block = HamiltonianBlock(HarmonicPotential(3.0), step_size=0.1)
    block.build((None, 6))
    masses = np.array([1.0, 0.25, 4.0])
    block.mass_parameter.assign(np.log(np.expm1(masses)))
    q = ops.convert_to_tensor(RNG.normal(size=(5, 3)).astype("float32"))
    angle = ops.convert_to_numpy(step_angle(block, q, None, iterations=12))
    np.testing.assert_allclose(angle, 0.1 * 3.0 / 0.25**0.5, rtol=1e-3)


def test_the_step_angle_equals_the_hessian_of_a_learned_potential(model):
    block = model.blocks[0]
    h = model.trajectory(ops.convert_to_tensor(TOKENS[:1, :4]))[0]
    context = block.context(h)
    q = ops.convert_to_numpy(h)[..., :8].astype("float64")
    angle = ops.convert_to_numpy(
        step_angle(block, ops.convert_to_tensor(q, "float32"), context, 60)
    )
    weights = {
        w.name: ops.convert_to_numpy(w).astype("float64")
        for w in block.potential.weights
    }
    c = ops.convert_to_numpy(context).astype("float64")
    kernel = weights["position_kernel"]
    s = q @ kernel + c @ weights["context_kernel"] + weights["bias"]
    wells = weights["amplitude"] + c @ weights["context_amplitude"]
    wells = wells / np.cosh(s) ** 2
    hessian = np.einsum("im,btm,jm->btij", kernel, wells, kernel)
    hessian += np.diag(np.log1p(np.exp(weights["curvature"])))
    expected = np.abs(np.linalg.eigvalsh(hessian)).max(-1)
    np.testing.assert_allclose(
        angle, block.step_size * np.sqrt(expected), rtol=0.02
    )


@pytest.mark.parametrize(
    ("make", "tokens", "error", "message"),
    [
        (lambda m: m, TOKENS[:0], ValueError, "tokens"),
        (
            lambda m: KoopmanLM(50, 16, 1, 2, hidden_dim=24),
            TOKENS,
            TypeError,
            "HamiltonianBlock",
        ),
    ],
)
def test_bad_input_is_named(model, make, tokens, error, message):
    with pytest.raises(error, match=message):
        evaluate_energies(make(model), tokens)


def test_the_spread_is_compared_with_that_at_initialisation(model):
    first = evaluate_energies(model, TOKENS)
    again = evaluate_energies(model, TOKENS, reference=first)
    assert [row["spread_ratio"] for row in again] == [pytest.approx(1.0)] * 2
    assert not any(row["collapsed"] for row in first + again)
    first[1]["spread"] *= 2.1  # The floor is a half.
    again = evaluate_energies(model, TOKENS, reference=first)
    assert [row["collapsed"] for row in again] == [False, True]


def test_ids_out_of_range_are_named(model):
    with pytest.raises(ValueError, match="between 0 and 49"):
        evaluate_energies(model, TOKENS + 45)
