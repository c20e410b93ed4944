"""The penalty on growth, against closed values and true radii."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.losses.spectral_penalty import SpectralPenalty, gelfand_radius
from orrery.testing.gradients import gradients


def value(penalty, matrix):
    return float(penalty(ops.convert_to_tensor(matrix, "float32")))


def normal_matrices(count, size=64):
    """Rotations and decays in a random basis, and their spectral radii."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        basis = np.linalg.qr(generator.normal(size=(size, size)))[0]
        r = generator.uniform(0.3, 1.2, size // 2)
        theta = generator.uniform(0, np.pi, size // 2)
        real, imaginary = np.diag(r * np.cos(theta)), np.diag(r * np.sin(theta))
        blocks = np.block([[real, -imaginary], [imaginary, real]])
        yield basis @ blocks @ basis.T, r.max()


def test_closed_values():
    grows = np.diag([1.5, 0.2, -0.3])
    assert value(SpectralPenalty(), grows) == pytest.approx(0.25, rel=0.02)
    assert value(SpectralPenalty(weight=4.0), grows) == pytest.approx(
        1.0, rel=0.02
    )
    still = np.diag([0.9, -0.5])
    assert value(SpectralPenalty(), still) == 0.0
    found = value(SpectralPenalty(margin=0.2), still)
    assert found == pytest.approx(0.01, rel=0.03)
    circle = SpectralPenalty("circle")
    expected = ((0.81 - 1) ** 2 + (0.25 - 1) ** 2) / 2
    assert value(circle, still) == pytest.approx(expected, rel=1e-5)
    rotation = [[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]]
    assert value(circle, rotation) == pytest.approx(0, abs=1e-12)


def test_radius_is_never_too_small_and_hardly_too_large():
    for matrix, radius in normal_matrices(100):
        found = float(gelfand_radius(ops.convert_to_tensor(matrix, "float32")))
        assert radius * (1 - 1e-5) <= found <= radius * 1.01


def test_radius_of_a_matrix_far_from_normal():
    matrix = 0.5 * np.eye(4) + 100 * np.eye(4, k=1)
    found = float(gelfand_radius(ops.convert_to_tensor(matrix, "float32")))
    assert 0.5 * (1 - 1e-5) <= found <= 0.55


@pytest.mark.parametrize("target", ["disc", "circle"])
def test_gradients_are_finite(target):
    """Also at repeated eigenvalues, and at nothing at all."""
    penalty = SpectralPenalty(target)
    for matrix in (1.2 * np.eye(3), np.ones((3, 3)), np.zeros((3, 3))):
        (gradient,) = gradients(penalty, [matrix.astype("float32")])
        assert np.isfinite(gradient).all()


def test_no_gradient_inside_the_disc():
    (gradient,) = gradients(
        SpectralPenalty(), [np.diag([0.9, 0.1]).astype("float32")]
    )
    np.testing.assert_array_equal(gradient, 0.0)


def test_the_gradient_shrinks_what_grows():
    matrix = np.diag([1.3, 0.2]).astype("float32")
    (gradient,) = gradients(SpectralPenalty(), [matrix])
    # 2 (rho - 1) d rho / d A, and d rho / d a_11 = 1.
    assert gradient[0, 0] == pytest.approx(0.6, rel=0.02)
    assert abs(gradient[1, 1]) < 1e-3


def test_config():
    penalty = SpectralPenalty("disc", margin=0.05, weight=0.1)
    config = keras.saving.serialize_keras_object(penalty)
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert again.get_config() == penalty.get_config()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"target": "<=1"}, "`target`"),
        ({"margin": 1.0}, "`margin`"),
        ({"margin": -0.1}, "`margin`"),
        ({"target": "circle", "margin": 0.1}, "`margin` has no effect"),
        ({"weight": -1.0}, "`weight`"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        SpectralPenalty(**given)
