"""The block: structure, causality, gradients, its account of energy."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import (
    AttentionPotential,
    CausalSelfAttention,
    HamiltonianBlock,
    HarmonicPotential,
    HenonHeilesPotential,
    MLPPotential,
    PendulumPotential,
    Potential,
)
from orrery.testing import compare_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 8)).astype("float32")


@keras.saving.register_keras_serializable(package="orrery_tests")
class Quartic(Potential):
    """What a user writes: two methods."""

    def energy(self, q, context=None):
        return ops.sum(q**4, axis=-1) / 4

    def force(self, q, context=None):
        return -(q**3)


COUPLINGS = {
    "none": lambda **kw: HamiltonianBlock(MLPPotential(9), **kw),
    "context": lambda heads=2, **kw: HamiltonianBlock(
        MLPPotential(9), CausalSelfAttention(heads), **kw
    ),
    "attention_energy": lambda heads=2, **kw: HamiltonianBlock(
        AttentionPotential(heads, 9), **kw
    ),
}
couplings = pytest.mark.parametrize("coupling", COUPLINGS)


def numpy_block(layer, h):
    """Leapfrog in float64 with the layer's own context."""
    context = layer.context(ops.convert_to_tensor(h))
    w, b, a, k = (
        ops.convert_to_numpy(x).astype("float64")
        for x in (
            layer.potential.position_kernel,
            layer.potential.bias,
            layer.potential.amplitude,
            layer.potential.curvature,
        )
    )
    shift, pull = b, 0.0
    if context is not None:
        u, c, g = (
            ops.convert_to_numpy(x).astype("float64")
            for x in (
                layer.potential.context_kernel,
                layer.potential.context_force,
                layer.potential.context_amplitude,
            )
        )
        context = ops.convert_to_numpy(context).astype("float64")
        shift, pull, a = b + context @ u, context @ c, a + context @ g
    mass = np.log1p(np.exp(ops.convert_to_numpy(layer.mass_parameter)))

    def force(q):
        return (
            pull - (np.tanh(q @ w + shift) * a) @ w.T - np.log1p(np.exp(k)) * q
        )

    q, p = np.split(h.astype("float64"), 2, -1)
    for _ in range(layer.num_steps):
        p = p + layer.step_size / 2 * force(q)
        q = q + layer.step_size * p / mass
        p = p + layer.step_size / 2 * force(q)
    return np.concatenate([q, p], -1)


@couplings
def test_contract(coupling, contract):
    reference = None if coupling == "attention_energy" else numpy_block
    contract(COUPLINGS[coupling], X, reference=reference)


def test_contract_without_a_sequence(contract):
    contract(COUPLINGS["none"], X[:, 0], reference=numpy_block)


def test_contract_with_energies(contract):
    def make():
        return HamiltonianBlock(MLPPotential(9), return_energies=True)

    contract(make, X)


def jacobian(function, x):
    """`d function / d x` of one vector, by forward mode."""
    columns = [
        ops.convert_to_numpy(
            ops.jvp(
                function,
                (ops.convert_to_tensor(x),),
                (ops.convert_to_tensor(unit),),
            )[1]
        )
        for unit in np.eye(x.size, dtype="float32").reshape(-1, *x.shape)
    ]
    return np.stack([c.ravel() for c in columns], -1).astype("float64")


def symplectic_error(matrix):
    n = len(matrix) // 2
    omega = np.block(
        [[np.zeros((n, n)), np.eye(n)], [-np.eye(n), np.zeros((n, n))]]
    )
    error = np.abs(matrix.T @ omega @ matrix - omega).max()
    return error / max(1.0, np.abs(matrix).max() ** 2)


@pytest.mark.parametrize("half", [1, 2, 8])
@pytest.mark.parametrize("steps", [1, 4, 16])
@pytest.mark.parametrize("integrator", ["leapfrog", "yoshida4"])
def test_symplectic(half, steps, integrator):
    block = HamiltonianBlock(
        MLPPotential(12), num_steps=steps, integrator=integrator
    )
    x = RNG.normal(size=2 * half).astype("float32")
    block.build((1, 2 * half))
    disturb(block)
    matrix = jacobian(lambda h: block(h[None])[0], x)
    assert symplectic_error(matrix) < 1e-5
    assert np.linalg.det(matrix) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 16])
@pytest.mark.parametrize(
    ("coupling", "half"),
    [
        *(("context", half) for half in (1, 2, 8)),
        # Rotary positions turn pairs: none with one position.
        *(("attention_energy", half) for half in (2, 8)),
    ],
)
def test_symplectic_in_a_tokens_own_state(coupling, half, steps):
    """At a fixed context; with past keys, without fixing anything."""
    block = COUPLINGS[coupling](heads=max(1, half // 4), num_steps=steps)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 2 * half)).astype("float32")
    block.build(x.shape)
    disturb(block)
    h = ops.convert_to_tensor(x)
    context, token = block.context(h), 2

    def own(x):
        before, after = h[0, :token], h[0, token + 1 :]
        changed = ops.concatenate([before, x[None], after])[None]
        # Keys of later tokens may move, and must not matter.
        own = context if coupling == "context" else block.context(changed)
        states = block.integrate(changed[..., :half], changed[..., half:], own)
        return ops.concatenate(states[-1], axis=-1)[0, token]

    matrix = jacobian(own, x[0, token])
    assert symplectic_error(matrix) < 1e-5
    # Rounding counts against the entries, which grow with the steps.
    tolerance = 1e-5 * max(1.0, np.abs(matrix).max())
    assert np.linalg.det(matrix) == pytest.approx(1.0, abs=tolerance)


def test_forward_euler_is_not_symplectic():
    block = HamiltonianBlock(MLPPotential(12), integrator="forward_euler")
    block.build((1, 4))
    disturb(block)
    matrix = jacobian(lambda h: block(h[None])[0], X[0, 0, :4])
    assert symplectic_error(matrix) > 1e-3


def disturb(block):
    """Random weights, of the order of a trained block's."""
    rng = np.random.default_rng(1)
    potential = block.potential
    potential.set_weights(
        [
            w + rng.normal(size=w.shape, scale=0.3)
            for w in potential.get_weights()
        ]
    )


@couplings
@pytest.mark.parametrize(
    "integrator", ["symplectic_euler", "leapfrog", "yoshida4"]
)
def test_inverse(coupling, integrator):
    block = COUPLINGS[coupling](integrator=integrator)
    block.build(X.shape)
    disturb(block)
    context = block.context(ops.convert_to_tensor(X))
    back = block.inverse(block(X), context)
    np.testing.assert_allclose(ops.convert_to_numpy(back), X, atol=1e-5)


@pytest.mark.parametrize("coupling", ["context", "attention_energy"])
def test_no_context_is_no_other_potential(coupling):
    block = COUPLINGS[coupling]()
    block.build(X.shape)
    halves = (
        ops.convert_to_tensor(X[..., :4]),
        ops.convert_to_tensor(X[..., 4:]),
    )
    for wrong in (
        lambda: block.inverse(X),
        lambda: block.trajectory(X),
        lambda: block.integrate(*halves),
        lambda: block.energy(*halves),
        lambda: block.energies([halves]),
    ):
        with pytest.raises(ValueError, match="`context` is needed"):
            wrong()


@pytest.mark.parametrize("integrator", ["forward_euler", "rk4"])
def test_the_controls_have_no_inverse(integrator):
    block = HamiltonianBlock(integrator=integrator)
    block.build(X.shape)
    with pytest.raises(ValueError, match=f"symplectic.*{integrator}"):
        block.inverse(X)


def test_flipped_momenta_run_back():
    block = HamiltonianBlock(MLPPotential(12))
    block.build(X.shape)
    flip = np.repeat([1.0, -1.0], 4).astype("float32")
    back = flip * ops.convert_to_numpy(
        block(flip * ops.convert_to_numpy(block(X)))
    )
    np.testing.assert_allclose(back, X, atol=1e-5)


def test_a_hundred_steps_of_named_potentials_run_back():
    for potential, x in (
        (PendulumPotential(), X),
        (HarmonicPotential(1.0, 0.1), X),
        (HenonHeilesPotential(), 0.1 * X[..., :4]),  # below the escape
    ):
        block = HamiltonianBlock(potential, num_steps=100, step_size=0.1)
        block.build(x.shape)
        back = block.inverse(block(x))
        np.testing.assert_allclose(ops.convert_to_numpy(back), x, atol=1e-5)


def test_harmonic_invariant_over_a_thousand_steps():
    omega, step = 1.0, 0.2
    block = HamiltonianBlock(HarmonicPotential(omega), mass="identity")
    block.build((1, 2))
    q = ops.convert_to_tensor(np.array([[1.0]], "float32"))
    states = block.integrate(q, 0.3 * q, num_steps=1000, step_size=step)
    q, p = (
        np.array([ops.convert_to_numpy(s[i])[0, 0] for s in states])
        for i in (0, 1)
    )
    kept = p**2 + omega**2 * (1 - (omega * step) ** 2 / 4) * q**2
    np.testing.assert_allclose(kept, kept[0], rtol=1e-5)


@couplings
def test_later_tokens_change_nothing_before_them(coupling):
    block = COUPLINGS[coupling]()
    before = ops.convert_to_numpy(block(X))
    for t in range(X.shape[1] - 1):
        changed = X.copy()
        changed[:, t + 1 :] = RNG.normal(size=changed[:, t + 1 :].shape)
        after = ops.convert_to_numpy(block(changed))
        np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])
    if coupling != "none":
        changed = X.copy()
        changed[:, 0] += 1.0
        after = ops.convert_to_numpy(block(changed))
        assert np.abs(after[:, 1:] - before[:, 1:]).max() > 1e-4


@couplings
def test_streaming_equals_the_full_pass(coupling):
    block = COUPLINGS[coupling]()
    full = ops.convert_to_numpy(block(X))
    state = block.initial_state(2, 6)
    for t in range(6):
        y, state = block.step(ops.convert_to_tensor(X[:, t : t + 1]), state, t)
        np.testing.assert_allclose(
            ops.convert_to_numpy(y)[:, 0], full[:, t], 1e-5, 1e-5
        )


def test_energies_along_the_steps():
    block = HamiltonianBlock(
        PendulumPotential(), mass="identity", return_energies=True
    )
    out, trace = (ops.convert_to_numpy(t) for t in block(X))
    for h, column in ((X, 0), (out, -1)):
        q, p = np.split(h, 2, -1)
        energy = (p**2 / 2 + 1 - np.cos(q)).sum(-1)
        np.testing.assert_allclose(trace[..., column], energy, rtol=1e-5)
    assert trace.shape == (2, 6, 5)


def test_the_account_equals_numpy_and_is_kept_in_training_alone():
    block = COUPLINGS["context"](return_energies=True, energy_tokens=6)
    _, trace = block(X)
    assert np.isnan(block.account.measures()["drift"])
    block(X, training=True)
    # Six tokens are the batch's first sequence.
    trace = ops.convert_to_numpy(trace)[0].astype("float64")
    drift = np.abs(trace - trace[:, :1]).max(-1).mean() / trace[:, 0].std()
    measures = block.account.measures()
    assert measures["drift"] == pytest.approx(drift, rel=1e-3)
    assert measures["spread"] == pytest.approx(trace[:, 0].std(), rel=1e-4)
    assert measures["spread_ratio"] == pytest.approx(1.0)
    block(X)
    assert block.account.measures() == measures


def test_the_context_is_dropped_in_training_alone():
    block = COUPLINGS["context"](dropout=0.5)
    quiet = ops.convert_to_numpy(block(X))
    np.testing.assert_array_equal(quiet, ops.convert_to_numpy(block(X)))
    noisy = ops.convert_to_numpy(block(X, training=True))
    assert np.abs(noisy - quiet).max() > 0.01


@couplings
@pytest.mark.parametrize("return_energies", [False, True])
def test_rematerialisation_changes_no_gradient(coupling, return_energies):
    """In training, with the loss on energy and dropout."""

    def trained(rematerialize):
        keras.utils.set_random_seed(0)
        arguments = {} if coupling != "context" else {"dropout": 0.2}
        block = COUPLINGS[coupling](
            energy_tokens=6,
            energy_weight=0.1,
            rematerialize=rematerialize,
            return_energies=return_energies,
            **arguments,
        )
        block.build(X.shape)
        rng = np.random.default_rng(2)
        for weight in block.trainable_weights:
            weight.assign(rng.normal(size=weight.shape, scale=0.3))
        inputs = keras.Input(X.shape[1:])
        outputs = block(inputs)
        model = keras.Model(inputs, outputs)
        targets = [np.zeros_like(X)]
        if return_energies:
            targets.append(np.zeros(outputs[1].shape[1:], "float32")[None])
            targets[1] = np.repeat(targets[1], len(X), axis=0)
        model.compile(keras.optimizers.SGD(1.0), ["mse"] * len(targets))
        weights = block.trainable_weights
        before = [ops.convert_to_numpy(w) for w in weights]
        model.fit(X, targets, verbose=0)
        after = [ops.convert_to_numpy(w) for w in weights]
        moved = [a - b for a, b in zip(after, before, strict=True)]
        return moved, block.account.measures()

    (plain, energies), (again, others) = trained(False), trained(True)
    assert any(np.abs(change).max() > 1e-3 for change in plain)
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert energies == pytest.approx(others, rel=1e-5)
    assert energies["drift"] > 0 and energies["contribution"] > 0


@couplings
def test_the_force_is_the_slope_of_the_energy(coupling):
    block = COUPLINGS[coupling]()
    block.build(X.shape)
    context = block.context(ops.convert_to_tensor(X))
    q, p = X[..., :4], X[..., 4:]
    direction = RNG.normal(size=q.shape).astype("float32")
    _, slope = ops.jvp(
        lambda q: block.energy(q, p, context),
        (ops.convert_to_tensor(q),),
        (ops.convert_to_tensor(direction),),
    )
    force = ops.convert_to_numpy(block.force(q, context))
    np.testing.assert_allclose(
        -(force * direction).sum(-1), ops.convert_to_numpy(slope), 1e-4, 1e-5
    )
    if coupling != "none":
        with pytest.raises(ValueError, match="`context` is needed"):
            block.force(q)


def test_numbers_of_numpy_make_a_plain_config():
    block = HamiltonianBlock(
        num_steps=np.int64(2),
        step_size=np.float32(0.5),
        dropout=np.float32(0.5),
        energy_tokens=np.int64(4),
        energy_weight=np.float32(1),
        spread_floor=np.float32(0.5),
    )
    assert json.loads(json.dumps(block.get_config()))["num_steps"] == 2


@pytest.mark.parametrize("training", [False, True])
def test_one_state_without_its_batch_is_named(training):
    with pytest.raises(ValueError, match=r"\(B, d\).*shape \(8,\)"):
        HamiltonianBlock()(X[0, 0], training=training)


def test_energies_are_float32_under_any_policy():
    block = HamiltonianBlock(
        MLPPotential(9),
        CausalSelfAttention(2),
        dtype="mixed_bfloat16",
        return_energies=True,
    )
    out, trace = block(X, training=True)
    context = block.context(ops.convert_to_tensor(X))
    states = block.trajectory(ops.convert_to_tensor(X), context)
    dtype = keras.backend.standardize_dtype
    assert dtype(out.dtype) == dtype(context.dtype) == "bfloat16"
    for tensor in (trace, *states[-1], *block.energies(states, context)):
        assert dtype(tensor.dtype) == "float32"
    assert dtype(block.account.losses[0].dtype) == "float32"


def test_a_potential_of_ones_own_is_saved(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, HamiltonianBlock(Quartic())(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    h = X[:, 0]
    np.testing.assert_array_equal(
        model.predict(h, verbose=0), loaded.predict(h, verbose=0)
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: HamiltonianBlock().build((1, 7)), ValueError, "even"),
        (lambda: HamiltonianBlock(step_size=0.0), ValueError, "step_size"),
        (lambda: HamiltonianBlock(step_size=-1.0), ValueError, "step_size"),
        (lambda: HamiltonianBlock(num_steps=0), ValueError, "num_steps"),
        (lambda: HamiltonianBlock(mass="none"), ValueError, "mass"),
        (lambda: HamiltonianBlock(integrator="x"), ValueError, "integrator"),
        (lambda: HamiltonianBlock(energy_tokens=-1), ValueError, "energy_tok"),
        (lambda: HamiltonianBlock(spread_floor=2.0), ValueError, "spread_fl"),
        (lambda: HamiltonianBlock("mlp"), TypeError, "Potential"),
        (lambda: HamiltonianBlock(mixer="attention"), TypeError, "mixer"),
        (lambda: HamiltonianBlock(step_size=None), ValueError, "step_size"),
        (lambda: HamiltonianBlock(num_steps=True), ValueError, "num_steps"),
        (lambda: HamiltonianBlock(dropout=5.0), ValueError, "dropout"),
        (lambda: HamiltonianBlock(energy_weight=-1), ValueError, "weight"),
        (
            lambda: HamiltonianBlock().build((None, None)),
            ValueError,
            "width",
        ),
        (
            lambda: HamiltonianBlock(mixer=CausalSelfAttention(2)).build(
                (3, 8)
            ),
            ValueError,
            r"\(B, N, d\)",
        ),
        (lambda: HamiltonianBlock().energy(X, X), ValueError, "build"),
        (lambda: Potential().force(X), NotImplementedError, "force"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def build(path):
    inputs = keras.Input((None, 8))
    x = COUPLINGS["context"]()(inputs)
    keras.Model(inputs, COUPLINGS["attention_energy"]()(x)).save(path)


def run(path):
    model = keras.saving.load_model(path)
    return {"outputs": model.predict(X, verbose=0)}


@pytest.mark.cross_backend
def test_backends_agree(tmp_path):
    assert compare_backends(__file__, tmp_path)["outputs"].absolute < 1e-5
