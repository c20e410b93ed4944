"""Attention as the force of an energy, with strictly past keys."""

import keras
from keras import ops

from .._checks import check_integer
from .causal_attention import rotary
from .mlp_potential import MLPPotential
from .potential import Landscape, Potential


@keras.saving.register_keras_serializable(package="orrery")
class AttentionPotential(Potential):
    """Wells at the keys of earlier tokens, beside an `MLPPotential`.

    `V_t(q_t) = V_mlp(q_t) - 1/beta sum_h log mean_{j<t} exp(beta q_ht . k_hj)`,
    whose force is attention with tied keys and values, `sum_j softmax_j k_j`.
    The keys `k_j = W_k c_j`, a learned null key before the first, are frozen
    while a block steps: a pair force that obeyed Newton's third law would let
    token j feel token t, its future. `q` and `k` turn by rotary positions.

    Args:
        num_heads: int, H. The number of positions n is a multiple of 2H.
        hidden_dim: int, hidden width of the `MLPPotential`, or `None`.

    Call arguments:
        q: float tensor `(B, N, n)`.
        context: float tensor `(B, N, c)`.

    Returns:
        Energies, float tensor `(B, N)`.

    Raises:
        ValueError: if `num_heads` or `hidden_dim` is not a positive integer,
            at build if n is not a multiple of `2 * num_heads` or there is no
            context.

    Example:

    ```python
    block = HamiltonianBlock(AttentionPotential(num_heads=4))
    y = block(keras.random.normal((2, 16, 64)))  # (2, 16, 64)
    ```

    Reference:
        - [Hoover et al., 2023](https://arxiv.org/abs/2302.07253)
    """

    reads_sequence = True

    def __init__(self, num_heads, hidden_dim=None, **kwargs):
        super().__init__(**kwargs)
        check_integer("num_heads", num_heads, 1)
        self.num_heads = int(num_heads)
        self.local = MLPPotential(hidden_dim, name="local")

    def build(self, q_shape, context_shape=None):
        n = q_shape[-1]
        if n % (2 * self.num_heads):
            raise ValueError(
                "The number of positions must be a multiple of "
                "`2 * num_heads` (rotary positions turn pairs). Received: "
                f"{n} positions, num_heads={self.num_heads}"
            )
        if context_shape is None:
            raise ValueError("`context` must be given: it holds the keys.")
        self.head_dim = n // self.num_heads
        self.local.build(q_shape)
        self.key_kernel = self.add_weight(
            shape=(context_shape[-1], n),
            initializer=keras.initializers.RandomNormal(
                stddev=context_shape[-1] ** -0.5
            ),
            name="key_kernel",
        )
        self.null_key = self.add_weight(
            shape=(n,),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="null_key",
        )

    def energy(self, q, context=None):
        return self.freeze(context).energy(q)

    def force(self, q, context=None):
        return self.freeze(context).force(q)

    def freeze(self, context=None):
        length = ops.shape(context)[1]
        positions = ops.arange(0, length, dtype="int32")
        keys = self._with_null(self._keys(context, positions))
        # Column 0 is the null key, column j + 1 token j: seen if j < t.
        seen = ops.arange(0, length + 1) <= ops.arange(0, length)[:, None]
        return self._landscape(keys, positions, seen)

    def _landscape(self, keys, positions, seen):
        beta = self.head_dim**-0.5
        local = self.local.freeze()

        def scores(q):
            turned = rotary(self._heads(q), positions)
            scores = beta * ops.einsum("bthd,bshd->bhts", turned, keys)
            return ops.where(seen, scores, -1e30)

        # A mean, not a sum, makes V(0; c) = 0 at every length of the past.
        count = ops.log(ops.sum(ops.cast(seen, "float32"), axis=-1))

        def energy(q):
            wells = ops.logsumexp(scores(q), axis=-1) - count
            return local.energy(q) - ops.sum(wells, axis=1) / beta

        def force(q):
            weights = ops.softmax(scores(q), axis=-1)
            pull = ops.einsum("bhts,bshd->bthd", weights, keys)
            pull = rotary(pull, -positions)
            return local.force(q) + ops.reshape(pull, ops.shape(q))

        return Landscape(energy, force)

    def _heads(self, x):
        shape = ops.shape(x)
        return ops.reshape(
            x, (shape[0], shape[1], self.num_heads, self.head_dim)
        )

    def _keys(self, context, positions):
        keys = ops.matmul(ops.cast(context, "float32"), self.key_kernel)
        return rotary(self._heads(keys), positions)

    def _with_null(self, keys):
        null = ops.reshape(
            ops.convert_to_tensor(self.null_key),
            (1, 1, self.num_heads, self.head_dim),
        )
        null = ops.broadcast_to(
            null, (ops.shape(keys)[0], 1, self.num_heads, self.head_dim)
        )
        return ops.concatenate([null, keys], axis=1)

    def initial_state(self, batch_size, max_length):
        """The null key, and room for the keys of `max_length` tokens."""
        shape = (batch_size, max_length, self.num_heads, self.head_dim)
        return (self._with_null(ops.zeros(shape)),)

    def step(self, context, state, index):
        (keys,) = state
        position = ops.reshape(index, (1,))
        seen = ops.arange(0, keys.shape[1], dtype="int32") <= index
        landscape = self._landscape(keys, position, seen)
        new = self._keys(context, position)
        return landscape, (ops.slice_update(keys, (0, index + 1, 0, 0), new),)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "hidden_dim": self.local.hidden_dim,
        }
