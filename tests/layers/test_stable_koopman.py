"""Latent linear dynamics: roll-outs, moduli, and systems recovered."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import StableKoopman
from orrery.losses import SpectralPenalty

K, M, P, H = 6, 2, 1, 9
MODES = ("stable", "bounded", "free", "lstsq")
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(3, K)).astype("float32")
U = RNG.normal(size=(3, H, M)).astype("float32")
D = RNG.normal(size=(3, H, P)).astype("float32")


def to_numpy(x):
    return ops.convert_to_numpy(x).astype("float64")


def build(mode="stable", control_dim=M, disturbance_dim=P, **kwargs):
    layer = StableKoopman(K, control_dim, disturbance_dim, mode, **kwargs)
    layer.build((None, K))
    return layer


def reference(layer, z, u=None, d=None, steps=H):
    a, b, e = layer.matrices()
    states, z = [], z.astype("float64")
    for step in range(steps):
        z = z @ a.T
        z = z if u is None else z + u[:, step] @ b.T
        z = z if d is None else z + d[:, step] @ e.T
        states.append(z)
    return np.stack(states, axis=1)


@pytest.mark.parametrize("mode", MODES)
def test_contract(contract, mode):
    contract(
        lambda: StableKoopman(K, M, P, mode),
        Z,
        call_kwargs={"u": U, "d": D},
        trainable_gradients=mode != "lstsq",
        reference=lambda layer, inputs: reference(layer, Z, U, D),
        variable_length=False,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("outside", ["neither", "controls", "disturbances"])
def test_what_is_not_there(mode, outside):
    u = U if outside == "controls" else None
    d = D if outside == "disturbances" else None
    layer = build(mode, M * (u is not None), P * (d is not None))
    steps = H if outside == "neither" else None
    np.testing.assert_allclose(
        to_numpy(layer(Z, u, d, steps=steps)),
        reference(layer, Z, u, d),
        atol=1e-5,
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_roll_out_is_its_steps(mode):
    layer, z = build(mode), ops.convert_to_tensor(Z)
    for step, state in enumerate(np.moveaxis(to_numpy(layer(Z, U, D)), 1, 0)):
        z = layer.step(z, U[:, step], D[:, step])
        np.testing.assert_allclose(to_numpy(z), state, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_two_roll_outs_are_one(mode):
    layer = build(mode)
    first = layer(Z, U[:, :4], D[:, :4])
    rest = layer(first[:, -1], U[:, 4:], D[:, 4:])
    np.testing.assert_allclose(
        to_numpy(ops.concatenate([first, rest], axis=1)),
        to_numpy(layer(Z, U, D)),
        atol=1e-5,
    )


def test_later_controls_change_no_earlier_state():
    layer, changed = build(), U.copy()
    changed[:, 3] += 1
    before, after = to_numpy(layer(Z, U, D)), to_numpy(layer(Z, changed, D))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (np.abs(before[:, 3:] - after[:, 3:]).max(axis=(0, 2)) > 1e-6).all()


@pytest.mark.parametrize("max_modulus", [1.0, 0.9])
def test_no_eigenvalue_leaves_the_disc(max_modulus):
    """For whatever is learned, the extremes of float32 among it."""
    layer = build(max_modulus=max_modulus)
    values = np.concatenate(
        [
            RNG.normal(scale=s, size=(250, K // 2))
            for s in (1.0, 10.0, 1e3, 1e30)
        ]
    )
    for nu in values.astype("float32"):
        layer.nu.assign(nu)
        layer.theta.assign(RNG.normal(scale=10, size=K // 2))
        assert np.abs(layer.eigenvalues()).max() <= max_modulus
        found = np.linalg.eigvals(layer.matrices()[0])
        assert np.abs(found).max() <= max_modulus * (1 + 1e-7)


@pytest.mark.parametrize("max_modulus", [1.0, 0.9])
def test_no_matrix_leaves_the_disc(max_modulus):
    """Normal or far from it; one that lies well within is left as it is."""
    layer = build("bounded", max_modulus=max_modulus)
    for scale in (0.1, 1.0, 10.0, 1e6):
        for _ in range(100):
            kernel = RNG.normal(scale=scale, size=(K, K))
            if scale > 1:
                kernel = np.triu(kernel)
            layer.kernel.assign(kernel)
            found = np.abs(layer.eigenvalues()).max()
            assert found <= max_modulus * (1 + 1e-6)
            before = np.abs(np.linalg.eigvals(kernel)).max()
            if before < 0.7 * max_modulus:
                np.testing.assert_allclose(
                    layer.matrices()[0], kernel, rtol=1e-6
                )
            elif before > max_modulus and scale == 1.0:
                assert found > 0.85 * max_modulus


def test_eigenvalues_are_those_of_the_matrix():
    for mode in MODES:
        layer = build(mode)
        found = np.linalg.eigvals(layer.matrices()[0])
        for root in layer.eigenvalues():
            assert np.abs(found - root).min() < 1e-6


def test_slow_modes_at_first():
    roots = StableKoopman(64)
    roots.build((None, 64))
    modulus, angle = np.abs(roots.eigenvalues()), np.angle(roots.eigenvalues())
    assert modulus.min() > 0.49 and modulus.max() < 0.9995
    assert np.abs(angle).max() <= np.pi / 10 + 1e-6


def known_system():
    generator = np.random.default_rng(1)
    a = np.linalg.qr(generator.normal(size=(4, 4)))[0] * 0.95
    b, e = generator.normal(size=(4, M)), generator.normal(size=(4, P))
    z = generator.normal(size=(2000, 4))
    u, d = generator.normal(size=(2000, M)), generator.normal(size=(2000, P))
    return (a, b, e), [
        x.astype("float32") for x in (z, z @ a.T + u @ b.T + d @ e.T, u, d)
    ]


def test_least_squares_recover_a_system():
    system, (z, z_next, u, d) = known_system()
    layer = StableKoopman(4, M, P, "lstsq", ridge=1e-7)
    layer.build((None, 4))
    for part in np.split(np.arange(2000), 4):
        layer.observe(z[part], z_next[part], u[part], d[part])
    for found, true in zip(layer.matrices(), system, strict=True):
        np.testing.assert_allclose(found, true, atol=1e-4)


@pytest.mark.parametrize("mode", ["stable", "bounded", "free"])
def test_gradients_recover_a_system(mode):
    """In a basis of its own, a stable one is known by what it does."""
    (a, b, e), _ = known_system()
    if mode == "stable":
        teacher = StableKoopman(4, M, P)
        teacher.build((None, 4))
        a, b, e = teacher.matrices()
    generator = np.random.default_rng(2)
    z = generator.normal(size=(256, 4)).astype("float32")
    u = generator.normal(size=(256, 5, M)).astype("float32")
    d = generator.normal(size=(256, 5, P)).astype("float32")
    states, targets = z, []
    for step in range(5):
        states = states @ a.T + u[:, step] @ b.T + d[:, step] @ e.T
        targets.append(states)
    keras.utils.set_random_seed(3)
    inputs = [keras.Input(x.shape[1:]) for x in (z, u, d)]
    layer = StableKoopman(4, M, P, mode)
    model = keras.Model(inputs, layer(*inputs))
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 600)
    model.compile(keras.optimizers.Adam(schedule), "mse")
    targets = np.stack(targets, 1).astype("float32")
    model.fit([z, u, d], targets, batch_size=256, epochs=600, verbose=0)
    for found, true in zip(layer.matrices(), (a, b, e), strict=True):
        np.testing.assert_allclose(found, true, atol=1e-2)


def test_the_penalty_enters_the_loss_in_training():
    layer = build("free", penalty=SpectralPenalty(weight=2.0))
    layer.kernel.assign(1.5 * np.eye(K))
    layer(Z, U, D)
    assert not layer.losses
    layer(Z, U, D, training=True)
    assert to_numpy(sum(layer.losses)) == pytest.approx(0.5, rel=0.05)
    again = StableKoopman.from_config(layer.get_config())
    assert again.penalty.get_config() == layer.penalty.get_config()


def test_pairs_that_are_not_finite_change_nothing():
    _, (z, z_next, u, d) = known_system()
    layer = StableKoopman(4, M, P, "lstsq")
    layer.build((None, 4))
    layer.observe(z, z_next, u, d)
    before = layer.matrices()
    z[3, 1] = np.nan
    layer.observe(z, z_next, u, d)
    for one, other in zip(before, layer.matrices(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"latent_dim": 5}, "`latent_dim` must be even"),
        ({"latent_dim": 0}, "`latent_dim`"),
        ({"mode": "soft"}, "`mode` must be"),
        ({"max_modulus": 1.1}, "`max_modulus`"),
        ({"mode": "free", "max_modulus": 0.9}, "`max_modulus` has no effect"),
        ({"penalty": SpectralPenalty()}, "`penalty` has no effect"),
        ({"control_dim": -1}, "`control_dim`"),
        ({"ridge": 0.0}, "`ridge`"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        StableKoopman(**{"latent_dim": 4, **given})


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda layer: layer(Z, U), "`d` must have 1 entries"),
        (lambda layer: layer(Z, None, D), "`u` must have 2 entries"),
        (lambda layer: layer(Z, D, D), "`u` must have 2 entries"),
        (lambda layer: build(control_dim=0, disturbance_dim=0)(Z), "`steps`"),
        (lambda layer: layer.observe(Z, Z, U[:, 0], D[:, 0]), "`observe`"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call(build())
    with pytest.raises(ValueError, match="`latent_dim` = 6 entries"):
        StableKoopman(K).build((None, 4))


@pytest.mark.parametrize("mode", MODES)
def test_noise_is_added_to_each_step(mode):
    layer = build(mode)
    noise = RNG.normal(size=(3, H, K)).astype("float32")
    z, a = Z.astype("float64"), layer.matrices()
    for step, state in enumerate(
        np.moveaxis(to_numpy(layer(Z, U, D, noise=noise)), 1, 0)
    ):
        z = z @ a[0].T + U[:, step] @ a[1].T + D[:, step] @ a[2].T
        z = z + noise[:, step]
        np.testing.assert_allclose(state, z, atol=1e-5)
    layer = build(mode, 0, 0)
    assert layer(Z, noise=noise).shape == (3, H, K)


def bilinear(mode="free"):
    layer = build(mode, bilinear_rank=4)
    layer.write_kernel.assign(RNG.normal(size=(4, K)) / 5)
    return layer


@pytest.mark.parametrize("mode", ["free", "bounded"])
def test_what_acts_changes_the_dynamics(mode):
    layer = bilinear(mode)
    gate, read, write = map(
        to_numpy, (layer.gate_kernel, layer.read_kernel, layer.write_kernel)
    )
    a, b, e = layer.matrices()
    z, found = Z.astype("float64"), to_numpy(layer(Z, U, D))
    for step in range(H):
        w = np.concatenate([U[:, step], D[:, step]], axis=1)
        z = z @ a.T + w @ np.hstack([b, e]).T + (w @ gate * (z @ read)) @ write
        np.testing.assert_allclose(found[:, step], z, atol=1e-4)


def test_a_bilinear_roll_out_is_its_steps():
    layer, z = bilinear(), ops.convert_to_tensor(Z)
    for step, state in enumerate(np.moveaxis(to_numpy(layer(Z, U, D)), 1, 0)):
        z = layer.step(z, U[:, step], D[:, step])
        np.testing.assert_allclose(to_numpy(z), state, atol=1e-4)


def test_bilinear_dynamics_begin_as_linear_ones():
    layer = build("free", bilinear_rank=4)
    np.testing.assert_allclose(
        to_numpy(layer(Z, U, D)), reference(layer, Z, U, D), atol=1e-5
    )


def test_bilinear_contract(contract):
    contract(
        lambda: StableKoopman(K, M, P, "bounded", bilinear_rank=4),
        Z,
        call_kwargs={"u": U, "d": D},
        trainable_gradients=False,
        variable_length=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (K, M, P, "stable", 1.0),
        (K, M, P, "lstsq", 1.0),
        (K, 0, 0, "free", 1.0),
    ],
)
def test_where_nothing_can_be_bilinear(arguments):
    with pytest.raises(ValueError, match="`bilinear_rank` needs"):
        StableKoopman(*arguments, bilinear_rank=2)
