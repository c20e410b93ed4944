"""Token mixing by a stable linear recurrence of rotations and decays."""

import math

import keras
import numpy as np
from keras import ops

from .doubling_scan import (
    complex_product,
    complex_sum,
    doubling_scan,
    neighbour,
)


def linear_response(drive, exponent):
    """States of `z_t = K z_{t-1} + v_t` from rest, K = exp(exponent) constant.

    Powers are known in closed form, `K^s = exp(s exponent)`, and so is the
    gradient: with g that of z, `lam_t = g_t + conj(K) lam_{t+1}` is the same
    recurrence the other way; then `dv = lam` and `dexponent = sum_t conj(K
    z_{t-1}) lam_t`.

    Args:
        drive: pair of tensors `(B, N, c)`, v, real and imaginary part.
        exponent: pair of tensors `(c,)`, logarithm of the modulus and angle.

    Returns:
        Pair of tensors `(B, N, c)`, z.
    """

    @ops.custom_gradient
    def solve(drive, decay, angle):
        state = _respond((drive[0], drive[1]), (decay, angle))

        def gradient(*args, upstream=None):
            upstream = args[-1] if upstream is None else upstream
            adjoint = _respond(
                (upstream[0], upstream[1]), (decay, -angle), reverse=True
            )
            real, imaginary = complex_product(
                power((decay, angle), 1), [neighbour(part) for part in state]
            )
            sensitivity = complex_product((real, -imaginary), adjoint)
            return (
                ops.stack(adjoint),
                *(ops.sum(part, axis=(0, 1)) for part in sensitivity),
            )

        return ops.stack(state), gradient

    state = solve(ops.stack(drive), *exponent)
    return state[0], state[1]


def power(exponent, steps):
    """`exp(steps * exponent)` of complex numbers `(c,)` given as a pair.

    Args:
        exponent: pair of tensors `(c,)`.
        steps: int, or int tensor `(n, 1)`.

    Returns:
        Pair of tensors, `(c,)` or `(n, c)`.
    """
    steps = ops.cast(steps, exponent[0].dtype)
    modulus, angle = ops.exp(steps * exponent[0]), steps * exponent[1]
    return modulus * ops.cos(angle), modulus * ops.sin(angle)


def _respond(drive, exponent, reverse=False):
    def join(earlier, later, distance):
        """What `later` becomes when it starts from `earlier`."""
        carried = complex_product(power(exponent, distance), earlier)
        return complex_sum(later, carried)

    return doubling_scan(drive, join, reverse)


@keras.saving.register_keras_serializable(package="orrery")
class LinearRecurrence(keras.layers.Layer):
    """Causal mixing of tokens by a linear system that cannot be unstable.

    `z_t = K z_{t-1} + B u_t`, `y_t = C z_t + D * u_t`, `out = W_o(silu(W_g u)
    * y)`. K has 2x2 blocks, rotations by theta scaled by `r = exp(-exp(nu))`,
    below 1 for any nu (in float32 while nu > -17); B is scaled by
    `sqrt(1 - r^2)`, which gives z the variance of its input.

    Since K does not depend on t, `K^s = (r^s, s theta)` in closed form, and a
    doubling scan needs O(N) work and O(log N) steps. The state is kept in
    float32 or better under any dtype policy.

    Args:
        state_dim: int or `None`, the size m of z, even. Default: the width d
            of the input.

    Call arguments:
        x: float tensor `(B, N, d)`.

    Returns:
        float tensor `(B, N, d)`.

    Raises:
        ValueError: if `state_dim`, or d where it stands in for it, is not a
            positive even integer.

    Example:

    ```python
    mixer = LinearRecurrence()
    y = mixer(keras.random.normal((2, 16, 64)))  # (2, 16, 64)
    ```

    Reference:
        - [Orvieto et al., 2023](https://arxiv.org/abs/2303.06349)
    """

    def __init__(self, state_dim=None, **kwargs):
        super().__init__(**kwargs)
        if state_dim is not None:
            _check_even("`state_dim`", state_dim)
        self.state_dim = state_dim

    def build(self, input_shape):
        width = input_shape[-1]
        if self.state_dim is None:
            _check_even("Without `state_dim` the width of the input", width)
        states = self.state_dim or width
        squared_modulus = keras.initializers.RandomUniform(0.9**2, 0.999**2)
        self.nu = self.add_weight(
            name="nu",
            shape=(states // 2,),
            initializer=lambda *args, **kwargs: ops.log(
                -0.5 * ops.log(squared_modulus(*args, **kwargs))
            ),
            autocast=False,
        )
        self.theta = self.add_weight(
            name="theta",
            shape=(states // 2,),
            initializer=keras.initializers.RandomUniform(0.0, math.pi),
            autocast=False,
        )
        self.skip = self.add_weight(
            name="skip", shape=(width,), initializer="ones"
        )

        def dense(name, inputs, outputs):
            layer = keras.layers.Dense(
                outputs, use_bias=False, dtype=self.dtype_policy, name=name
            )
            layer.build((*input_shape[:-1], inputs))
            return layer

        self.input_projection = dense("input", width, states)
        self.state_projection = dense("state", states, width)
        self.gate = dense("gate", width, width)
        self.output_projection = dense("output", width, width)

    @property
    def state_dtype(self):
        """The compute dtype, but never less than float32."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def _exponent(self):
        """Logarithms of the m/2 eigenvalues, as a pair `(-exp(nu), theta)`."""
        nu = ops.cast(self.nu, self.state_dtype)
        return -ops.exp(nu), ops.cast(self.theta, self.state_dtype)

    def spectrum(self):
        """The m eigenvalues of K, a complex NumPy array."""
        nu, theta = (
            ops.convert_to_numpy(ops.cast(weight, self.state_dtype))
            for weight in (self.nu, self.theta)
        )
        eigenvalues = np.exp(-np.exp(nu) + 1j * theta)
        return np.concatenate([eigenvalues, eigenvalues.conj()])

    def call(self, x):
        return self._read(x, linear_response(self._drive(x), self._exponent()))

    def initial_state(self, batch_size, max_length):
        """A state at rest: real and imaginary parts, each `(B, 1, m/2)`."""
        del max_length
        shape = (batch_size, 1, self.nu.shape[0])
        zeros = ops.zeros(shape, dtype=self.state_dtype)
        return zeros, zeros

    def step(self, x, state, index):
        """One token `(B, 1, d)`; its position `index` does not matter."""
        del index
        kept = complex_product(power(self._exponent(), 1), state)
        state = complex_sum(kept, self._drive(x))
        return self._read(x, state), state

    def _drive(self, x):
        """B u, scaled by sqrt(1 - r^2)."""
        scale = ops.sqrt(-ops.expm1(2.0 * self._exponent()[0]))
        drive = ops.cast(self.input_projection(x), self.state_dtype)
        real, imaginary = ops.split(drive, 2, axis=-1)
        return scale * real, scale * imaginary

    def _read(self, x, state):
        x = ops.cast(x, self.compute_dtype)
        y = self.state_projection(ops.concatenate(state, axis=-1))
        y = y + ops.cast(self.skip, self.compute_dtype) * x
        return self.output_projection(ops.silu(self.gate(x)) * y)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "state_dim": self.state_dim}


def _check_even(name, value):
    if not isinstance(value, int) or value < 2 or value % 2:
        raise ValueError(
            f"{name} must be a positive even integer. Received: {value}"
        )
