"""Gated feed-forward experts with a router that learns."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="orrery")
class MixtureOfExperts(keras.layers.Layer):
    """Mixture of SwiGLU experts weighted by a softmax router.

    With `p = softmax(W_g u)` the output is `sum_{e in top k} p_e Expert_e(u)`,
    `Expert_e(u) = W2_e (silu(W1_e u) * W3_e u)`. The factor `p_e` is kept for
    `k = 1`, where it alone carries a gradient to the router. Training adds the
    Switch balance loss `balance_weight E sum_e f_e P_e` (`f` fraction of
    assignments, `P` mean probability), which is `balance_weight` for uniform
    routing and grows towards `E` times that as one expert takes all.

    Since the experts have no biases, scaling the hidden units of expert e by
    its gate and projecting once equals the weighted sum over experts. So the
    experts are three `Dense` layers of width `E * hidden_dim`, dispatch is
    dense (every expert runs for every token), and `quantize("int8")` applies.
    The layer has `3 E d h + d E` weights; the last term only if `E > 1`.

    Args:
        num_experts: Integer, at least 1. With 1 the layer is a plain SwiGLU:
            no router weights, no balance loss. Defaults to `4`.
        hidden_dim: Integer, hidden width h of each expert, or None for twice
            the input width. Defaults to `None`.
        top_k: Integer, experts per token, 1 to `num_experts`. The k kept
            probabilities are not renormalised. Defaults to `1`.
        balance_weight: Float, not negative. Defaults to `0.01`.
        dropout: Float in [0, 1), rate on the hidden units. Defaults to `0.1`.

    Call arguments:
        inputs: Tensor of shape `(..., d)`.
        training: Boolean, whether dropout and the balance loss are active.

    Returns:
        Tensor of the shape of `inputs`. `usage_entropy`, a non-trainable
        scalar weight, holds the entropy of `f` in the last training batch in
        nats: `log(E)` when all experts are used alike, 0 when only one is.

    Raises:
        ValueError: If an argument is outside the range given above.

    Example:
    >>> layer = MixtureOfExperts(num_experts=4, hidden_dim=16)
    >>> tuple(layer(keras.ops.ones((2, 5, 8))).shape)
    (2, 5, 8)
    >>> layer.count_params()  # 3 * 4 * 8 * 16 + 8 * 4, and usage_entropy
    1569

    Reference:
        [Shazeer, 2020](https://arxiv.org/abs/2002.05202) (SwiGLU);
        [Fedus et al., 2021](https://arxiv.org/abs/2101.03961) (balance loss).
    """

    def __init__(
        self,
        num_experts=4,
        hidden_dim=None,
        top_k=1,
        balance_weight=0.01,
        dropout=0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_experts < 1:
            raise ValueError(
                f"`num_experts` must be at least 1. Received: {num_experts}"
            )
        if hidden_dim is not None and hidden_dim < 1:
            raise ValueError(
                "`hidden_dim` must be at least 1, or None for twice the input "
                f"width. Received: {hidden_dim}"
            )
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f"`top_k` must be from 1 to num_experts={num_experts}. "
                f"Received: {top_k}"
            )
        if balance_weight < 0:
            raise ValueError(
                f"`balance_weight` must be >= 0. Received: {balance_weight}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(
                f"`dropout` must be at least 0 and below 1. Received: {dropout}"
            )
        self.num_experts = num_experts
        self.hidden_dim = hidden_dim
        self.top_k = top_k
        self.balance_weight = balance_weight
        self.dropout = dropout

    def build(self, input_shape):
        dim = input_shape[-1]
        hidden_dim = self.hidden_dim or 2 * dim
        width = self.num_experts * hidden_dim
        # Glorot of one expert: the fans of the stacked kernels count all E.
        limit = math.sqrt(6 / (dim + hidden_dim))

        def dense(units, input_dim, name):
            layer = keras.layers.Dense(
                units,
                use_bias=False,
                kernel_initializer=keras.initializers.RandomUniform(
                    -limit, limit
                ),
                dtype=self.dtype_policy,
                name=name,
            )
            layer.build((*input_shape[:-1], input_dim))
            return layer

        self.gate = dense(width, dim, "gate")
        self.value = dense(width, dim, "value")
        self.output_projection = dense(dim, width, "output_projection")
        self.hidden_dropout = keras.layers.Dropout(
            self.dropout, dtype=self.dtype_policy, name="hidden_dropout"
        )
        self.hidden_dropout.build((*input_shape[:-1], width))
        if self.num_experts > 1:
            self.router = keras.layers.Dense(
                self.num_experts,
                use_bias=False,
                dtype=self.dtype_policy,
                name="router",
            )
            self.router.build(input_shape)
            self.usage_entropy = self.add_weight(
                shape=(),
                initializer="zeros",
                dtype="float32",
                trainable=False,
                name="usage_entropy",
            )

    def call(self, inputs, training=False):
        hidden = ops.silu(self.gate(inputs)) * self.value(inputs)
        if self.num_experts > 1:
            shape = ops.shape(hidden)
            weights = ops.expand_dims(self._route(inputs, training), -1)
            hidden = ops.reshape(hidden, (*shape[:-1], self.num_experts, -1))
            hidden = ops.reshape(
                hidden * ops.cast(weights, hidden.dtype), shape
            )
        hidden = self.hidden_dropout(hidden, training=training)
        return self.output_projection(hidden)

    def _route(self, inputs, training):
        probabilities = ops.softmax(ops.cast(self.router(inputs), "float32"))
        chosen = ops.top_k(probabilities, self.top_k)[1]
        mask = ops.sum(ops.one_hot(chosen, self.num_experts), axis=-2)
        mask = ops.cast(mask, "float32")
        if training:
            tokens = tuple(range(len(mask.shape) - 1))
            fraction = ops.mean(mask, axis=tokens) / self.top_k
            probability = ops.mean(probabilities, axis=tokens)
            self.add_loss(
                self.balance_weight
                * self.num_experts
                * ops.sum(fraction * probability)
            )
            entropy = -ops.sum(fraction * ops.log(ops.maximum(fraction, 1e-30)))
            finite = ops.isfinite(ops.sum(probability))
            before = ops.convert_to_tensor(self.usage_entropy)
            self.usage_entropy.assign(ops.where(finite, entropy, before))
        return probabilities * mask

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "hidden_dim": self.hidden_dim,
            "top_k": self.top_k,
            "balance_weight": self.balance_weight,
            "dropout": self.dropout,
        }
