import numpy as np
import pytest
from keras import ops
from orrery.layers.spectral_radius import bound_spectral_radius

SIZE = 24


def bound(matrix):
    matrix = ops.convert_to_tensor(matrix, "float32")
    return float(bound_spectral_radius(matrix))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
def test_bounds_the_radius_tightly(scale):
    matrix = scale * np.random.default_rng(0).normal(size=(SIZE, SIZE))
    radius = np.abs(np.linalg.eigvals(matrix)).max()
    assert radius <= bound(matrix) <= 1.01 * radius


def test_equals_the_formula_in_float64():
    rotation, _ = np.linalg.qr(
        np.random.default_rng(0).normal(size=(SIZE, SIZE))
    )
    jordan = 0.9 * np.eye(4) + np.diag(np.ones(3), 1)
    for matrix in (rotation, jordan):
        power = np.linalg.matrix_power(matrix, 1024)
        expected = np.linalg.norm(power) ** (1 / 1024) * (1 + 2**-10)
        np.testing.assert_allclose(bound(matrix), expected, rtol=1e-5)


def test_nilpotent():
    assert 0.0 <= bound(np.zeros((SIZE, SIZE))) < 1e-6
    assert 0.0 <= bound(np.triu(np.ones((SIZE, SIZE)), 1)) < 1.0
