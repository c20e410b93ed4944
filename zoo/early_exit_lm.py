"""The early-exit language model."""

import keras
from keras import ops

from .._checks import check_integer, check_real
from ..layers.causal_attention import CausalSelfAttention
from ..layers.decoder_block import DecoderBlock
from ..layers.early_exit import EarlyExitRouter
from ..layers.language_head import LanguageHead
from ..layers.mixture_of_experts import MixtureOfExperts
from .early_exit_lm_presets import PRESETS
from .exit_measures import divergence
from .exit_routing import ExitRoutingModel, check_risks

HEADS = ("tied", "shared", "separate")


@keras.saving.register_keras_serializable(package="orrery")
class EarlyExitLM(ExitRoutingModel):
    """A causal language model in blocks of layers, each closed by an exit.

    `h_0 = E[x]`, `h_l = layer_l(h_{l-1})`; exit e, after the first
    `l_e` layers, has the logits `z_e = RMSNorm_e(h_{l_e}) W_e + b_e`. At every
    exit but the last, which no token passes, a router (`EarlyExitRouter`) tells
    which tokens leave. A layer is a pre-norm residual step of causal attention,
    then of SwiGLU.

    Where losses are, what is trained and who leaves are three things apart.
    The loss is

        CE(z_L) + sum_e [ w CE(z_e) + kappa tau^2 KL(p_L || p_e) ],
        p = softmax(z / tau), no gradient into p_L,

    and all tokens go through all layers, though some are seen there as they
    were at an exit (`random_exits`). `trainable` says what is trained;
    thresholds matter in `route` and to an `ExitDecoder` alone, and `generate`
    is at full depth. No gradient reaches a learned confidence: it is fitted
    afterwards, by `fit_exit_heads`.

    Args:
        vocabulary_size: int, V. Defaults to `256`, bytes.
        dim: int, width d. Defaults to `192`.
        blocks: sequence of int, the layers of every block, L in all. One block
            is a plain model. Defaults to `(3, 7)`.
        num_heads: int, attention heads. Defaults to `6`.
        num_key_value_heads: int, heads of keys and values; `None` is as many.
        hidden_dim: int, hidden width of SwiGLU; `None` is `4 d`.
        dropout: float in `[0, 1)`, rate on the embedding, on both branches of
            a layer and before the heads. Defaults to `0`.
        head: `"tied"`, all exits share the embedding's matrix and a bias;
            `"shared"`, one matrix of their own; `"separate"`, one each. The
            norms are always their own. Defaults to `"tied"`.
        confidence: see `EarlyExitRouter`. Defaults to `"learned"`.
        threshold: float in [0, 1] or `None`, or a list of them, one per exit
            but the last. Defaults to `None`: nobody leaves.
        exit_weight: float w >= 0. Defaults to `0.25`.
        exit_warmup: int, the training steps in which w rises from 0, linearly.
            Defaults to `0`.
        distillation: float kappa >= 0; above 0 the logits are built whole in
            training. Defaults to `0`.
        temperature: float tau > 0. Defaults to `2`.
        random_exits: float r in [0, 1]. In training each row draws a share from
            U(0, r) at every exit, and of its tokens that share leaves there:
            deeper layers attend to them as they were, as under `"propagate"`.
            They themselves go on, and have all losses. Defaults to `0`.
        embedding_stddev: float, deviation of the initial embeddings. Defaults
            to `0.02`.
        risks: dict or `None`, what `set_risk` may choose from; see
            `calibrate`.

    Call arguments:
        inputs: int tensor `(B, N)` of token ids in `[0, V)`, any N; or a dict
            with `"tokens"`, `"targets"` (int, `(B, N)`) and optionally
            `"sample_weight"` (float, `(B, N)`).
        training: bool.

    Returns:
        Logits `(B, N, V)` of all layers; with targets the float32 negative
        log-likelihood per token `(B, N)`, its mean being added to the losses,
        and in training the losses of the other exits.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    ```python
    model = EarlyExitLM(256, dim=48, blocks=(1, 2), num_heads=2)
    logits = model(np.zeros((2, 16), "int32"))  # (2, 16, 256)
    ```

    Reference:
        - [Schuster et al., 2022](https://arxiv.org/abs/2207.07061)
        - [Elhoushi et al., 2024](https://arxiv.org/abs/2404.16710), exits in
          training, and drafts by them.
        - [Bae et al., 2023](https://arxiv.org/abs/2310.05424), distillation
          into one shallow exit.
    """

    presets = PRESETS
    # How many tokens of a prompt `generate` may read at a time.
    tokens_per_read = 8

    def __init__(
        self,
        vocabulary_size=256,
        dim=192,
        blocks=(3, 7),
        num_heads=6,
        num_key_value_heads=None,
        hidden_dim=None,
        dropout=0.0,
        head="tied",
        confidence="learned",
        threshold=None,
        exit_weight=0.25,
        exit_warmup=0,
        distillation=0.0,
        temperature=2.0,
        random_exits=0.0,
        embedding_stddev=0.02,
        risks=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (
            ("vocabulary_size", vocabulary_size),
            ("dim", dim),
            ("num_heads", num_heads),
        ):
            check_integer(name, value, 1)
        if not isinstance(blocks, (list, tuple)) or not blocks:
            raise ValueError(
                "`blocks` must be a sequence of at least one number of layers. "
                f"Received: {blocks!r}"
            )
        blocks = tuple(blocks)
        for size in blocks:
            check_integer("blocks", size, 1)
        if head not in HEADS:
            raise ValueError(
                f"`head` must be one of {HEADS}. Received: {head!r}"
            )
        if hidden_dim is not None:
            check_integer("hidden_dim", hidden_dim, 1)
        check_real(
            "embedding_stddev", embedding_stddev, "from 0 on", lambda s: s >= 0
        )
        check_real("dropout", dropout, "in [0, 1)", lambda rate: 0 <= rate < 1)
        check_real("exit_weight", exit_weight, "from 0 on", lambda w: w >= 0)
        check_integer("exit_warmup", exit_warmup, 0)
        check_real("distillation", distillation, "from 0 on", lambda k: k >= 0)
        check_real("temperature", temperature, "above 0", lambda t: t > 0)
        check_risks(risks)
        check_real(
            "random_exits", random_exits, "in [0, 1]", lambda r: 0 <= r <= 1
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
        self.decoder_layers = [
            DecoderBlock(
                CausalSelfAttention(
                    num_heads, num_key_value_heads, name="mixer", **policy
                ),
                MixtureOfExperts(
                    1,
                    hidden_dim or 4 * dim,
                    dropout=0.0,
                    name="feedforward",
                    **policy,
                ),
                dropout=dropout,
                name=f"layer_{index}",
                **policy,
            )
            for index in range(sum(blocks))
        ]
        self.exit_norms = [
            keras.layers.RMSNormalization(name=f"exit_norm_{index}", **policy)
            for index in range(len(blocks))
        ]
        self.exit_dropout = keras.layers.Dropout(
            dropout, name="exit_dropout", **policy
        )
        self.heads = [
            LanguageHead(
                vocabulary_size,
                embedding=self.token_embedding if head == "tied" else None,
                name=f"head_{index}",
                **policy,
            )
            for index in range(len(blocks) if head == "separate" else 1)
        ]
        self.routers = [
            EarlyExitRouter(confidence, level, name=f"router_{index}", **policy)
            for index, level in enumerate(_per_exit(threshold, len(blocks) - 1))
        ]

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.dim = dim
        self.blocks = blocks
        self.num_layers = sum(blocks)
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.head_kind = head
        self.confidence = confidence
        self.initial_threshold = threshold
        self.exit_weight = exit_weight
        self.exit_warmup = exit_warmup
        self.distillation = distillation
        self.temperature = temperature
        self.random_exits = random_exits
        # The seed is a weight of the model only where it is drawn from.
        self.draws = keras.random.SeedGenerator() if random_exits else None
        self.embedding_stddev = embedding_stddev
        self.risks = risks

    @property
    def head(self):
        """The head of the last exit."""
        return self.heads[-1]

    def build(self, input_shape=None):
        shape = (None, None, self.dim)
        self.token_embedding.build((None, None))
        for layer in (
            *self.decoder_layers,
            *self.exit_norms,
            *self.heads,
            *self.routers,
        ):
            layer.build(shape)
        for router in self.routers:
            router.trainable = False
        self.training_steps = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="float32",
            trainable=False,
            autocast=False,
            name="training_steps",
        )

    # === Functional Model ===
    def call(self, inputs, training=False):
        tokens, targets, sample_weight = self.unpack(inputs)
        h = self.embedding_dropout(
            self.token_embedding(tokens), training=training
        )
        if training and targets is not None:
            return self._train(h, targets, sample_weight)
        for layer in self.decoder_layers:
            h = layer(h, training=training)
        return self.leave(h, -1, targets, sample_weight, training)

    def _train(self, h, targets, weight):
        """Add the losses of all exits; those `(B, N)` of the last."""
        if weight is None:
            weight = ops.ones_like(targets, dtype="float32")
        weight = ops.cast(weight, "float32")
        states, seen, stays = [], None, None
        for depth, layer in enumerate(self.decoder_layers, 1):
            if stays is not None:
                seen = ops.where(stays, h, seen)
            h = layer(h, seen=seen, training=True)
            if depth in self.exit_depths:
                states.append(h)
                if self.draws is not None:
                    seen = h if stays is None else ops.where(stays, h, seen)
                    stays = self._by_chance(stays, ops.shape(targets))
        *others, last = states
        if self.distillation and others:
            teacher = self.exit_logits(last, -1)
            for index, state in enumerate(others):
                self._distil(teacher, self.exit_logits(state, index), weight)
        exits = []
        if self.exit_weight:
            scaled = weight * self._warmed_up() * self.exit_weight
            exits = [(h, e, scaled) for e, h in enumerate(others)]
        exits.append((last, len(others), weight))
        return self.leave_together(exits, targets)

    def _by_chance(self, stays, shape):
        """Who goes on past an exit, bool `(B, N, 1)`, of those who `stay`."""
        share = keras.random.uniform(
            (shape[0], 1, 1), 0, self.random_exits, seed=self.draws
        )
        drawn = keras.random.uniform((*shape, 1), seed=self.draws) >= share
        return drawn if stays is None else ops.logical_and(stays, drawn)

    def _warmed_up(self):
        """How much of the exits' weight counts at this step; counts it."""
        self.training_steps.assign_add(1.0)
        steps = ops.convert_to_tensor(self.training_steps)
        return ops.minimum(steps / max(1, self.exit_warmup), 1.0)

    def _distil(self, teacher, student, weight):
        cost = divergence(
            ops.stop_gradient(teacher) / self.temperature,
            student / self.temperature,
        )
        self.add_loss(
            self.distillation * self.temperature**2 * ops.mean(weight * cost)
        )

    # === A further block ===
    def extend(self, num_new_layers, freeze=True):
        """A new model with a block on top, and an exit where this one ends.

        Weights are copied, those of its last norm and head too; the layers on
        top are drawn anew. The new exit has no threshold yet, and a confidence
        that is learned has yet to be fitted.

        Args:
            num_new_layers: int, layers of the new block.
            freeze: bool, whether what this model had is not trained any
                further, see `freeze_lower`. Defaults to `True`.

        Raises:
            ValueError: if `num_new_layers` is below 1.
        """
        check_integer("num_new_layers", num_new_layers, 1)
        model = type(self).from_config(
            {
                **self.get_config(),
                "blocks": [*self.blocks, num_new_layers],
                "threshold": [*self.thresholds, None],
                "risks": None,
                "name": None,
            }
        )
        model.build()
        names = "decoder_layers", "exit_norms", "heads", "routers"
        pairs = [(self.token_embedding, model.token_embedding)]
        for old, new in ((getattr(m, n) for m in (self, model)) for n in names):
            pairs += zip(old, new, strict=False)
        pairs.append((self.exit_norms[-1], model.exit_norms[-1]))
        pairs.append((self.heads[-1], model.heads[-1]))
        for old, new in pairs:
            new.set_weights(old.get_weights())
        if freeze:
            model.freeze_lower(self.num_layers)
        return model

    def freeze_lower(self, num_layers, embedding=True, head=True):
        """Train only what is above some layers; to be said before `compile`.

        With the embedding and the head frozen, exits up to there say bit for
        bit what they said before.

        Args:
            num_layers: int, how many layers are kept as they are, with the
                norms and the own heads of the exits up to there.
            embedding: bool, whether it is kept. Defaults to `True`.
            head: bool, whether a head that all exits share is kept. Defaults
                to `True`.

        Raises:
            ValueError: if the model has fewer layers.
        """
        check_integer("num_layers", num_layers, 0)
        if num_layers > self.num_layers:
            raise ValueError(
                f"`num_layers` must be at most {self.num_layers}, those of the "
                f"model. Received: {num_layers}"
            )
        self.token_embedding.trainable = not embedding
        for depth, layer in enumerate(self.decoder_layers, 1):
            layer.trainable = depth > num_layers
        for depth, norm in zip(self.exit_depths, self.exit_norms, strict=True):
            norm.trainable = depth > num_layers
        if len(self.heads) == 1:
            self.heads[0].trainable = not head
            return
        for depth, own in zip(self.exit_depths, self.heads, strict=True):
            own.trainable = depth > num_layers

    # === Streaming ===
    def initial_state(self, batch_size, max_length):
        """The caches of every layer before any token."""
        return tuple(
            layer.initial_state(batch_size, max_length)
            for layer in self.decoder_layers
        )

    def step(self, tokens, state, index):
        """Logits `(B, M, V)` of all layers after tokens `(B, M)` at `index`."""
        h, states = self.token_embedding(tokens), []
        for layer, before in zip(self.decoder_layers, state, strict=True):
            h, after = layer.step(h, before, index)
            states.append(after)
        return self.exit_logits(h, -1), tuple(states)

    # === Config ===
    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "blocks": list(self.blocks),
            "num_heads": self.num_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "hidden_dim": self.hidden_dim,
            "dropout": self.dropout,
            "head": self.head_kind,
            "confidence": self.confidence,
            "threshold": self.initial_threshold,
            "exit_weight": self.exit_weight,
            "exit_warmup": self.exit_warmup,
            "distillation": self.distillation,
            "temperature": self.temperature,
            "random_exits": self.random_exits,
            "embedding_stddev": self.embedding_stddev,
            "risks": self.risks,
        }


def _per_exit(threshold, exits):
    """A threshold for every exit but the last."""
    if not isinstance(threshold, (list, tuple)):
        return [threshold] * exits
    if len(threshold) != exits:
        raise ValueError(
            f"`threshold` must be one number, or {exits}, one per exit but the "
            f"last. Received: {threshold!r}"
        )
    return list(threshold)
