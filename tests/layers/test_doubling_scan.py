"""The doubling scan against plain loops, forwards and backwards."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers.doubling_scan import doubling_scan, linear_scan, neighbour

# One chunk, full and partial chunks, and three levels of them.
LENGTHS = (1, 2, 7, 127, 128, 129, 200, 384, 1000, 16_500)
COMPILED = [False, True] if keras.backend.backend() != "torch" else [False]


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
    state = to_complex(linear_scan(to_pair(factor), to_pair(drive)))
    np.testing.assert_allclose(state, loop(factor, drive), atol=1e-5)


def test_reversed_scan_begins_at_the_end():
    factor, drive = random_recurrence(300)
    state = to_complex(linear_scan(to_pair(factor), to_pair(drive), True))
    expected = loop(factor[:, ::-1], drive[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(state, expected, atol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_distance_counts_the_tokens_of_the_later_span(length):
    """Powers of a constant factor are all that its recurrence needs."""

    def join(earlier, later, distance):
        return ops.power(0.75, ops.cast(distance, "float32")) * earlier + later

    drive = np.random.default_rng(1).normal(size=(length, 2)).astype("float32")
    state = ops.convert_to_numpy(doubling_scan(drive, join))
    expected = loop(np.full((1, length, 2), 0.75), drive[None])[0].real
    np.testing.assert_allclose(state, expected, atol=1e-5)


def test_neighbours():
    x = np.arange(1.0, 7.0).reshape(1, 3, 2)
    left = ops.convert_to_numpy(neighbour(ops.convert_to_tensor(x)))
    right = ops.convert_to_numpy(neighbour(ops.convert_to_tensor(x), True))
    np.testing.assert_array_equal(left[0], [[0, 0], [1, 2], [3, 4]])
    np.testing.assert_array_equal(right[0], [[3, 4], [5, 6], [0, 0]])


class Probe(keras.layers.Layer):
    """The real inner product of a scan's states with fixed numbers.

    Its weights start at zero, so that one step of SGD at rate 1 leaves minus
    the gradient in them.
    """

    def __init__(self, factor, drive, cotangent):
        super().__init__()
        self.arrays = [factor.real, factor.imag, drive.real, drive.imag]
        self.cotangent = to_pair(cotangent)
        self.moved = [
            self.add_weight(shape=array.shape, initializer="zeros")
            for array in self.arrays
        ]

    def call(self, x):
        a, b, v, w = (
            array + weight
            for array, weight in zip(self.arrays, self.moved, strict=True)
        )
        state = linear_scan((a, b), (v, w))
        products = (
            ops.sum(g * z) for g, z in zip(self.cotangent, state, strict=True)
        )
        self.add_loss(sum(products))
        return x


@pytest.mark.parametrize("jit_compile", COMPILED)
@pytest.mark.parametrize("length", [5, 300])
def test_gradient_equals_that_of_the_loop(length, jit_compile):
    factor, drive = random_recurrence(length)
    cotangent = random_recurrence(length, seed=1)[1]
    probe = Probe(factor, drive, cotangent)
    model = keras.Sequential([keras.Input((1,)), probe])
    model.compile(keras.optimizers.SGD(1.0), jit_compile=jit_compile)
    model.fit(np.zeros((1, 1)), verbose=0)
    a, b, v, w = (-ops.convert_to_numpy(weight) for weight in probe.moved)

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


def test_unknown_length():
    """A generator of unequal lengths leaves N unknown when traced."""

    def batches():
        for length in (3, 130, 300, 129):
            yield np.ones((2, length, 1)), np.ones((2, length, 1))

    inputs = keras.Input((None, 1))
    model = keras.Model(inputs, keras.layers.Dense(1)(CumulativeSum()(inputs)))
    model.compile("sgd", "mse")
    model.fit(batches(), epochs=1, verbose=0)
    layer = CumulativeSum()
    sums = ops.convert_to_numpy(layer(np.ones((2, 300, 1), "float32")))
    np.testing.assert_array_equal(sums[0, :, 0], np.arange(1, 301))
