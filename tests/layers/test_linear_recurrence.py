"""The linear recurrence against its loop, in float32 and float64."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers.linear_recurrence import (
    LinearRecurrence,
    linear_response,
    power,
)
from orrery.testing.cross_backend import run_in_process

X = np.random.default_rng(0).normal(size=(2, 20, 6)).astype("float32")


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


@pytest.mark.parametrize("state_dim", [None, 10])
def test_contract(contract, state_dim):
    contract(lambda: LinearRecurrence(state_dim), X, reference=reference)


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
    z = linear_response(
        tuple(map(ops.convert_to_tensor, drive)),
        tuple(map(ops.convert_to_tensor, exponent)),
    )
    decay, angle = (part.astype("float64") for part in exponent)
    expected = loop(np.exp(decay + 1j * angle), drive[0] + 1j * drive[1])
    error = to_numpy(z[0]) + 1j * to_numpy(z[1]) - expected
    return np.abs(error).max() / np.abs(expected).max()


@pytest.mark.parametrize("length", [1, 2, 100, 300, 1024, 8192])
def test_doubling_equals_the_loop(length):
    assert response_error(length, "float32") < 1e-5


class Probe(keras.layers.Layer):
    """Inner product of a response with fixed numbers.

    Its weights start at zero: a step of SGD at rate 1 leaves minus the
    gradient in them.
    """

    def __init__(self, drive, exponent, cotangent):
        super().__init__()
        self.arrays = [*drive, *exponent]
        self.cotangent = cotangent
        self.moved = [
            self.add_weight(shape=array.shape, initializer="zeros")
            for array in self.arrays
        ]

    def call(self, x):
        v, w, decay, angle = (
            array + weight
            for array, weight in zip(self.arrays, self.moved, strict=True)
        )
        state = linear_response((v, w), (decay, angle))
        products = (
            ops.sum(g * z) for g, z in zip(self.cotangent, state, strict=True)
        )
        self.add_loss(sum(products))
        return x


def float64_errors(_):
    """Errors of the states, and of the gradient along random directions."""
    drive, exponent = random_response(200, "float64")
    cotangent = random_response(200, "float64")[0]
    cotangent = tuple(part[::-1].copy() for part in cotangent)
    probe = Probe(drive, exponent, cotangent)
    model = keras.Sequential([keras.Input((1,)), probe])
    model.compile(keras.optimizers.SGD(1.0))
    model.fit(np.zeros((1, 1)), verbose=0)
    gradient = [-to_numpy(weight) for weight in probe.moved]

    def value(arrays):
        v, w, decay, angle = arrays
        z = loop(np.exp(decay + 1j * angle), v + 1j * w)
        return (cotangent[0] * z.real + cotangent[1] * z.imag).sum()

    rng = np.random.default_rng(2)
    errors = {"state": response_error(300, "float64")}
    for name, index in {"drive": 0, "decay": 2, "angle": 3}.items():
        direction = rng.normal(size=probe.arrays[index].shape)
        ends = []
        for sign in (1, -1):
            arrays = list(probe.arrays)
            arrays[index] = arrays[index] + sign * 1e-6 * direction
            ends.append(value(arrays))
        expected = (ends[0] - ends[1]) / 2e-6
        actual = (gradient[index] * direction).sum()
        errors[name] = abs(actual - expected) / abs(expected)
    return errors


def test_float64(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_FLOATX", "float64")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    outputs = tmp_path / "errors.npz"
    run_in_process(
        keras.backend.backend(), __file__, "float64_errors", "", outputs
    )
    errors = dict(np.load(outputs))
    assert errors.pop("state") < 1e-12
    assert max(errors.values()) < 1e-6, errors


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
    z = linear_response((np.ones((1, 2000, 4)),) * 2, layer._exponent())
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
    changed[:, 7:] += 10.0
    after = ops.convert_to_numpy(layer(changed))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).min() > 0


def test_streaming_equals_the_full_pass():
    x = np.random.default_rng(3).normal(size=(2, 200, 6)).astype("float32")
    layer = LinearRecurrence()
    full = ops.convert_to_numpy(layer(x))
    state = layer.initial_state(2, 200)
    for t in range(200):
        y, state = layer.step(ops.convert_to_tensor(x[:, t : t + 1]), state, t)
        np.testing.assert_allclose(
            ops.convert_to_numpy(y)[:, 0], full[:, t], atol=1e-5
        )


@pytest.mark.parametrize("state_dim", [0, 3, -2, 4.0])
def test_bad_state_dim(state_dim):
    with pytest.raises(ValueError, match="state_dim"):
        LinearRecurrence(state_dim)


def test_odd_width_needs_a_state_dim():
    with pytest.raises(ValueError, match="state_dim"):
        LinearRecurrence()(X[..., :5])
    assert LinearRecurrence(4)(X[..., :5]).shape == (2, 20, 5)
