"""The residual block every language model repeats."""

import numpy as np
from keras import ops
from orrery.layers import CausalSelfAttention, DecoderBlock, MixtureOfExperts

X = np.random.default_rng(0).normal(size=(2, 6, 16)).astype("float32")


def make(dropout=0.0):
    return DecoderBlock(
        CausalSelfAttention(2), MixtureOfExperts(1, 24, dropout=0.0), dropout
    )


def reference(layer, x):
    def branch(x, norm, inner):
        scale = ops.convert_to_numpy(norm.scale)
        normalized = x / np.sqrt((x**2).mean(-1, keepdims=True) + norm.epsilon)
        y = inner(ops.convert_to_tensor((normalized * scale).astype("float32")))
        return x + ops.convert_to_numpy(y)

    x = branch(x, layer.mixer_norm, layer.mixer)
    return branch(x, layer.feedforward_norm, layer.feedforward)


def test_contract(contract):
    contract(make, X, reference=reference, tolerance=1e-4)


def test_dropout_acts_in_training_alone():
    layer = make(0.5)
    quiet = ops.convert_to_numpy(layer(X))
    np.testing.assert_array_equal(quiet, ops.convert_to_numpy(layer(X)))
    noisy = ops.convert_to_numpy(layer(X, training=True))
    assert np.abs(noisy - quiet).max() > 0.1


def test_streaming_equals_the_full_pass():
    layer = make()
    full = ops.convert_to_numpy(layer(X))
    state = layer.initial_state(2, 6)
    for t in range(6):
        y, state = layer.step(ops.convert_to_tensor(X[:, t : t + 1]), state, t)
        np.testing.assert_allclose(
            ops.convert_to_numpy(y)[:, 0], full[:, t], 1e-5, 1e-5
        )
