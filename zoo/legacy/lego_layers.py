"""The layers of the original early-exit network that are not ours."""

import keras
from keras import ops

from ..._backend import keep_freed_memory
from ...layers.causal_attention import CausalSelfAttention
from ...layers.language_head import LanguageHead
from ...layers.mixture_of_experts import MixtureOfExperts


@keras.saving.register_keras_serializable(package="orrery")
class SummedEmbedding(keras.layers.Embedding):
    """An embedding whose gradient has each row once.

    TensorFlow's own has a slice for every look-up, and its Adam adds the
    squares of the slices of a repeated row, not the slices.
    """

    def call(self, inputs):
        return ops.take(self.embeddings * 1.0, inputs, axis=0)


@keras.saving.register_keras_serializable(package="orrery")
class LegoAttention(CausalSelfAttention):
    """`CausalSelfAttention` with nothing to choose for a single token.

    The softmax over one key is 1: queries and keys get no gradient at all
    (fault 2), which as the rounding of a difference Adam would magnify.
    """

    def attend(self, q, k, v):
        if q.shape[1] == 1:
            return v
        return super().attend(q, k, v)


@keras.saving.register_keras_serializable(package="orrery")
class LegoHead(LanguageHead):
    """A `LanguageHead` with a matrix of its own and no bias."""

    def build(self, input_shape):
        keep_freed_memory()
        self.projection.build(input_shape)
        self.bias = None

    def _logits(self, hidden):
        return self.projection(hidden)


@keras.saving.register_keras_serializable(package="orrery")
class PostNormBlock(keras.layers.Layer):
    """`x <- N_1(x + A(x)); x <- N_2(x + F(x))`, A attention and F SwiGLU.

    `4 d^2 + 3 d f + 2 d` weights.

    Args:
        num_heads: int, heads of A.
        hidden_dim: int, hidden width f of F.
    """

    def __init__(self, num_heads, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        policy = {"dtype": self.dtype_policy}
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.mixer = LegoAttention(num_heads, name="mixer", **policy)
        self.feedforward = MixtureOfExperts(
            1, hidden_dim, dropout=0.0, name="feedforward", **policy
        )
        self.mixer_norm, self.feedforward_norm = (
            keras.layers.RMSNormalization(epsilon=1e-6, name=name, **policy)
            for name in ("mixer_norm", "feedforward_norm")
        )

    def build(self, input_shape):
        for layer in (
            self.mixer,
            self.mixer_norm,
            self.feedforward,
            self.feedforward_norm,
        ):
            layer.build(input_shape)

    def call(self, x, positions=None):
        x = self.mixer_norm(x + self.mixer(x, positions=positions))
        return self.feedforward_norm(x + self.feedforward(x))

    def initial_state(self, batch_size, max_length):
        return self.mixer.initial_state(batch_size, max_length)

    def step(self, x, state, index):
        y, state = self.mixer.step(x, state, index)
        x = self.mixer_norm(x + y)
        return self.feedforward_norm(x + self.feedforward(x)), state

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
        }
