"""What every language model of blocks here has around its blocks."""

import math

import keras
from keras import ops

from .._checks import check_integer, check_real
from ..layers.causal_attention import CausalSelfAttention
from ..layers.koopman_operator import KoopmanOperator
from ..layers.language_head import LanguageHead
from ..layers.linear_recurrence import LinearRecurrence
from ..layers.resolvent_mixer import ResolventMixer
from ..losses.koopman_consistency import KoopmanConsistency
from .koopman_forward import KoopmanForwardModel, row_shares

MIXERS = ("attention", "resolvent", "koopman")


@keras.saving.register_keras_serializable(package="orrery")
class LanguageBackbone(KoopmanForwardModel):
    """Embedding, blocks, head; and, if asked for, an operator beside a block.

    `h_0 = E[x]`, `h_{l+1} = block_l(h_l)`, logits `= RMSNorm(h_L) W + b`. A
    subclass says what a block is; its docstring has the arguments, which are
    those of `KoopmanLM`.

    Args:
        make_block: function of the name of a mixer and of the keyword
            arguments `name` and `dtype` that returns a block: a layer
            `(B, N, d) -> (B, N, d)` with the streaming methods
            `initial_state` and `step`. Not part of the config.
        **kwargs: the arguments of `KoopmanLM` from `vocabulary_size` on that
            this class names, and those of `keras.Model`.
    """

    def __init__(
        self,
        make_block,
        vocabulary_size,
        dim,
        num_layers,
        mixer,
        dropout,
        tie_embeddings,
        koopman,
        detach,
        replacement,
        replaced,
        embedding_stddev,
        normalize_embedding,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (
            ("vocabulary_size", vocabulary_size),
            ("dim", dim),
            ("num_layers", num_layers),
        ):
            check_integer(name, value, 1)
        check_real("dropout", dropout, "in [0, 1)", lambda rate: 0 <= rate < 1)
        one = isinstance(mixer, str) or mixer is None
        mixers = [mixer] * num_layers if one else list(mixer)
        for name in mixers:
            if name not in MIXERS:
                raise ValueError(
                    f"`mixer` must be one of {MIXERS}. Received: {name!r}"
                )
        if len(mixers) != num_layers:
            raise ValueError(
                "`mixer` must name one mixer, or one per block. Received: "
                f"{len(mixers)} mixers for num_layers={num_layers}"
            )
        if koopman is not None and not isinstance(koopman, dict):
            raise ValueError(
                "`koopman` must be a dict of arguments of KoopmanOperator, or "
                f"None. Received: {koopman!r}"
            )
        shares = row_shares(replacement, num_layers)
        if koopman is None and (any(shares) or replaced):
            raise ValueError(
                "`replacement` and `replaced` need operators: give `koopman` "
                f"a config. Received: replacement={replacement}, "
                f"replaced={replaced}, koopman=None"
            )

        if detach == "both" and any(shares):
            raise ValueError(
                "`detach='both'` keeps the operators' gradients from the model "
                "and needs `replacement=0`. Received: "
                f"replacement={replacement}"
            )

        # === Layers ===
        policy = {"dtype": self.dtype_policy}
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            dim,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=embedding_stddev
            ),
            name="token_embedding",
            **policy,
        )
        self.embedding_norm = None
        if normalize_embedding:
            self.embedding_norm = keras.layers.RMSNormalization(
                name="embedding_norm", **policy
            )
        self.embedding_dropout = keras.layers.Dropout(
            dropout, name="embedding_dropout", **policy
        )
        self.blocks = [
            make_block(name, name=f"block_{index}", **policy)
            for index, name in enumerate(mixers)
        ]
        self.operators = [
            KoopmanOperator(
                **koopman, name=f"koopman_operator_{index}", **policy
            )
            for index in range(num_layers if koopman is not None else 0)
        ]
        self.final_norm = keras.layers.RMSNormalization(
            name="final_norm", **policy
        )
        self.final_dropout = keras.layers.Dropout(
            dropout, name="final_dropout", **policy
        )
        self.head = LanguageHead(
            vocabulary_size,
            embedding=self.token_embedding if tie_embeddings else None,
            name="head",
            **policy,
        )
        self.consistency = KoopmanConsistency(detach=detach)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.dim = dim
        self.num_layers = num_layers
        self.mixer = mixer if isinstance(mixer, str) else mixers
        self.dropout = dropout
        self.tie_embeddings = tie_embeddings
        self.koopman = koopman
        self.detach = detach
        self.replacement = replacement
        self.row_shares = shares
        self.embedding_stddev = embedding_stddev
        self.normalize_embedding = normalize_embedding
        self.replaced = self.checked_replaced(replaced)

    def build(self, input_shape=None):
        hidden_shape = (None, None, self.dim)
        self.token_embedding.build((None, None))
        if self.embedding_norm is not None:
            self.embedding_norm.build(hidden_shape)
        for layer in (*self.blocks, *self.operators):
            layer.build(hidden_shape)
        self.final_norm.build(hidden_shape)
        self.head.build(hidden_shape)
        if self.operators:
            self.build_measures()

    # === Functional Model ===
    def call(self, inputs, training=False):
        # `training` goes to every layer by name: Keras' stateless calls (a
        # `fit` on JAX) open no call context for a model's own layers.
        tokens, targets, sample_weight = self.unpack(inputs)
        h = self.embed(tokens)
        if training and sample_weight is not None:
            # The optimizer skips a batch that is not finite; so must whatever
            # the layers gather in passing.
            finite = ops.isfinite(ops.sum(sample_weight))
            h = ops.where(finite, h, float("nan"))
        h = self.embedding_dropout(h, training=training)
        measured = []
        for index in range(self.num_layers):
            if training and self.operators:
                h = self._training_step(h, index, measured)
            elif index in self.replaced:
                h = self.operators[index](h)
            else:
                h = self.blocks[index](h, training=training)
        if measured:
            self.add_consistency(measured)
        h = self.final_dropout(self.final_norm(h), training=training)
        return self.head(h, targets, sample_weight, training=training)

    def _training_step(self, h, index, measured):
        """Block `index` on most rows, its operator on the first few."""
        operator, block = self.operators[index], self.blocks[index]
        share = self.row_shares[index]
        # floor(B f) in integers: a batch size may be unknown to the graph.
        rows = ops.shape(h)[0] * min(math.ceil(2**16 * share), 2**16 - 1)
        rows = rows // 2**16
        x = h[rows:] if share else h
        x_next = block(x, training=True)
        measured.append(
            operator.consistency(x, x_next, self.consistency, training=True)
        )
        if not share:
            return x_next
        return ops.concatenate([operator(h[:rows]), x_next], axis=0)

    # === Streaming ===
    def initial_state(self, batch_size, max_length):
        """The state of every block, or of its operator, before any token."""
        return tuple(
            self._runner(index).initial_state(batch_size, max_length)
            for index in range(self.num_layers)
        )

    def step(self, tokens, state, index):
        """Next-token logits `(B, 1, V)` after tokens `(B, 1)` at `index`."""
        h = self.embed(tokens)
        states = []
        for layer, before in enumerate(state):
            h, after = self._runner(layer).step(h, before, index)
            states.append(after)
        return self.head(self.final_norm(h)), tuple(states)

    def _runner(self, index):
        replaced = index in self.replaced
        return self.operators[index] if replaced else self.blocks[index]

    # === Config ===
    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "num_layers": self.num_layers,
            "mixer": self.mixer,
            "dropout": self.dropout,
            "tie_embeddings": self.tie_embeddings,
            "koopman": self.koopman,
            "detach": self.detach,
            "replacement": self.replacement,
            "replaced": list(self.replaced),
            "embedding_stddev": self.embedding_stddev,
            "normalize_embedding": self.normalize_embedding,
        }


def make_mixer(name, num_heads, policy):
    """The layer that `mixer` names."""
    if name == "attention":
        return CausalSelfAttention(num_heads, name="mixer", **policy)
    if name == "resolvent":
        return ResolventMixer(num_heads, name="mixer", **policy)
    return LinearRecurrence(name="mixer", **policy)
