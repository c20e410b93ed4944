"""Causal self-attention with rotary positions and a key-value cache."""

import functools

import keras
from keras import ops

from .._backend import fuses_attention, looks_first
from .._checks import check_integer

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


def _attend_to(q, *parts):
    """Attention of queries `(B, M, H, D)` to keys from several places.

    Args:
        q: the queries.
        parts: tuples of keys and values, `(B H', N, D)`, any N, and who sees
            them, bool, `(M, N)` or `(1, N)`.

    Returns:
        `(B, M, H, D)`.
    """
    batch, length, heads, width = ops.shape(q)
    joint = batch * heads // parts[0][0].shape[0]
    # All queries that share keys are the rows of one matrix.
    q = ops.reshape(ops.transpose(q, (0, 2, 1, 3)), (-1, joint * length, width))
    scores = []
    for keys, _, seen in parts:
        score = ops.einsum("bqd,bsd->bqs", q, keys) * width**-0.5
        if length > 1:
            rows = joint * length // seen.shape[0]
            seen = ops.tile(seen, (rows, 1))
        scores.append(ops.where(seen, ops.cast(score, "float32"), -1e30))
    tops = [ops.max(score, axis=-1, keepdims=True) for score in scores]
    highest = functools.reduce(ops.maximum, tops)
    weights = [ops.exp(score - highest) for score in scores]
    total = sum(ops.sum(w, axis=-1, keepdims=True) for w in weights)
    y = sum(
        ops.einsum("bqs,bsd->bqd", ops.cast(w, values.dtype), values)
        for w, (_, values, _) in zip(weights, parts, strict=True)
    )
    y = ops.reshape(y / ops.cast(total, y.dtype), (batch, heads, length, width))
    return ops.transpose(y, (0, 2, 1, 3))


@keras.saving.register_keras_serializable(package="orrery")
class CausalSelfAttention(keras.layers.Layer):
    """Multi-head attention in which token t sees tokens 0..t.

    `out_t = W_o concat_h sum_{s<=t} softmax_s(q_t . k_s / sqrt(D)) v_s`, with
    rotary positions on q and k and no biases.

    Args:
        num_heads: int, H. The width d must be a multiple of 2H.
        num_key_value_heads: int that divides H: how many heads keys and values
            have, each for as many heads of queries; 1 makes caches H times
            smaller. Defaults to `None`, H.

    Call arguments:
        x: float tensor `(B, N, d)`.
        positions: int tensor `(B, N)`, rising along a row, where the tokens
            are some of a longer text; `0 ... N - 1` if not given.
        seen: float tensor `(B, N, d)`, what keys and values are made of; `x`
            if not given.

    Returns:
        float tensor `(B, N, d)`.

    Raises:
        ValueError: if `num_heads` is not positive or not a multiple of
            `num_key_value_heads`, or at build if d is not a multiple of
            `2 * num_heads`.

    Example:

    ```python
    mixer = CausalSelfAttention(num_heads=4)
    y = mixer(keras.random.normal((2, 16, 64)))  # (2, 16, 64)
    ```

    Reference:
        - [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762)
        - [Su et al., 2021](https://arxiv.org/abs/2104.09864)
        - [Ainslie et al., 2023](https://arxiv.org/abs/2305.13245), fewer heads
          of keys and values.
    """

    def __init__(self, num_heads, num_key_value_heads=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(num_heads, int) or num_heads < 1:
            raise ValueError(
                "`num_heads` must be a positive integer. "
                f"Received: num_heads={num_heads}"
            )
        if num_key_value_heads is not None:
            check_integer("num_key_value_heads", num_key_value_heads, 1)
            if num_heads % num_key_value_heads:
                raise ValueError(
                    "`num_key_value_heads` must divide num_heads="
                    f"{num_heads}. Received: {num_key_value_heads}"
                )
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads or num_heads

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
            width + 2 * self.num_key_value_heads * self.head_dim,
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
        """Queries, keys and values `(B, N, heads, D)`, turned."""
        joint = self._divided(self.query_key_value(x))
        first = self.num_heads
        last = first + self.num_key_value_heads
        q, k, v = (
            joint[:, :, :first],
            joint[:, :, first:last],
            joint[:, :, last:],
        )
        return rotary(q, positions), rotary(k, positions), v

    def _divided(self, x):
        """`(B, N, n D)` as n heads."""
        heads = x.shape[-1] // self.head_dim
        return ops.reshape(x, (*ops.shape(x)[:2], heads, self.head_dim))

    def call(self, x, positions=None, seen=None):
        if positions is None:
            positions = ops.arange(0, ops.shape(x)[1], dtype="int32")
        q, k, v = self._heads(x, positions)
        if seen is not None:
            k, v = self._keys_and_values(seen, positions)
        y = self.attend(q, k, v)
        return self.output_projection(ops.reshape(y, ops.shape(x)))

    def attend(self, q, k, v):
        """Attention of a whole sequence, each `(B, N, heads, D)`."""
        if self.num_key_value_heads < self.num_heads:
            groups = self.num_heads // self.num_key_value_heads
            k, v = (ops.repeat(a, groups, axis=2) for a in (k, v))
        if fuses_attention():
            return ops.dot_product_attention(q, k, v, is_causal=True)
        return causal_attention(q, k, v)

    def initial_state(self, batch_size, max_length):
        """Empty key and value caches `(B heads, max_length, D)`.

        In the one shape that XLA's CPU multiplies by as it is: in four
        dimensions it copies every cache at every step.
        """
        rows = batch_size * self.num_key_value_heads
        shape = (rows, max_length, self.head_dim)
        return (
            ops.zeros(shape, dtype=self.compute_dtype),
            ops.zeros(shape, dtype=self.compute_dtype),
        )

    def step(self, x, state, index):
        """Attend from tokens `(B, M, d)` at positions `index`, `index + 1`...

        Whatever the caches hold at these positions or after is not looked at.
        """
        if looks_first(*ops.shape(x)[:2]):
            y, entry = self.look(x, state, index)
            return y, self.write(state, entry, index)
        q, entry, place = self._queries_and_entry(x, index)
        state = self.write(state, entry, index)
        here = ops.arange(0, state[0].shape[1], dtype="int32")
        y = _attend_to(q, (*state, here <= place[:, None]))
        return self.output_projection(ops.reshape(y, ops.shape(x))), state

    # A conditional that writes into caches has XLA copy them. One that looks
    # at them and hands on what is to be written does not.
    def look(self, x, state, index):
        """As `step`, but with the tokens' own keys and values for a state.

        These are `(B H', M, D)` each, the argument of `write`.
        """
        q, entry, place = self._queries_and_entry(x, index)
        here = ops.arange(0, state[0].shape[1], dtype="int32")
        y = _attend_to(
            q,
            (*state, (here < index)[None]),
            (*entry, place <= place[:, None]),
        )
        return self.output_projection(ops.reshape(y, ops.shape(x))), entry

    def _queries_and_entry(self, x, index):
        place = self._positions(x, index)
        q, *entry = self._heads(x, place)
        return q, tuple(map(self._in_caches, entry)), place

    def entry(self, x, index):
        """The keys and values of tokens, for the cost of these alone."""
        pair = self._keys_and_values(x, self._positions(x, index))
        return tuple(map(self._in_caches, pair))

    def _keys_and_values(self, x, positions):
        first = self.num_heads * self.head_dim
        k, v = ops.split(self._some_columns(x, slice(first, None)), 2, axis=2)
        return rotary(k, positions), v

    def write(self, state, entry, index):
        """The caches with the keys and values of tokens at `index`..."""
        return tuple(
            ops.slice_update(cache, (0, index, 0), new)
            for cache, new in zip(state, entry, strict=True)
        )

    def take_rows(self, state, rows):
        """Rows `(k,)` of a batch, of caches or of an entry."""
        heads = self.num_key_value_heads
        if heads > 1:
            rows = rows[:, None] * heads + ops.arange(0, heads, dtype="int32")
            rows = ops.reshape(rows, (-1,))
        return tuple(ops.take(part, rows, axis=0) for part in state)

    def _in_caches(self, x):
        """`(B, M, H', D)` as `(B H', M, D)`."""
        x = ops.transpose(ops.cast(x, self.compute_dtype), (0, 2, 1, 3))
        return ops.reshape(x, (-1, x.shape[2], self.head_dim))

    def _some_columns(self, x, columns):
        """Some heads of the joint projection, for the cost of those."""
        dense = self.query_key_value
        if dense.quantization_mode is not None:
            return self._divided(dense(x)[..., columns])
        kernel = ops.cast(dense.kernel[:, columns], self.compute_dtype)
        x = ops.cast(x, self.compute_dtype)
        return self._divided(ops.matmul(x, kernel))

    def _positions(self, x, index):
        return index + ops.arange(0, x.shape[1], dtype="int32")

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_key_value_heads": self.num_key_value_heads,
        }
