"""The potential with two hidden layers: formulas, force, contract."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import HamiltonianBlock, TwoLayerPotential
from orrery.testing import run_layer_contract

RNG = np.random.default_rng(0)
Q = RNG.normal(size=(3, 5, 4)).astype("float32")
CONTEXT = RNG.normal(size=(3, 5, 6)).astype("float32")


def weights(layer):
    return {
        weight.name: ops.convert_to_numpy(weight).astype("float64")
        for weight in layer.weights
    }


def hidden(layer, q, context=None):
    """The weights and both hidden layers."""
    w = weights(layer)
    s = q @ w["kernel_1"] + w["bias_1"]
    if context is not None:
        s = s + context @ w["context_kernel"]
    first = np.tanh(s)
    return w, first, np.tanh(first @ w["kernel_2"] + w["bias_2"])


def energy(layer, q, context=None):
    w, _, second = hidden(layer, q, context)
    stiffness = np.log1p(np.exp(w["curvature"]))
    return second @ w["amplitude"] + 0.5 * (stiffness * q * q).sum(-1)


def force(layer, q, context=None):
    w, first, second = hidden(layer, q, context)
    slope = ((1 - second**2) * w["amplitude"]) @ w["kernel_2"].T
    slope = ((1 - first**2) * slope) @ w["kernel_1"].T
    return -slope - np.log1p(np.exp(w["curvature"])) * q


@pytest.fixture(params=[False, True], ids=["alone", "context"])
def built(request):
    layer = TwoLayerPotential(12)
    arrays = (Q, CONTEXT) if request.param else (Q,)
    layer.build(*(array.shape for array in arrays))
    return layer, [ops.convert_to_tensor(array) for array in arrays]


def test_energy_and_force_are_those_of_numpy(built):
    """To the rounding of float32, 6e-8 of each of the terms that are summed.

    They cancel, so it counts against the largest value, not against each.
    """
    layer, inputs = built
    arrays = [x.astype("float64") for x in (Q, CONTEXT)[: len(inputs)]]
    for function, reference in ((layer.energy, energy), (layer.force, force)):
        found = ops.convert_to_numpy(function(*inputs))
        wanted = reference(layer, *arrays)
        size = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * size)


def test_force_is_minus_the_gradient(built):
    """Of NumPy's energy, by central differences."""
    layer, inputs = built
    context, step = (CONTEXT,)[: len(inputs) - 1], 1e-5
    q = Q.astype("float64")
    differences = np.zeros_like(q)
    for i in range(q.shape[-1]):
        shift = step * np.eye(q.shape[-1])[i]
        change = energy(layer, q + shift, *context)
        change -= energy(layer, q - shift, *context)
        differences[..., i] = -change / (2 * step)
    np.testing.assert_allclose(
        force(layer, q, *context), differences, rtol=1e-6, atol=1e-8
    )


def test_contract():
    run_layer_contract(
        lambda: TwoLayerPotential(8),
        Q,
        reference=lambda layer, q: energy(layer, q),
    )


def test_force_trains_every_weight():
    class Force(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.potential = TwoLayerPotential(8)

        def build(self, input_shape):
            self.potential.build(input_shape)

        def call(self, q):
            return self.potential.force(q)

    model = keras.Sequential([Force()])
    model.build(Q.shape)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(Q, Q, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.isfinite(new).all() and np.any(new != old)


def test_drives_a_block():
    block = HamiltonianBlock(TwoLayerPotential(8), energy_tokens=0)
    h = RNG.normal(size=(2, 5, 8)).astype("float32")
    back = block.inverse(block(h))
    np.testing.assert_allclose(ops.convert_to_numpy(back), h, atol=1e-5)


@pytest.mark.parametrize("hidden_dim", [0, -1, 2.5, None])
def test_bad_width(hidden_dim):
    with pytest.raises(ValueError, match="`hidden_dim`.*at least 1"):
        TwoLayerPotential(hidden_dim)
