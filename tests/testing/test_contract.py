"""The contract accepts Keras's own layers and rejects broken ones."""

import keras
import numpy as np
import pytest
from orrery.testing import run_layer_contract

RNG = np.random.default_rng(0)
SEQUENCE = RNG.normal(size=(2, 5, 3))
TOKENS = RNG.integers(0, 11, size=(2, 5))


def dense_reference(layer, inputs):
    kernel, bias = layer.get_weights()
    return np.tanh(inputs.astype("float64") @ kernel + bias)


@pytest.mark.parametrize(
    "make_layer, inputs, options",
    [
        (
            lambda: keras.layers.Dense(4, activation="tanh"),
            SEQUENCE,
            {"reference": dense_reference},
        ),
        (lambda: keras.layers.Embedding(11, 4), TOKENS, {}),
        (
            lambda: keras.layers.LSTM(
                4, return_sequences=True, return_state=True
            ),
            SEQUENCE,
            {},
        ),
        (
            lambda: keras.layers.MultiHeadAttention(2, 4),
            SEQUENCE,
            {
                "call_kwargs": {"value": SEQUENCE, "use_causal_mask": True},
                # A bias of the keys shifts every score alike.
                "trainable_gradients": False,
            },
        ),
        (keras.layers.Add, (SEQUENCE, SEQUENCE), {}),
        (lambda: keras.layers.Dropout(0.5), SEQUENCE, {}),
    ],
    ids=["dense", "embedding", "lstm", "attention", "add", "dropout"],
)
def test_accepts(make_layer, inputs, options):
    run_layer_contract(make_layer, inputs, **options)


@keras.saving.register_keras_serializable(package="orrery_test")
class Plain(keras.layers.Layer):
    """Sound: the broken ones differ from it in one thing each."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units))

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.kernel)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="orrery_test")
class ForgetsUnits(Plain):
    def get_config(self):
        return keras.layers.Layer.get_config(self)


class NotRegistered(Plain):
    pass


@keras.saving.register_keras_serializable(package="orrery_test")
class ZeroGradient(Plain):
    def call(self, inputs):
        return super().call(keras.ops.zeros_like(inputs))


@keras.saving.register_keras_serializable(package="orrery_test")
class WrongShape(Plain):
    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], 7), inputs.dtype)


def test_accepts_plain():
    run_layer_contract(
        lambda: Plain(4),
        SEQUENCE,
        reference=lambda layer, x: x @ layer.get_weights()[0],
    )


@pytest.mark.parametrize(
    "make_layer, message",
    [
        (lambda: ForgetsUnits(4), "config clone|get_config|shape"),
        (lambda: NotRegistered(4), "NotRegistered"),
        (lambda: ZeroGradient(4), "gradient is zero"),
        (lambda: WrongShape(4), "symbolic shape"),
    ],
)
def test_rejects(make_layer, message):
    with pytest.raises((AssertionError, ValueError, TypeError), match=message):
        run_layer_contract(make_layer, SEQUENCE)


def test_rejects_wrong_mathematics():
    with pytest.raises(AssertionError, match="NumPy reference"):
        run_layer_contract(
            lambda: Plain(4),
            SEQUENCE,
            reference=lambda layer, x: 1.01 * x @ layer.get_weights()[0],
        )
