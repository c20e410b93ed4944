"""Causal self-attention with rotary positions and a key-value cache."""

import keras
from keras import ops

from .._backend import fuses_attention

ROTARY_BASE = 10_000.0


def rotary(x, positions):
    """Rotate feature pairs of `x` by angles that grow with position.

    Pair j of a head of width D turns by `position * base^(-2j/D)`, so a dot
    product of a query and a key depends on their distance alone.

    Args:
        x: float tensor `(B, N, H, D)`, D even; pair j is features
            `(j, j + D/2)`.
        positions: int tensor `(N,)`, or `(B, N)` if rows differ.

    Returns:
        Tensor of the shape and dtype of `x`.

    Reference:
        - [Su et al., 2021](https://arxiv.org/abs/2104.09864)
    """
    half = x.shape[-1] // 2
    rate = ROTARY_BASE ** (-ops.arange(0, half, dtype="float32") / half)
    angle = ops.cast(positions, "float32")[..., None, None] * rate
    cosine, sine = (
        ops.cast(ops.cos(angle), x.dtype),
        ops.cast(ops.sin(angle), x.dtype),
    )
    a, b = x[..., :half], x[..., half:]
    return ops.concatenate(
        [a * cosine - b * sine, b * cosine + a * sine], axis=-1
    )


def causal_attention(q, k, v):
    """`softmax_s(q_t . k_s / sqrt(D)) v_s` over s <= t, all `(B, N, H, D)`.

    The softmax is divided by its sum last, on the narrow side of the product.
    """
    scores = ops.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    position = ops.arange(0, ops.shape(q)[1], dtype="int32")
    seen = position <= position[:, None]
    scores = ops.where(seen, ops.cast(scores, "float32"), -1e30)
    highest = ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True))
    weights = ops.exp(scores - highest)
    total = ops.transpose(ops.sum(weights, axis=-1), (0, 2, 1))[..., None]
    y = ops.einsum("bhts,bshd->bthd", ops.cast(weights, v.dtype), v)
    return y / ops.cast(total, v.dtype)


@keras.saving.register_keras_serializable(package="orrery")
class CausalSelfAttention(keras.layers.Layer):
    """Multi-head attention in which token t sees tokens 0..t.

    `out_t = W_o concat_h sum_{s<=t} softmax_s(q_t . k_s / sqrt(D)) v_s`, with
    rotary positions on q and k and no biases.

    Args:
        num_heads: int, H. The width d must be a multiple of 2H.

    Call arguments:
        x: float tensor `(B, N, d)`.
        positions: int tensor `(B, N)`, rising along a row, where the tokens
            are some of a longer text; `0 ... N - 1` if not given.

    Returns:
        float tensor `(B, N, d)`.

    Raises:
        ValueError: if `num_heads` is not positive, or at build if d is not a
            multiple of `2 * num_heads`.

    Example:

    ```python
    mixer = CausalSelfAttention(num_heads=4)
    y = mixer(keras.random.normal((2, 16, 64)))  # (2, 16, 64)
    ```

    Reference:
        - [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762)
        - [Su et al., 2021](https://arxiv.org/abs/2104.09864)
    """

    def __init__(self, num_heads, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(num_heads, int) or num_heads < 1:
            raise ValueError(
                "`num_heads` must be a positive integer. "
                f"Received: num_heads={num_heads}"
            )
        self.num_heads = num_heads

    def build(self, input_shape):
        width = input_shape[-1]
        if width % (2 * self.num_heads):
            raise ValueError(
                "The width of the input must be a multiple of `2 * num_heads` "
                "(rotary positions turn pairs of features). Received: "
                f"width={width}, num_heads={self.num_heads}"
            )
        self.head_dim = width // self.num_heads
        self.query_key_value = keras.layers.Dense(
            3 * width,
            use_bias=False,
            dtype=self.dtype_policy,
            name="query_key_value",
        )
        self.query_key_value.build(input_shape)
        self.output_projection = keras.layers.Dense(
            width, use_bias=False, dtype=self.dtype_policy, name="output"
        )
        self.output_projection.build(input_shape)

    def _heads(self, x, positions):
        shape = (*ops.shape(x)[:2], self.num_heads, self.head_dim)
        q, k, v = ops.split(self.query_key_value(x), 3, axis=-1)
        q, k, v = (ops.reshape(a, shape) for a in (q, k, v))
        return rotary(q, positions), rotary(k, positions), v

    def call(self, x, positions=None):
        if positions is None:
            positions = ops.arange(0, ops.shape(x)[1], dtype="int32")
        q, k, v = self._heads(x, positions)
        y = self.attend(q, k, v)
        return self.output_projection(ops.reshape(y, ops.shape(x)))

    def attend(self, q, k, v):
        """Attention of a whole sequence, all `(B, N, H, D)`."""
        if fuses_attention():
            return ops.dot_product_attention(q, k, v, is_causal=True)
        return causal_attention(q, k, v)

    def initial_state(self, batch_size, max_length):
        """Empty key and value caches `(B, max_length, H, D)`."""
        shape = (batch_size, max_length, self.num_heads, self.head_dim)
        return (
            ops.zeros(shape, dtype=self.compute_dtype),
            ops.zeros(shape, dtype=self.compute_dtype),
        )

    def step(self, x, state, index):
        """Attend from tokens `(B, M, d)` at positions `index`, `index + 1`...

        Whatever the caches hold at these positions or after is not looked at.
        """
        positions = self._positions(x, index)
        q, k, v = self._heads(x, positions)
        keys, values = state = self._write(state, k, v, index)
        seen = ops.arange(0, keys.shape[1], dtype="int32") <= positions[:, None]
        y = ops.dot_product_attention(q, keys, values, mask=seen[None, None])
        return self.output_projection(ops.reshape(y, ops.shape(x))), state

    def remember(self, x, state, index):
        """The caches as `step` leaves them, without attending."""
        kernel = self.query_key_value
        if kernel.quantization_mode is None:
            width = self.num_heads * self.head_dim
            x = ops.cast(x, self.compute_dtype)
            joint = ops.cast(kernel.kernel[:, width:], self.compute_dtype)
            k, v = ops.split(ops.matmul(x, joint), 2, axis=-1)
        else:
            _, k, v = ops.split(kernel(x), 3, axis=-1)
        shape = (*ops.shape(x)[:2], self.num_heads, self.head_dim)
        k, v = ops.reshape(k, shape), ops.reshape(v, shape)
        k = rotary(k, self._positions(x, index))
        return self._write(state, k, v, index)

    def _positions(self, x, index):
        return index + ops.arange(0, x.shape[1], dtype="int32")

    def _write(self, state, k, v, index):
        keys, values = state
        start = (0, index, 0, 0)
        keys = ops.slice_update(keys, start, ops.cast(k, keys.dtype))
        return keys, ops.slice_update(values, start, ops.cast(v, values.dtype))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}
