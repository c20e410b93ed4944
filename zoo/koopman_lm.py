"""The Koopman language model."""

import math

import keras
from keras import ops

from ..layers.causal_attention import CausalSelfAttention
from ..layers.decoder_block import DecoderBlock
from ..layers.koopman_operator import KoopmanOperator
from ..layers.language_head import LanguageHead
from ..layers.linear_recurrence import LinearRecurrence
from ..layers.mixture_of_experts import MixtureOfExperts
from ..layers.resolvent_mixer import ResolventMixer
from ..losses.koopman_consistency import KoopmanConsistency
from .koopman_forward import KoopmanForwardModel, row_shares
from .koopman_lm_presets import PRESETS

MIXERS = ("attention", "resolvent", "koopman")


@keras.saving.register_keras_serializable(package="orrery")
class KoopmanLM(KoopmanForwardModel):
    """A causal language model whose blocks can run as linear operators.

    `h_0 = E[x]`, `h_{l+1} = block_l(h_l)`, logits `= RMSNorm(h_L) W + b`. A
    block is a pre-norm residual step (mixer, then SwiGLU). Beside each block a
    `KoopmanOperator` may learn its map as `h_{l+1} = psi(K_l phi(h_l))`: one
    linear step in a lifted space. Koopman-forward mode (`set_replaced`) runs
    the operators in the place of the blocks.

    In training the operators add `koopman_weight` times their mean consistency
    loss, and with `replacement` they also take part in the language task: of a
    batch of B rows the first `floor(B f_l)` pass through operator l instead of
    block l. The shares fall with l, so a row that runs j operators runs the
    first j, and no row is computed twice.

    Args:
        vocabulary_size: int, V. Defaults to `30000`.
        dim: int, width d. Defaults to `64`.
        num_layers: int, number of blocks L. Defaults to `4`.
        num_heads: int, heads of the attention and resolvent mixers. Defaults
            to `4`.
        mixer: `"attention"`, `"resolvent"` or `"koopman"` (a hard-stable
            linear recurrence over tokens), or a list of L of them. Defaults
            to `"attention"`.
        num_experts: int, SwiGLU experts per block. Defaults to `1`.
        hidden_dim: int, hidden width of an expert; `None` is `2 d`.
        dropout: float in `[0, 1)`, rate on the embedding, on both branches of
            a block and before the head. Defaults to `0.1`.
        tie_embeddings: bool, whether the head shares the embedding. With
            `False` TensorFlow makes the embedding's gradient sparse, and an
            optimizer that does not clip treats an id that a batch repeats
            unlike the other backends. Defaults to `True`.
        koopman: dict, the config of the blocks' `KoopmanOperator`s, or `None`
            for a model without operators.
        detach: `"target"` or `"both"`, see `KoopmanConsistency`; with `"both"`
            the operators watch the model and never change it, so `replacement`
            must be 0.
        replacement: float f in `[0, 1)`, which stands for `f_l = f (L - l) / L`
            (as many rows with 1 as with 2, ... L operators), or the list of
            the L shares, none above the one before. Defaults to `0`.
        replaced: sequence of int, the blocks run by their operators outside
            training. Defaults to none.
        embedding_stddev: float, deviation of the initial embeddings. Defaults
            to `0.02`.

    Call arguments:
        inputs: int tensor `(B, N)` of token ids in `[0, V)`, any N; or a dict
            with `"tokens"`, `"targets"` (int, `(B, N)`) and optionally
            `"sample_weight"` (float, `(B, N)`).
        training: bool.

    Returns:
        Logits `(B, N, V)`; with targets the float32 negative log-likelihood
        per token `(B, N)`, its mean being added to the losses.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    ```python
    model = KoopmanLM(1000, koopman={"lift_dim": 64, "delays": 1})
    logits = model(np.zeros((2, 16), "int32"))  # (2, 16, 1000)
    ```

    Reference:
        - [Aswani et al., 2024](https://arxiv.org/abs/2409.01308), layers as
          Koopman operators.
        - [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762)
    """

    presets = PRESETS

    def __init__(
        self,
        vocabulary_size=30_000,
        dim=64,
        num_layers=4,
        num_heads=4,
        mixer="attention",
        num_experts=1,
        hidden_dim=None,
        dropout=0.1,
        tie_embeddings=True,
        koopman=None,
        detach="target",
        replacement=0.0,
        replaced=(),
        embedding_stddev=0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (
            ("vocabulary_size", vocabulary_size),
            ("dim", dim),
            ("num_layers", num_layers),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive integer. Received: {value!r}"
                )
        if not 0 <= dropout < 1:
            raise ValueError(
                f"`dropout` must be in [0, 1). Received: {dropout}"
            )
        mixers = [mixer] * num_layers if isinstance(mixer, str) else list(mixer)
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
        self.embedding_dropout = keras.layers.Dropout(
            dropout, name="embedding_dropout", **policy
        )
        self.blocks = [
            DecoderBlock(
                _mixer(name, num_heads, policy),
                MixtureOfExperts(
                    num_experts,
                    hidden_dim,
                    dropout=0.0,
                    name="feedforward",
                    **policy,
                ),
                dropout=dropout,
                name=f"block_{index}",
                **policy,
            )
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
        self.num_heads = num_heads
        self.mixer = mixer if isinstance(mixer, str) else mixers
        self.num_experts = num_experts
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.tie_embeddings = tie_embeddings
        self.koopman = koopman
        self.detach = detach
        self.replacement = replacement
        self.row_shares = shares
        self.embedding_stddev = embedding_stddev
        self.replaced = self.checked_replaced(replaced)

    def build(self, input_shape=None):
        hidden_shape = (None, None, self.dim)
        self.token_embedding.build((None, None))
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
        h = self.token_embedding(tokens)
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
        h = self.token_embedding(tokens)
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
            "num_heads": self.num_heads,
            "mixer": self.mixer,
            "num_experts": self.num_experts,
            "hidden_dim": self.hidden_dim,
            "dropout": self.dropout,
            "tie_embeddings": self.tie_embeddings,
            "koopman": self.koopman,
            "detach": self.detach,
            "replacement": self.replacement,
            "replaced": list(self.replaced),
            "embedding_stddev": self.embedding_stddev,
        }


def _mixer(name, num_heads, policy):
    if name == "attention":
        return CausalSelfAttention(num_heads, name="mixer", **policy)
    if name == "resolvent":
        return ResolventMixer(num_heads, name="mixer", **policy)
    return LinearRecurrence(name="mixer", **policy)
