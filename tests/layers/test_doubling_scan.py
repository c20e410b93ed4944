"""The doubling scan against plain loops, forwards and backwards."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery._backend import compile_function
from orrery.layers.doubling_scan import doubling_scan, linear_scan, neighbour
from orrery.testing.gradients import gradients

# One chunk, full and partial chunks, and three levels of them.
LENGTHS = (1, 2, 128, 129, 300, 16_500)
EAGER = [False, True] if keras.backend.backend() == "tensorflow" else [False]


def to_complex(pair):
    real, imaginary = (ops.convert_to_numpy(part) for part in pair)
    return real.astype("float64") + 1j * imaginary


def to_pair(z):
    return tuple(
        ops.convert_to_tensor(part.astype("float32"))
        for part in (z.real, z.imag)
    )


def random_recurrence(length, width=3, seed=0):
    """Factors inside the unit disc, and drives; representable in float32."""
    rng = np.random.default_rng(seed)
    shape = (2, length, width)
    factor = np.sqrt(rng.uniform(size=shape)) * np.exp(
        2j * np.pi * rng.uniform(size=shape)
    )
    drive = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return factor.astype("complex64"), drive.astype("complex64")


def loop(factor, drive):
    state = np.zeros_like(drive, dtype="complex128")
    state[:, 0] = drive[:, 0]
    for t in range(1, drive.shape[1]):
        state[:, t] = factor[:, t] * state[:, t - 1] + drive[:, t]
    return state


@pytest.mark.parametrize("length", LENGTHS)
def test_linear_scan_equals_the_loop(length):
    factor, drive = random_recurrence(length)
    scan = compile_function(linear_scan, [])
    state = to_complex(scan(to_pair(factor), to_pair(drive)))
    np.testing.assert_allclose(state, loop(factor, drive), atol=1e-5)


def test_reversed_scan_begins_at_the_end():
    factor, drive = random_recurrence(300)
    scan = compile_function(lambda a, v: linear_scan(a, v, reverse=True), [])
    state = to_complex(scan(to_pair(factor), to_pair(drive)))
    expected = loop(factor[:, ::-1], drive[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(state, expected, atol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_distance_counts_the_tokens_of_the_later_span(length):
    """Powers of a constant factor are all that its recurrence needs."""

    def join(earlier, later, distance):
        power = ops.power(0.75, ops.cast(distance, "float32"))
        return power * earlier + later

    drive = np.random.default_rng(1).normal(size=(length, 2)).astype("float32")
    scan = compile_function(lambda drive: doubling_scan(drive, join), [])
    state = scan(ops.convert_to_tensor(drive))
    expected = loop(np.full((1, length, 2), 0.75), drive[None])[0].real
    np.testing.assert_allclose(ops.convert_to_numpy(state), expected, atol=1e-5)


def test_neighbours():
    x = np.arange(1.0, 7.0).reshape(1, 3, 2)
    left = ops.convert_to_numpy(neighbour(ops.convert_to_tensor(x)))
    right = ops.convert_to_numpy(neighbour(ops.convert_to_tensor(x), True))
    np.testing.assert_array_equal(left[0], [[0, 0], [1, 2], [3, 4]])
    np.testing.assert_array_equal(right[0], [[3, 4], [5, 6], [0, 0]])


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("length", [5, 150])
def test_gradient_equals_that_of_the_loop(length, eager):
    factor, drive = random_recurrence(length)
    cotangent = random_recurrence(length, seed=1)[1]
    g, h = to_pair(cotangent)

    def loss(a, b, v, w):
        real, imaginary = linear_scan((a, b), (v, w))
        return ops.sum(real * g + imaginary * h)

    a, b, v, w = gradients(
        loss, [factor.real, factor.imag, drive.real, drive.imag], eager
    )

    state = loop(factor, drive)
    adjoint = np.array(cotangent, dtype="complex128")
    for t in range(length - 2, -1, -1):
        adjoint[:, t] += factor[:, t + 1].conj() * adjoint[:, t + 1]
    before = np.concatenate([np.zeros_like(state[:, :1]), state[:, :-1]], 1)
    np.testing.assert_allclose(v + 1j * w, adjoint, atol=2e-5)
    np.testing.assert_allclose(a + 1j * b, before.conj() * adjoint, atol=2e-4)


class CumulativeSum(keras.layers.Layer):
    def call(self, x):
        return doubling_scan(x, lambda earlier, later, _: earlier + later)

    def compute_output_shape(self, input_shape):
        return input_shape


def test_unknown_length():
    """A generator of unequal lengths leaves N unknown when traced."""

    def batches():
        for length in (3, 130, 300, 129):
            yield np.ones((2, length, 1)), np.ones((2, length, 1))

    inputs = keras.Input((None, 1))
    model = keras.Model(inputs, keras.layers.Dense(1)(CumulativeSum()(inputs)))
    model.compile("sgd", "mse")
    model.fit(batches(), steps_per_epoch=4, shuffle=False, verbose=0)
    layer = CumulativeSum()
    sums = ops.convert_to_numpy(layer(np.ones((2, 300, 1), "float32")))
    np.testing.assert_array_equal(sums[0, :, 0], np.arange(1, 301))
