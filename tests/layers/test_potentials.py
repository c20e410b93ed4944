"""Every potential: its force, its energy, what it conserves."""

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


def mlp_energy(layer, q, context=None):
    w, b = layer.position_kernel, layer.bias
    w, b, a, k = (
        ops.convert_to_numpy(x).astype("float64")
        for x in (w, b, layer.amplitude, layer.curvature)
    )
    r, pull = b, 0.0
    if context is not None:
        u, p, g = (
            ops.convert_to_numpy(x).astype("float64")
            for x in (
                layer.context_kernel,
                layer.context_force,
                layer.context_amplitude,
            )
        )
        r, pull, a = b + context @ u, context @ p, a + context @ g
    harmonic = 0.5 * np.log1p(np.exp(k)) * q * q
    wells = a * (numpy_log_cosh(q @ w + r) - numpy_log_cosh(r))
    return wells.sum(-1) + (harmonic - q * pull).sum(-1)


def turned(x):
    """Rotary positions of `(B, N, H, D)`."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-np.arange(half) / half)
    angle = np.arange(x.shape[1])[:, None, None] * rate
    a, b = x[..., :half], x[..., half:]
    return np.concatenate(
        [
            a * np.cos(angle) - b * np.sin(angle),
            b * np.cos(angle) + a * np.sin(angle),
        ],
        -1,
    )


def attention_energy(layer, q, context):
    batch, length, n = q.shape
    heads, width = layer.num_heads, layer.head_dim
    kernel, null = (
        ops.convert_to_numpy(x).astype("float64")
        for x in (layer.key_kernel, layer.null_key)
    )
    shape = (batch, length, heads, width)
    keys = turned((context @ kernel).reshape(shape))
    q_turned = turned(q.reshape(shape))
    null = null.reshape(heads, width)
    beta = width**-0.5
    total = mlp_energy(layer.local, q)
    for b in range(batch):
        for t in range(length):
            for h in range(heads):
                seen = np.concatenate([null[None, h], keys[b, :t, h]])
                scores = beta * seen @ q_turned[b, t, h]
                total[b, t] -= np.log(np.exp(scores).mean()) / beta
    return total


def pairwise_energy(layer, q, context=None):
    w, b, a, c = (
        ops.convert_to_numpy(x).astype("float64")
        for x in (layer.kernel, layer.bias, layer.amplitude, layer.slope)
    )
    bodies = q.reshape(*q.shape[:-1], layer.num_bodies, -1)
    total = np.zeros(q.shape[:-1])
    for i in range(layer.num_bodies):
        for j in range(i):
            square = ((bodies[..., i, :] - bodies[..., j, :]) ** 2).sum(-1)
            wells = numpy_log_cosh(square[..., None] * w + b)
            total += (wells - numpy_log_cosh(b)) @ a + c * square
    return total


def radial_energy(layer, q, context=None):
    """A pair whose other body rests in the origin."""
    w, b, a, c = (
        ops.convert_to_numpy(x).astype("float64")
        for x in (layer.kernel, layer.bias, layer.amplitude, layer.slope)
    )
    square = (q**2).sum(-1)
    wells = numpy_log_cosh(square[..., None] * w + b) - numpy_log_cosh(b)
    return wells @ a + c * square


def numpy_of(function, q, *context):
    context = [None if c is None else ops.convert_to_tensor(c) for c in context]
    value = function(ops.convert_to_tensor(q), *context)
    return ops.convert_to_numpy(ops.stop_gradient(value))


CASES = {
    "mlp": (lambda: MLPPotential(9), None, mlp_energy),
    "mlp with context": (lambda: MLPPotential(9), CONTEXT, mlp_energy),
    "attention": (lambda: AttentionPotential(2, 9), CONTEXT, attention_energy),
    "pairwise": (lambda: PairwisePotential(2, 7), None, pairwise_energy),
    "radial": (lambda: RadialPotential(7), None, radial_energy),
    "harmonic": (
        lambda: HarmonicPotential(1.5, 0.3),
        None,
        lambda _, q, c: (1.5**2 * q**2 / 2 + 0.3 * q**4 / 4).sum(-1),
    ),
    "pendulum": (
        lambda: PendulumPotential(3.0),
        None,
        lambda _, q, c: 3.0 * (1 - np.cos(q)).sum(-1),
    ),
    "kepler": (
        lambda: KeplerPotential(2.0),
        None,
        lambda _, q, c: -2.0 / np.sqrt((q**2).sum(-1)),
    ),
}
cases = pytest.mark.parametrize("name", CASES)


def built(name, disturb=True):
    make, context, reference = CASES[name]
    potential = make()
    potential.build(Q.shape, None if context is None else context.shape)
    if disturb:  # Biases and curvatures that start at zero, too.
        rng = np.random.default_rng(1)
        potential.set_weights(
            [
                w + rng.normal(size=w.shape, scale=0.5)
                for w in potential.get_weights()
            ]
        )
    return potential, context, lambda q: reference(potential, q, context)


@cases
def test_contract(name, contract):
    make, context, reference = CASES[name]
    kwargs = {} if context is None else {"call_kwargs": {"context": context}}
    contract(
        make,
        Q,
        reference=lambda layer, q: reference(
            layer, q.astype("float64"), context
        ),
        bfloat16_tolerance=None,
        **kwargs,
    )


@cases
def test_force_is_minus_the_gradient(name):
    potential, context, energy = built(name)
    q, step = Q.astype("float64"), 1e-5
    expected = np.zeros_like(q)
    for i in range(q.shape[-1]):
        shift = step * np.eye(q.shape[-1])[i]
        # The energy of a token does not depend on another's position.
        expected[..., i] = -(energy(q + shift) - energy(q - shift)) / (2 * step)
    force = numpy_of(potential.force, Q, context)
    np.testing.assert_allclose(force, expected, rtol=2e-5, atol=2e-5)
    value = numpy_of(potential.energy, Q, context)
    np.testing.assert_allclose(value, energy(q), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "mlp with context", "attention"])
def test_no_energy_at_rest_in_the_origin(name):
    """What depends on the context alone has no force, and no energy."""
    potential, context, _ = built(name)
    energy = numpy_of(potential.energy, np.zeros_like(Q), context)
    np.testing.assert_allclose(energy, 0.0, atol=1e-5)


@cases
def test_the_force_differentiates_the_energy(name):
    """By forward mode, in the layer's own float32."""
    potential, context, _ = built(name)
    tangent = RNG.normal(size=Q.shape).astype("float32")
    if context is not None:
        context = ops.convert_to_tensor(context)
    _, rate = ops.jvp(
        lambda q: potential.energy(q, context),
        (ops.convert_to_tensor(Q),),
        (ops.convert_to_tensor(tangent),),
    )
    force = numpy_of(potential.force, Q, context)
    np.testing.assert_allclose(
        ops.convert_to_numpy(rate), -(force * tangent).sum(-1), 1e-4, 1e-4
    )


def test_henon_heiles():
    potential = HenonHeilesPotential()
    q = Q[..., :2]
    x, y = q[..., 0], q[..., 1]
    np.testing.assert_allclose(
        numpy_of(potential, q),
        (x**2 + y**2) / 2 + x**2 * y - y**3 / 3,
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        numpy_of(potential.force, q),
        -np.stack([x + 2 * x * y, y + x**2 - y**2], -1),
        rtol=1e-5,
        atol=1e-6,
    )
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


def test_an_unfinished_potential_says_so():
    with pytest.raises(NotImplementedError):
        Potential().energy(keras.ops.ones((1, 2)))
