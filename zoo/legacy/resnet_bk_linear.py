"""Linear maps and norms as PyTorch makes them."""

import math

import keras


def uniform(fan_in):
    limit = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


def linear(units, fan_in, name, **kwargs):
    """A `Dense` as PyTorch initialises it: U(+-1/sqrt(fan_in)), bias too."""
    layer = keras.layers.Dense(
        units,
        kernel_initializer=uniform(fan_in),
        bias_initializer=uniform(fan_in),
        name=name,
        **kwargs,
    )
    layer.build((None, fan_in))
    return layer


def layer_norm(dim, name):
    layer = keras.layers.LayerNormalization(epsilon=1e-5, name=name)
    layer.build((None, None, dim))
    return layer
