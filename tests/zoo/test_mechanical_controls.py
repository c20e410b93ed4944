"""The controls of the Hamiltonian network: their formulas, their sizes."""

import numpy as np
import pytest
from keras import ops
from orrery.zoo import NeuralODE, PlainHNN

RNG = np.random.default_rng(0)
Q, P = RNG.normal(size=(2, 5, 2)).astype("float32")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def test_gradient_of_the_plain_hnn():
    """The formula against central differences of its energy, float64."""
    model = PlainHNN(2, 8)
    model.build()
    w1, b1, w2, b2, a = (w.astype("float64") for w in model.get_weights())

    def energy(x):
        return (np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2) @ a)[..., 0]

    x = np.concatenate([Q, P], axis=-1).astype("float64")
    np.testing.assert_allclose(numpy(model.energy(Q, P)), energy(x), atol=1e-5)
    dq, dp = map(numpy, model.field(Q, P))
    for i in range(4):
        shift = 1e-5 * np.eye(4)[i]
        slope = (energy(x + shift) - energy(x - shift)) / 2e-5
        found = -dp[:, i] if i < 2 else dq[:, i - 2]
        np.testing.assert_allclose(found, slope, atol=1e-5)


def test_energy_before_a_build():
    assert PlainHNN(2, 8).energy(Q, P).shape == (5,)


def test_runge_kutta_of_the_neural_ode():
    model = NeuralODE(2, 8, num_steps=1)
    model.build()
    w1, b1, w2, b2, w3, b3 = (w.astype("float64") for w in model.get_weights())

    def field(x):
        return np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2) @ w3 + b3

    x, h = np.concatenate([Q, P], -1).astype("float64"), 0.1
    k1 = field(x)
    k2 = field(x + h / 2 * k1)
    k3 = field(x + h / 2 * k2)
    k4 = field(x + h * k3)
    wanted = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    found = numpy(model((Q, P)))[:, 1]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("cls", [PlainHNN, NeuralODE])
def test_the_widest_network_of_a_size(cls):
    model = cls(2, 8)
    model.build()
    size = model.count_params()
    assert cls.of_size(size, 2).hidden_dim == 8
    assert cls.of_size(size - 1, 2).hidden_dim == 7
    with pytest.raises(ValueError, match="at least.*parameters=3"):
        cls.of_size(3, 2)


@pytest.mark.parametrize("hidden_dim", [0, 2.5, True, None])
def test_bad_widths(hidden_dim):
    with pytest.raises(ValueError, match="`hidden_dim`.*at least 1"):
        NeuralODE(2, hidden_dim)
