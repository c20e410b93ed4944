import numpy as np
import pytest
from keras import ops
from orrery import _backend
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


def test_orthogonal_and_defective():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(193, 193)))
    assert 1.0 <= bound(rotation) <= 1.012
    jordan = 0.9 * np.eye(4) + np.diag(np.ones(3), 1)
    assert 0.9 <= bound(jordan) <= 1.2


@pytest.mark.parametrize("size, condition", [(8, 1e3), (8, 3e3), (64, 3e3)])
def test_far_from_normal(size, condition):
    """The norm is about `condition` times the radius: rounding hides it."""
    generator = np.random.default_rng(0)

    def orthogonal():
        return np.linalg.qr(generator.normal(size=(size, size)))[0]

    for _ in range(40):
        stretch = np.geomspace(1.0, condition, size)
        basis = orthogonal() * stretch @ orthogonal()
        eigenvalues = generator.uniform(-1.5, 1.5, size)
        matrix = basis * eigenvalues @ np.linalg.inv(basis)
        matrix = matrix.astype("float32").astype("float64")
        radius = np.abs(np.linalg.eigvals(matrix)).max()
        value = bound(matrix)
        assert radius <= value
        assert np.abs(np.linalg.eigvals(matrix / max(value, 1.0))).max() <= 1.0


def test_where_products_are_rounded(monkeypatch):
    """The precise product stands in for the rounded one, to the same bound."""
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE))
    expected = bound(matrix)
    monkeypatch.setattr(_backend, "rounds_products", lambda: True)
    assert bound(matrix) == pytest.approx(expected, rel=1e-5)


def test_nilpotent():
    assert 0.0 <= bound(np.zeros((SIZE, SIZE))) < 1e-6
    assert 0.0 <= bound(np.triu(np.ones((SIZE, SIZE)), 1)) < 5.0
