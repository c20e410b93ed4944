"""Every potential: its force, its energy, what it conserves."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import (
    AttentionPotential,
    HarmonicPotential,
    HenonHeilesPotential,
    KeplerPotential,
    MLPPotential,
    PairwisePotential,
    PendulumPotential,
    Potential,
    RadialPotential,
)
from orrery.layers.mlp_potential import log_cosh

RNG = np.random.default_rng(0)
Q = RNG.normal(size=(3, 5, 4)).astype("float32")
CONTEXT = RNG.normal(size=(3, 5, 6)).astype("float32")


def numpy_log_cosh(x):
    return np.logaddexp(x, -x) - np.log(2)


def softplus(x):
    return np.log1p(np.exp(x))


def float64(*weights):
    return [ops.convert_to_numpy(w).astype("float64") for w in weights]


# === The references: energies and forces in float64 ===
def mlp_weights(layer, context):
    w, r, a, k = float64(
        layer.position_kernel, layer.bias, layer.amplitude, layer.curvature
    )
    pull = 0.0
    if context is not None:
        u, p, g = float64(
            layer.context_kernel, layer.context_force, layer.context_amplitude
        )
        r, pull, a = r + context @ u, context @ p, a + context @ g
    return w, r, a, softplus(k), pull


def mlp_energy(layer, q, context=None):
    w, r, a, k, pull = mlp_weights(layer, context)
    wells = a * (numpy_log_cosh(q @ w + r) - numpy_log_cosh(r))
    return wells.sum(-1) + (0.5 * k * q * q - q * pull).sum(-1)


def mlp_force(layer, q, context=None):
    w, r, a, k, pull = mlp_weights(layer, context)
    return pull - (a * np.tanh(q @ w + r)) @ w.T - k * q


def turned(x, sense=1):
    """Rotary positions of `(B, N, H, D)`; taken back with `sense=-1`."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-np.arange(half) / half)
    angle = sense * np.arange(x.shape[1])[:, None, None] * rate
    a, b = x[..., :half], x[..., half:]
    return np.concatenate(
        [
            a * np.cos(angle) - b * np.sin(angle),
            b * np.cos(angle) + a * np.sin(angle),
        ],
        -1,
    )


def attention_scores(layer, q, context):
    """For each sequence, token and head: its index, keys seen, exponents."""
    batch, length, _ = q.shape
    heads, width = layer.num_heads, layer.head_dim
    kernel, null = float64(layer.key_kernel, layer.null_key)
    shape = (batch, length, heads, width)
    keys = turned((context @ kernel).reshape(shape))
    q_turned = turned(q.reshape(shape))
    null = null.reshape(heads, width)
    for b, t, h in np.ndindex(*shape[:-1]):
        seen = np.concatenate([null[None, h], keys[b, :t, h]])
        yield (b, t, h), seen, width**-0.5 * seen @ q_turned[b, t, h]


def attention_energy(layer, q, context):
    total = mlp_energy(layer.local, q)
    for (b, t, _), _, scores in attention_scores(layer, q, context):
        wells = np.log(np.exp(scores).mean())
        total[b, t] -= wells * layer.head_dim**0.5
    return total


def attention_force(layer, q, context):
    pull = np.zeros((*q.shape[:-1], layer.num_heads, layer.head_dim))
    for index, seen, scores in attention_scores(layer, q, context):
        weights = np.exp(scores) / np.exp(scores).sum()
        pull[index] = weights @ seen
    return mlp_force(layer.local, q) + turned(pull, -1).reshape(q.shape)


def well_weights(layer):
    return float64(layer.kernel, layer.bias, layer.amplitude, layer.slope)


def wells_of(layer, square):
    w, b, a, c = well_weights(layer)
    wells = numpy_log_cosh(square[..., None] * w + b) - numpy_log_cosh(b)
    return wells @ a + c * square


def slope_of(layer, square):
    """Of the wells, in the square."""
    w, b, a, c = well_weights(layer)
    return np.tanh(square[..., None] * w + b) @ (w * a) + c


def pairwise_energy(layer, q, context=None):
    bodies = q.reshape(*q.shape[:-1], layer.num_bodies, -1)
    total = np.zeros(q.shape[:-1])
    for i in range(layer.num_bodies):
        for j in range(i):
            apart = bodies[..., i, :] - bodies[..., j, :]
            total += wells_of(layer, (apart**2).sum(-1))
    return total


def pairwise_force(layer, q, context=None):
    bodies = q.reshape(*q.shape[:-1], layer.num_bodies, -1)
    force = np.zeros_like(bodies)
    for i in range(layer.num_bodies):
        for j in range(i):
            apart = bodies[..., i, :] - bodies[..., j, :]
            slope = slope_of(layer, (apart**2).sum(-1))
            force[..., i, :] -= 2 * slope[..., None] * apart
            force[..., j, :] += 2 * slope[..., None] * apart
    return force.reshape(q.shape)


def radial_energy(layer, q, context=None):
    """A pair whose other body rests in the origin."""
    return wells_of(layer, (q**2).sum(-1))


def radial_force(layer, q, context=None):
    return -2 * slope_of(layer, (q**2).sum(-1))[..., None] * q


def henon_heiles_energy(layer, q, context=None):
    x, y = q[..., 0], q[..., 1]
    return (x**2 + y**2) / 2 + x**2 * y - y**3 / 3


def henon_heiles_force(layer, q, context=None):
    x, y = q[..., 0], q[..., 1]
    return -np.stack([x + 2 * x * y, y + x**2 - y**2], -1)


def numpy_of(function, q, *context):
    context = [None if c is None else ops.convert_to_tensor(c) for c in context]
    value = function(ops.convert_to_tensor(q), *context)
    return ops.convert_to_numpy(ops.stop_gradient(value))


# For each name: the layer, positions, context, energy and force in float64.
CASES = {
    "mlp": (lambda: MLPPotential(9), Q, None, mlp_energy, mlp_force),
    "mlp with context": (
        lambda: MLPPotential(9),
        Q,
        CONTEXT,
        mlp_energy,
        mlp_force,
    ),
    "attention": (
        lambda: AttentionPotential(2, 9),
        Q,
        CONTEXT,
        attention_energy,
        attention_force,
    ),
    "pairwise": (
        lambda: PairwisePotential(2, 7),
        Q,
        None,
        pairwise_energy,
        pairwise_force,
    ),
    "radial": (
        lambda: RadialPotential(7),
        Q,
        None,
        radial_energy,
        radial_force,
    ),
    "harmonic": (
        lambda: HarmonicPotential(1.5, 0.3),
        Q,
        None,
        lambda _, q, c: (1.5**2 * q**2 / 2 + 0.3 * q**4 / 4).sum(-1),
        lambda _, q, c: -(1.5**2) * q - 0.3 * q**3,
    ),
    "pendulum": (
        lambda: PendulumPotential(3.0),
        Q,
        None,
        lambda _, q, c: 3.0 * (1 - np.cos(q)).sum(-1),
        lambda _, q, c: -3.0 * np.sin(q),
    ),
    "henon heiles": (
        HenonHeilesPotential,
        Q[..., :2],
        None,
        henon_heiles_energy,
        henon_heiles_force,
    ),
    "kepler": (
        lambda: KeplerPotential(2.0),
        Q,
        None,
        lambda _, q, c: -2.0 / np.sqrt((q**2).sum(-1)),
        lambda _, q, c: -2.0 * q / (q**2).sum(-1, keepdims=True) ** 1.5,
    ),
}
cases = pytest.mark.parametrize("name", CASES)


def built(name):
    """A case with biases and curvatures that start at zero disturbed, too."""
    make, q, context, energy, force = CASES[name]
    potential = make()
    potential.build(q.shape, None if context is None else context.shape)
    rng = np.random.default_rng(1)
    potential.set_weights(
        [
            w + rng.normal(size=w.shape, scale=0.5)
            for w in potential.get_weights()
        ]
    )
    return (
        potential,
        q,
        context,
        lambda q: energy(potential, q, context),
        lambda q: force(potential, q, context),
    )


@cases
def test_contract(name, contract):
    make, q, context, reference, _ = CASES[name]
    kwargs = {} if context is None else {"call_kwargs": {"context": context}}
    contract(
        make,
        q,
        reference=lambda layer, q: reference(
            layer, q.astype("float64"), context
        ),
        bfloat16_tolerance=None,
        **kwargs,
    )


@cases
def test_force_is_minus_the_gradient(name):
    """Of NumPy's energy, by central differences."""
    _, q, _, energy, force = built(name)
    q, step = q.astype("float64"), 1e-5
    differences = np.zeros_like(q)
    for i in range(q.shape[-1]):
        shift = step * np.eye(q.shape[-1])[i]
        # The energy of a token does not depend on another's position.
        change = energy(q + shift) - energy(q - shift)
        differences[..., i] = -change / (2 * step)
    np.testing.assert_allclose(force(q), differences, rtol=1e-6, atol=1e-8)


@cases
def test_energy_and_force_are_those_of_numpy(name):
    """To the rounding of float32, 6e-8 of each of the terms that are summed.

    They cancel, so it counts against the largest value, not against each.
    """
    potential, q, context, energy, force = built(name)
    for function, reference in (
        (potential.energy, energy),
        (potential.force, force),
    ):
        expected = reference(q.astype("float64"))
        found = numpy_of(function, q, context)
        size = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize("name", ["mlp", "mlp with context", "attention"])
def test_no_energy_at_rest_in_the_origin(name):
    """What depends on the context alone has no force, and no energy."""
    potential, q, context, *_ = built(name)
    energy = numpy_of(potential.energy, np.zeros_like(q), context)
    np.testing.assert_allclose(energy, 0.0, atol=1e-5)


@cases
def test_the_force_differentiates_the_energy(name):
    """By forward mode, in the layer's own float32."""
    potential, q, context, *_ = built(name)
    tangent = RNG.normal(size=q.shape).astype("float32")
    if context is not None:
        context = ops.convert_to_tensor(context)
    _, rate = ops.jvp(
        lambda q: potential.energy(q, context),
        (ops.convert_to_tensor(q),),
        (ops.convert_to_tensor(tangent),),
    )
    force = numpy_of(potential.force, q, context)
    np.testing.assert_allclose(
        ops.convert_to_numpy(rate), -(force * tangent).sum(-1), 1e-4, 1e-4
    )


def test_henon_heiles_has_two_positions():
    with pytest.raises(ValueError, match="two numbers"):
        HenonHeilesPotential().build((None, 3))


def test_log_cosh_of_large_numbers():
    x = np.array([-1e4, -1.0, 0.0, 1.0, 1e4], "float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(log_cosh(ops.convert_to_tensor(x))),
        numpy_log_cosh(x.astype("float64")),
        rtol=1e-6,
    )


def test_pair_forces_sum_to_zero_and_outer_ones_do_not():
    q = RNG.normal(size=(4, 6)).astype("float32")
    pairs = PairwisePotential(3, 7)
    pairs.build(q.shape)
    forces = numpy_of(pairs.force, q).reshape(4, 3, 2)
    # In units of their sizes: they are float32.
    assert np.abs(forces.sum(1)).max() < 1e-6 * np.abs(forces).sum(1).max()
    outer = numpy_of(HarmonicPotential().force, q)
    assert np.abs(outer.reshape(4, 3, 2).sum(1)).max() > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLPPotential(0), "hidden_dim"),
        (lambda: MLPPotential(2.5), "hidden_dim"),
        (lambda: AttentionPotential(0), "num_heads"),
        (
            lambda: AttentionPotential(2).build((1, 2, 6), (1, 2, 8)),
            "num_heads",
        ),
        (lambda: AttentionPotential(2).build((1, 2, 8)), "context"),
        (lambda: PairwisePotential(1), "num_bodies"),
        (lambda: RadialPotential(0), "hidden_dim"),
        (lambda: PairwisePotential(3).build((1, 8)), "num_bodies"),
        (lambda: HarmonicPotential(0.0), "omega"),
        (lambda: HarmonicPotential(quartic=-1.0), "quartic"),
        (lambda: PendulumPotential(-1.0), "strength"),
        (lambda: KeplerPotential(0.0), "strength"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_numpy_make_a_plain_config():
    three = np.int64(3)
    for potential in (
        MLPPotential(three),
        RadialPotential(three),
        PairwisePotential(three, three),
        AttentionPotential(three, three),
    ):
        config = json.loads(json.dumps(potential.get_config()))
        assert type(potential).from_config(config).get_config() == config


def test_an_unfinished_potential_says_so():
    with pytest.raises(NotImplementedError):
        Potential().energy(keras.ops.ones((1, 2)))
