"""The linear recurrence against its loop, in float32 and float64."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery._backend import compile_function
from orrery.layers.linear_recurrence import (
    LinearRecurrence,
    linear_response,
    power,
)
from orrery.testing.cross_backend import run_in_process
from orrery.testing.gradients import gradients

X = np.random.default_rng(0).normal(size=(2, 9, 6)).astype("float32")


tensor = ops.convert_to_tensor


def to_numpy(x):
    return ops.convert_to_numpy(x).astype("float64")


def eigenvalues(layer):
    return np.exp(-np.exp(to_numpy(layer.nu)) + 1j * to_numpy(layer.theta))


def silu(x):
    return x / (1 + np.exp(-x))


def reference(layer, x):
    x = x.astype("float64")
    kernels = [
        to_numpy(dense.kernel)
        for dense in (
            layer.input_projection,
            layer.state_projection,
            layer.gate,
            layer.output_projection,
        )
    ]
    b, c, gate, output = kernels
    roots = eigenvalues(layer)
    real, imaginary = np.split(x @ b, 2, axis=-1)
    drive = np.sqrt(1 - np.abs(roots) ** 2) * (real + 1j * imaginary)
    z = loop(roots, drive)
    y = np.concatenate([z.real, z.imag], -1) @ c + to_numpy(layer.skip) * x
    return (silu(x @ gate) * y) @ output


def loop(roots, drive):
    state, states = 0.0, []
    for t in range(drive.shape[1]):
        state = roots * state + drive[:, t]
        states.append(state)
    return np.stack(states, 1)


def test_contract(contract):
    contract(LinearRecurrence, X, reference=reference)


def test_number_of_states():
    layer = LinearRecurrence(state_dim=10)
    np.testing.assert_allclose(
        to_numpy(layer(X)), reference(layer, X), 1e-5, 1e-5
    )
    assert layer.spectrum().shape == (10,)


def random_response(length, dtype):
    """Drive and exponent of 16 modes as slow as those a layer starts with."""
    rng = np.random.default_rng(length)
    decay = 0.5 * np.log(rng.uniform(0.9**2, 0.999**2, 16))
    exponent = decay.astype(dtype), rng.uniform(0, np.pi, 16).astype(dtype)
    drive = rng.normal(size=(2, 2, length, 16)).astype(dtype)
    return (drive[0], drive[1]), exponent


def response_error(length, dtype):
    """Largest error of the states, relative to the largest state."""
    drive, exponent = random_response(length, dtype)
    respond = compile_function(linear_response, [])
    z = respond(tuple(map(tensor, drive)), tuple(map(tensor, exponent)))
    decay, angle = (part.astype("float64") for part in exponent)
    expected = loop(np.exp(decay + 1j * angle), drive[0] + 1j * drive[1])
    error = to_numpy(z[0]) + 1j * to_numpy(z[1]) - expected
    return np.abs(error).max() / np.abs(expected).max()


@pytest.mark.parametrize("length", [2, 300, 8192])
def test_doubling_equals_the_loop(length):
    assert response_error(length, "float32") < 1e-5


def float64_errors(_):
    """Errors of the states, and of the gradient along random directions."""
    keras.config.set_floatx("float64")
    rng = np.random.default_rng(2)
    drive, exponent = random_response(200, "float64")
    arrays = [*drive, *exponent]
    g, h = rng.normal(size=(2, *drive[0].shape))

    def loss(v, w, decay, angle):
        real, imaginary = linear_response((v, w), (decay, angle))
        return ops.sum(real * tensor(g) + imaginary * tensor(h))

    def reference_loss(v, w, decay, angle):
        z = loop(np.exp(decay + 1j * angle), v + 1j * w)
        return (g * z.real + h * z.imag).sum()

    gradient = gradients(loss, arrays)
    errors = {"state": response_error(300, "float64")}
    for name, index in {"drive": 0, "decay": 2, "angle": 3}.items():
        direction = rng.normal(size=arrays[index].shape)
        ends = []
        for sign in (1, -1):
            moved = list(arrays)
            moved[index] = arrays[index] + sign * 1e-6 * direction
            ends.append(reference_loss(*moved))
        expected = (ends[0] - ends[1]) / 2e-6
        actual = (gradient[index] * direction).sum()
        errors[name] = abs(actual - expected) / abs(expected)
    return errors


def test_float64(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    outputs = tmp_path / "errors.npz"
    run_in_process(
        keras.backend.backend(), __file__, "float64_errors", "", outputs
    )
    errors = dict(np.load(outputs))
    # Keras 3.15 on JAX has the cosine of a float64 in float32 alone.
    exact = keras.backend.backend() != "jax"
    assert errors.pop("state") < (1e-12 if exact else 1e-5)
    assert max(errors.values()) < (1e-6 if exact else 1e-5), errors


def test_powers_form_a_semigroup():
    layer = LinearRecurrence()
    layer.build((None, None, 64))

    def complex_power(steps):
        real, imaginary = power(layer._exponent(), steps)
        return to_numpy(real) + 1j * to_numpy(imaginary)

    np.testing.assert_allclose(complex_power(1), eigenvalues(layer), atol=1e-6)
    for s, t in ((1, 2), (5, 8), (64, 64)):
        product = complex_power(s) * complex_power(t)
        np.testing.assert_allclose(complex_power(s + t), product, atol=1e-5)


@pytest.mark.parametrize("value", [-10.0, 0.0, 10.0])
def test_stable_whatever_the_weights(value):
    layer = LinearRecurrence()
    layer.build((None, None, 8))
    for weight in layer.trainable_weights:
        weight.assign(ops.full(weight.shape, value))
    spectrum = layer.spectrum()
    assert spectrum.shape == (8,)
    assert np.abs(spectrum).max() < 1
    z = linear_response((ops.ones((1, 2000, 4)),) * 2, layer._exponent())
    assert np.isfinite(to_numpy(z[0])).all()


def test_initial_spectrum():
    layer = LinearRecurrence(state_dim=400)
    layer.build((None, None, 8))
    modulus, angle = np.abs(layer.spectrum()), np.angle(layer.spectrum())
    assert 0.9 <= modulus.min() and modulus.max() <= 0.999
    assert abs((modulus**2).mean() - (0.9**2 + 0.999**2) / 2) < 0.03
    assert abs(np.abs(angle).mean() - np.pi / 2) < 0.2


def test_later_tokens_change_nothing_earlier():
    layer = LinearRecurrence()
    before = ops.convert_to_numpy(layer(X))
    changed = X.copy()
    changed[:, 5:] += 10.0
    after = ops.convert_to_numpy(layer(changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).min() > 0


def test_streaming_equals_the_full_pass():
    x = np.random.default_rng(3).normal(size=(2, 200, 6)).astype("float32")
    layer = LinearRecurrence()
    full = ops.convert_to_numpy(layer(x))
    state = layer.initial_state(2, 200)
    for t in range(200):
        y, state = layer.step(ops.convert_to_tensor(x[:, t : t + 1]), state, t)
        np.testing.assert_allclose(
            ops.convert_to_numpy(y)[:, 0], full[:, t], 1e-5, 1e-5
        )


@pytest.mark.parametrize("state_dim", [0, 3, -2, 4.0])
def test_bad_state_dim(state_dim):
    with pytest.raises(ValueError, match="state_dim"):
        LinearRecurrence(state_dim)


def test_odd_width_needs_a_state_dim():
    with pytest.raises(ValueError, match="state_dim"):
        LinearRecurrence()(X[..., :5])
    assert LinearRecurrence(4)(X[..., :5]).shape == (2, 9, 5)
