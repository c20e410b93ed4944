"""The lift of a hidden state into the observables of a Koopman operator."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="orrery")
class Lift(keras.layers.Layer):
    """Lifts a state to `z = [X; 1; tanh(W RMSNorm(X) + b)]`.

    `X[t] = (h[t], h[t-1], ..., h[t-k])` is the delay state, zero before the
    start of the sequence, and `m = (k + 1) d + 1 + lift_dim` observables
    result. The state is among the observables, so that it is decoded by
    projection on the first `d` coordinates, and so is the constant, so that a
    linear map of `z` is an affine map of `X`. RMSNorm has no gain of its own:
    `W` holds it. `b` starts with unit variance, because with `b = 0` every
    observable would be an odd function of the state.

    The observables are computed in float32 under any policy.

    Args:
        lift_dim: int >= 0, number of tanh observables; 0 leaves the affine
            lift `[X; 1]`. Defaults to `128`.
        delays: int >= 0, number `k` of earlier states, in tokens. Defaults to
            `0`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(batch, length, d)`.

    Returns:
        Tensor `(batch, length, m)` of the layer's compute dtype.

    Raises:
        ValueError: If an argument is not an integer >= 0, or `d` is unknown.

    Example:
    >>> lift = Lift(lift_dim=8, delays=1)
    >>> tuple(lift(keras.ops.ones((2, 5, 3))).shape)  # 2 * 3 + 1 + 8
    (2, 5, 15)

    Reference:
        Williams, Kevrekidis, Rowley: A data-driven approximation of the
        Koopman operator, arXiv:1408.4408.
    """

    def __init__(self, lift_dim=128, delays=0, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("lift_dim", lift_dim), ("delays", delays)):
            if not isinstance(value, int) or value < 0:
                raise ValueError(
                    f"`{name}` must be an integer >= 0. Received: {value!r}"
                )
        self.lift_dim = lift_dim
        self.delays = delays

    def build(self, input_shape):
        if input_shape[-1] is None:
            raise ValueError(
                "The last axis of the input must be known. "
                f"Received: input_shape={input_shape}"
            )
        state_dim = (self.delays + 1) * input_shape[-1]
        self.observables_dim = state_dim + 1 + self.lift_dim
        if self.lift_dim:
            self.kernel = self.add_weight(
                shape=(state_dim, self.lift_dim),
                initializer="lecun_normal",
                name="kernel",
                autocast=False,
            )
            self.bias = self.add_weight(
                shape=(self.lift_dim,),
                initializer=keras.initializers.RandomNormal(stddev=1.0),
                name="bias",
                autocast=False,
            )

    def delay_state(self, x):
        """`(batch, length, d)` -> `X` of shape `(batch, length, (k + 1) d)`."""
        length = ops.shape(x)[1]
        padded = ops.pad(x, ((0, 0), (self.delays, 0), (0, 0)))
        return ops.concatenate(
            [
                padded[:, self.delays - j : self.delays - j + length]
                for j in range(self.delays + 1)
            ],
            axis=-1,
        )

    def observables(self, state):
        """`X` of shape `(..., (k + 1) d)` -> `z` of shape `(..., m)`."""
        state = ops.cast(state, "float32")
        parts = [state, ops.ones_like(state[..., :1])]
        if self.lift_dim:
            normalized = ops.rms_normalization(state, epsilon=1e-6)
            parts.append(
                ops.tanh(ops.matmul(normalized, self.kernel) + self.bias)
            )
        return ops.concatenate(parts, axis=-1)

    def call(self, x):
        z = self.observables(self.delay_state(x))
        return ops.cast(z, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        state_dim = (self.delays + 1) * input_shape[-1]
        return (*input_shape[:-1], state_dim + 1 + self.lift_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "lift_dim": self.lift_dim,
            "delays": self.delays,
        }
