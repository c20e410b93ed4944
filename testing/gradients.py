"""Gradients of a function of tensors, on whichever backend is running."""

import keras
import numpy as np


def gradients(function, arrays, eager=False):
    """Differentiate a scalar function of tensors.

    A layer adds trainable zeros to the arrays and the function's value to the
    loss. One step of gradient descent at rate 1 then leaves minus the gradient
    in the zeros: no backend has to be asked for its own.

    JAX and TensorFlow compile the step with XLA. A TensorFlow graph without it
    may update a weight before reading it where, as in a linear function, its
    gradient does not depend on it.

    Args:
        function: callable of tensors that returns a scalar, written with
            `keras.ops`.
        arrays: sequence of NumPy arrays of the type `keras.config.floatx()`.
        eager: bool. Whether to run without compilation. Default: `False`.

    Returns:
        List of NumPy arrays of the shapes of `arrays`.

    Example:

    ```python
    (gradient,) = gradients(lambda x: ops.sum(x * x), [np.ones(3)])  # 2, 2, 2
    ```
    """
    probe = _Probe(function, arrays)
    model = keras.Sequential([keras.Input((1,)), probe])
    compiled = not eager and keras.backend.backend() != "torch"
    model.compile(
        keras.optimizers.SGD(1.0), jit_compile=compiled, run_eagerly=eager
    )
    model.fit(np.zeros((1, 1)), verbose=0)
    return [-keras.ops.convert_to_numpy(zero) for zero in probe.zeros]


class _Probe(keras.layers.Layer):
    def __init__(self, function, arrays):
        super().__init__()
        self.function, self.arrays = function, arrays
        self.zeros = [
            self.add_weight(shape=array.shape, initializer="zeros")
            for array in arrays
        ]

    def call(self, x):
        moved = (
            keras.ops.convert_to_tensor(array) + zero
            for array, zero in zip(self.arrays, self.zeros, strict=True)
        )
        self.add_loss(self.function(*moved))
        return x

    def compute_output_shape(self, input_shape):
        return input_shape
