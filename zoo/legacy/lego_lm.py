"""LEGO, the early-exit language model as published, faults included.

The network of rato-tokyo/hrm, commit b02dd4b (PyTorch), written anew in Keras
so that its run can be reproduced beside sound models, none of which depends on
`lego_*.py` and `ashem*.py` in this folder. Faults of the network:

 5. The threshold is fitted before the head is trained once more.
 6. All exits share that head, so the second phase changes the finished exit.
 7. Confidence is the largest probability, uncalibrated.
 8. The cost counts layers only; the head is as dear as 68 of them.
 9. Both paths are computed for every token, whoever leaves.
10. While generating, tokens that had left were missing from the deeper caches,
    whose length served as position. Not reproduced: no figure rests on it.
13. At one time the loss sat on the last layer while the threshold was read at
    the exit. Not reproduced; a test shows where the loss is.

The faults of the training (1 to 4, 11, 12) are in `ashem.py` and
`ashem_protocol.py`; 14 and 15 are of the records.
"""

import keras
from keras import ops

from ..._checks import check_integer
from ...layers.early_exit import EarlyExitRouter
from ..ashem import compute_confidence
from ..exit_routing import ExitRoutingModel
from .lego_layers import LegoHead, PostNormBlock, SummedEmbedding


@keras.saving.register_keras_serializable(package="orrery")
class LegoLM(ExitRoutingModel):
    """The original network: post-norm layers, one exit, one head.

    `h_0 = E[x]`, `h_l = block_l(h_{l-1})`; the exit and the end have the logits
    `z = h W`, with one W, no bias and no norm before it. A token leaves at the
    exit if the largest probability there is at least the threshold.

    All matrices are drawn from N(0, 1/d), E from N(0, 0.02^2), when the model
    is made. 9,200,896 weights at the defaults, 65,664 of them per layer;
    9,069,568 with two layers.

    Args:
        vocabulary_size: int, V. Defaults to `69_830`.
        dim: int, width d. Defaults to `64`.
        num_layers: int, L. Defaults to `4`.
        exit_layer: int from 1 to L, the layers below the exit; `None`, and L,
            is no exit before the end. Defaults to `2`.
        num_heads: int. Defaults to `4`.
        hidden_dim: int, hidden width of SwiGLU. Defaults to `256`.
        threshold: float in [0, 1] or `None`: nobody leaves. Defaults to `None`.

    Call arguments:
        inputs: int tensor `(B, N)`, or a dict of `"tokens"`, `"targets"` and
            optionally `"sample_weight"`, each `(B, N)`.
        training: bool.

    Returns:
        Logits `(B, N, V)` of all layers; with targets their negative
        log-likelihood `(B, N)`, its mean being added to the losses.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    ```python
    model = LegoLM(100, dim=32, num_heads=2, hidden_dim=128, threshold=0.07)
    routed = model.route(tokens)  # "logits", "exit", "confidence"
    ```

    Reference:
        - [rato-tokyo/hrm](https://github.com/rato-tokyo/hrm), b02dd4b
    """

    presets = {"lego_lm": {}, "lego_lm_phase1": {"num_layers": 2}}

    def __init__(
        self,
        vocabulary_size=69_830,
        dim=64,
        num_layers=4,
        exit_layer=2,
        num_heads=4,
        hidden_dim=256,
        threshold=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (
            ("vocabulary_size", vocabulary_size),
            ("dim", dim),
            ("num_layers", num_layers),
            ("num_heads", num_heads),
            ("hidden_dim", hidden_dim),
        ):
            check_integer(name, value, 1)
        if exit_layer is None:
            exit_layer = num_layers
        check_integer("exit_layer", exit_layer, 1)
        if exit_layer > num_layers:
            raise ValueError(
                f"`exit_layer` must be at most num_layers={num_layers}. "
                f"Received: exit_layer={exit_layer}"
            )

        # === Layers ===
        policy = {"dtype": self.dtype_policy}
        self.token_embedding = SummedEmbedding(
            vocabulary_size,
            dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="token_embedding",
            **policy,
        )
        self.decoder_layers = [
            PostNormBlock(num_heads, hidden_dim, name=f"layer_{i}", **policy)
            for i in range(num_layers)
        ]
        self.heads = [LegoHead(vocabulary_size, name="head", **policy)]
        self.routers = [EarlyExitRouter("max_prob", threshold, name="router")]
        self.blocks = (exit_layer, num_layers - exit_layer)
        if exit_layer == num_layers:
            self.blocks, self.routers = (num_layers,), []
        self.exit_norms = [
            keras.layers.Identity(name=f"exit_norm_{i}", **policy)
            for i in range(len(self.blocks))
        ]
        self.exit_dropout = keras.layers.Identity(**policy)
        self.embedding_dropout = keras.layers.Identity(**policy)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.dim = dim
        self.num_layers = num_layers
        self.exit_layer = exit_layer
        self.num_heads = num_heads
        self.num_key_value_heads = None
        self.hidden_dim = hidden_dim
        self.confidence = "max_prob"
        self.initial_threshold = threshold
        # The layers draw by rules of their own, so they are made and drawn
        # anew here: an assignment while Keras traces a call would be lost.
        self.build()

    @property
    def head(self):
        return self.heads[0]

    def build(self, input_shape=None):
        if self.built:
            return
        self.token_embedding.build((None, None))
        shape = (None, None, self.dim)
        for layer in (*self.decoder_layers, *self.heads, *self.routers):
            layer.build(shape)
        for router in self.routers:
            router.trainable = False
        draw = keras.initializers.RandomNormal(
            stddev=self.dim**-0.5, seed=keras.random.SeedGenerator()
        )
        for layer in (*self.decoder_layers, self.head):
            for weight in layer.trainable_weights:
                if weight.path.endswith("kernel"):
                    weight.assign(draw(weight.shape, weight.dtype))

    # === Functional Model ===
    def call(self, inputs, training=False):
        tokens, targets, sample_weight = self.unpack(inputs)
        h = self.forward_to_hidden(tokens, self.num_layers)
        return self.head(h, targets, sample_weight, training=training)

    def routed_states(self, tokens):
        """The state with which every token leaves: both paths (fault 9).

        As all share one head without a norm, the choice of the logits is that
        of the state before it, and nothing of width V is kept.

        Returns:
            The state `(B, N, d)`; at which exit it leaves, int32 `(B, N)`; the
            confidence at the first, float32 `(B, N)`, `None` if that is the
            end.
        """
        h = self.forward_to_hidden(tokens)
        if not self.routers:
            return h, ops.zeros(ops.shape(tokens), "int32"), None
        confidence = compute_confidence(self, h)
        leaves = self.routers[0].leaves(confidence)
        deep = self.forward_upper(h)
        h = ops.where(leaves[..., None], h, deep)
        left = ops.cast(ops.logical_not(leaves), "int32")
        return h, left, confidence

    def route(self, tokens, policy="both", capacity=None):
        """The logits with which every token leaves, both paths computed."""
        if policy != "both" or capacity is not None:
            raise ValueError(
                "`policy` must be 'both', without a capacity, all that the "
                f"original had. Received: policy={policy!r}, "
                f"capacity={capacity}"
            )
        self.require_exit("route")
        h, left, confidence = self.routed_states(tokens)
        logits = self.head(h)
        return {"logits": logits, "exit": left, "confidence": confidence}

    @property
    def num_parameters(self):
        """The weights of the network; a threshold is not one."""
        layers = self.token_embedding, *self.decoder_layers, self.head
        return sum(layer.count_params() for layer in layers)

    def published_costs(self, shallow_ratio):
        """Multiply-accumulates over full depth, four ways (fault 8).

        Args:
            shallow_ratio: float, the share of tokens that leave at the exit.

        Returns:
            A dict: `layers_only`, what was published; `skipped`, with heads, if
            layers were skipped; `executed`, what the original ran, all layers
            and the head three times, for both logits and the confidence;
            `ceiling`, full depth over the lower layers and a head.
        """
        self.require_exit("published_costs")
        cost = self.compute_cost([shallow_ratio], "selected")
        head = self.vocabulary_size * self.dim
        layer = 4 * self.dim**2 + 3 * self.dim * self.hidden_dim
        full = self.num_layers * layer + head
        return {
            "layers_only": cost["layers_only"],
            "skipped": cost["macs_with_head"],
            "executed": (full + 2 * head) / full,
            "ceiling": full / (self.exit_layer * layer + head),
        }

    def extend(
        self, num_new_layers, threshold=None, freeze=True, initialise=None
    ):
        """A new model with layers on top, an exit where this one ends.

        Args:
            num_new_layers: int, how many.
            threshold: float in [0, 1] or `None`, of the exit.
            freeze: bool, whether embedding and old layers are not trained. The
                head is, in either case (fault 6). Defaults to `True`.
            initialise: function that draws all weights of the new model, before
                the old ones are copied into it; or `None`.
        """
        check_integer("num_new_layers", num_new_layers, 1)
        model = type(self)(
            **{
                **self.get_config(),
                "num_layers": self.num_layers + num_new_layers,
                "exit_layer": self.num_layers,
                "threshold": threshold,
                "name": None,
            }
        )
        if initialise is not None:
            initialise(model)
        old = self.token_embedding, *self.decoder_layers, self.head
        new = (
            model.token_embedding,
            *model.decoder_layers[: self.num_layers],
            model.head,
        )
        for source, layer in zip(old, new, strict=True):
            layer.set_weights(source.get_weights())
        for layer in new[:-1]:
            layer.trainable = not freeze
        return model

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
        return self.head(h), tuple(states)

    # === Config ===
    def get_build_config(self):
        return None

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "num_layers": self.num_layers,
            "exit_layer": self.exit_layer,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "threshold": self.initial_threshold,
        }
