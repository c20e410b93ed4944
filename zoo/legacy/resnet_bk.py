"""ResNet-BK with its Koopman operators, as published, faults included.

The network of neko-jpg/Project-ResNet-BK-An-O-N-Language-Model-Architecture
(PyTorch, MIT), written anew in Keras so that its curve can be reproduced
beside sound models, none of which depends on the `resnet_bk*.py`. Its faults:

 1. The resolvent is bidirectional: the feature at i sees the token it is to
    predict. `mode="causal"` measures the size of the leak.
 2. The original forms G from minors that grow like 2.08^N. In complex128 they
    are finite at N = 128, so the values are unaffected; here the same numbers
    come from bounded ratios in float32.
 3. The trailing minors take coupling i for i + 1; harmless, since b = 1.
 4. The resolvent's backward pass is not its derivative (`gradient`): cosine
    -0.42 with it in "theory", +0.79 in "hypothesis7" and "blend", 18 and 9
    times too long (random cotangents, v ~ N(0, 0.47^2)).
 5. The potential is clipped: no gradient once it saturates.
 6. Experts are chosen by argmax without a weight: the gate never learns.
 7. V is used as V^T in the pseudo-inverse of the DMD.
 8. The DMD sees one mean column per batch, at most 100 in 256 dimensions,
    lifted by a phi that has moved since; its failures are silent.
 9. K has two owners: AdamW and the DMD overwrite each other.
10. The loss uses z K^T, the forward mode z K; phi is trained on h and run on
    LN(h) inside a residual; psi is in no loss.
11. A constant phi minimises the Koopman loss.
12. The fallback compares a loss without scale to 8, per batch, without memory.
13. The success metric divides a mean by a norm (`operator_change`).
15. Perplexity is the exponential of a mean of batch means, and the last, short
    batch weighs as much as a full one, in the metric and in the gradient.
16. The length is fixed: learned positions, and an assertion.

Faults 14 (warm start, baseline typed in) and 17 (a claim) are not code.
"""

import keras
from keras import ops

from ...losses.fused_linear_crossentropy import fused_linear_crossentropy
from .resnet_bk_blocks import ResNetBKBlock
from .resnet_bk_koopman import SMALLEST_DMD_WEIGHT
from .resnet_bk_linear import layer_norm, linear
from .resnet_bk_resolvent import GRADIENTS, MODES

FALLBACK_LOSS = 8.0
FALLBACK_SCALE = 0.01


@keras.saving.register_keras_serializable(package="orrery")
class ResNetBK(keras.Model):
    """The original language model, with or without its Koopman operators.

    `h_0 = Emb[x] + Pos`, blocks, LayerNorm, an untied head with bias; all
    embeddings N(0, 1), all linear maps U(+-1/sqrt(fan_in)). 4,146,120
    trainable weights at the defaults, 5,066,952 with `koopman=True`.

    The training loss is `L_LM + w_eff L_K`: L_LM the batch's mean
    cross-entropy, through the fused head (the same number, without the
    logits); L_K the mean Koopman loss of the blocks; `w_eff` is
    `koopman_weight`, times 0.01 in a batch with `L_K > 8` (fault 12). Where
    `w_eff > 1e-4` each block also pushes a pair into its ring, lifted by phi as
    it was before the step; the original lifted again after it. On a NaN in L_K
    the original dropped the Koopman part for the rest of the run in silence;
    here the loss is NaN.

    Args:
        vocabulary_size: int. Defaults to 30,000.
        length: int, tokens per sequence; no other is accepted (fault 16).
            Defaults to 128.
        dim: int, width d. Defaults to 64.
        num_layers: int. Defaults to 4.
        dropout: float, of the experts. Defaults to 0.1.
        mode: "bidirectional" (the original: the target token leaks) or
            "causal". Defaults to "bidirectional".
        gradient: "blend" (the original), "theory", "hypothesis7" or "exact".
            Defaults to "blend".
        koopman: bool, whether to add the Koopman branches. Defaults to
            `False`.

    Call arguments:
        inputs: int tensor `(B, length)`, or a dict of `"tokens"`, `"targets"`
            and optionally `"sample_weight"`, each `(B, length)`.
        training: bool.

    Returns:
        Logits `(B, length, V)` for tokens; for a dict the per-token NLL
        `(B, length)`, the loss being added by `add_loss`.

    Raises:
        ValueError: for an unknown `mode` or `gradient`, a sequence of another
            length, or blocks to replace that do not exist.

    Example:
    ```python
    from orrery.zoo.legacy.resnet_bk_training import (
        compile_as_published,
        published_callbacks,
    )

    model = ResNetBK.from_preset("resnet_bk_legacy_koopman")
    compile_as_published(model)
    model.fit(batches, epochs=10, callbacks=published_callbacks(model))
    model.set_replaced(range(4))  # the Koopman forward mode
    ```

    Reference:
        - [Project-ResNet-BK](https://github.com/neko-jpg/Project-ResNet-BK-An-O-N-Language-Model-Architecture)
    """

    presets = {
        "resnet_bk_legacy": {},
        "resnet_bk_legacy_koopman": {"koopman": True},
    }

    def __init__(
        self,
        vocabulary_size=30_000,
        length=128,
        dim=64,
        num_layers=4,
        dropout=0.1,
        mode="bidirectional",
        gradient="blend",
        koopman=False,
        **kwargs,
    ):
        for name, value, allowed in (
            ("mode", mode, MODES),
            ("gradient", gradient, GRADIENTS),
        ):
            if value not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {allowed}. "
                    f"Received: {name}={value!r}"
                )
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.length = length
        self.dim = dim
        self.num_layers = num_layers
        self.dropout = dropout
        self.mode = mode
        self.gradient = gradient
        self.koopman = koopman
        self.replaced = ()
        self.blocks = [
            ResNetBKBlock(
                dim, dropout, mode, gradient, koopman, name=f"block_{i}"
            )
            for i in range(num_layers)
        ]

    def build(self, input_shape):
        def table(rows, name):
            return self.add_weight(
                shape=(rows, self.dim),
                initializer=keras.initializers.RandomNormal(stddev=1.0),
                name=name,
            )

        self.token_embedding = table(self.vocabulary_size, "token_embedding")
        self.position_embedding = table(self.length, "position_embedding")
        for block in self.blocks:
            block.build((None, self.length, self.dim))
        self.final_norm = layer_norm(self.dim, "final_norm")
        self.head = linear(self.vocabulary_size, self.dim, "head")
        if self.koopman:
            self.koopman_weight = self._state((), "koopman_weight")
            self.koopman_effective_weight = self._state(
                (), "koopman_effective_weight"
            )
            # Steps, and sums of L_K, w_eff, w_eff L_K and of fallbacks.
            self.koopman_totals = self._state((5,), "koopman_totals")

    def _state(self, shape, name):
        return self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name=name
        )

    def call(self, inputs, training=False):
        if not isinstance(inputs, dict):
            return self.head(self._states(inputs, training)[-1])
        targets = inputs["targets"]
        weight = inputs.get("sample_weight")
        if weight is None:
            weight = ops.ones_like(targets, dtype="float32")
        # The mean over the batch's own tokens: the short last batch counts as
        # much as a full one (fault 15).
        share = weight / ops.sum(weight)
        states = self._states(inputs["tokens"], training)
        size = ops.cast(ops.size(targets), "float32")
        loss, nll = fused_linear_crossentropy(
            states[-1],
            self.head.kernel,
            targets,
            bias=self.head.bias,
            sample_weight=share * size,
            with_gradient=training,
        )
        self.add_loss(loss)
        if self.koopman and training:
            self.add_loss(self._koopman_loss(states, share))
        return nll

    def _states(self, tokens, training=False):
        """The L + 1 states of the residual stream, and the normed last."""
        if tokens.shape[1] != self.length:
            raise ValueError(
                f"ResNetBK has learned positions for sequences of "
                f"{self.length} tokens only. Received: {tokens.shape[1]}"
            )
        # The product makes TensorFlow's gradient dense: its Adam adds the
        # squares of a repeated row's slices, not the slices.
        table = self.token_embedding * 1.0
        states = [ops.take(table, tokens, axis=0) + self.position_embedding]
        for i, block in enumerate(self.blocks):
            states.append(
                block(
                    states[-1], replaced=i in self.replaced, training=training
                )
            )
        states.append(self.final_norm(states[-1]))
        return states

    def _koopman_loss(self, states, share):
        branches = [block.koopman for block in self.blocks]

        def consistency():
            losses, pairs = zip(
                *(
                    branch.consistency(states[i], states[i + 1], share)
                    for i, branch in enumerate(branches)
                ),
                strict=True,
            )
            return ops.mean(ops.stack(losses)), ops.stack(pairs)

        def nothing():
            lift_dim = branches[0].lift_dim
            return ops.zeros(()), ops.zeros((len(branches), 2, lift_dim))

        scheduled = ops.convert_to_tensor(self.koopman_weight)
        loss, pairs = ops.cond(scheduled > 1e-6, consistency, nothing)
        high = ops.cast(loss > FALLBACK_LOSS, "float32")
        weight = scheduled * (1.0 - (1.0 - FALLBACK_SCALE) * high)
        self.koopman_effective_weight.assign(weight)
        for branch, pair in zip(branches, ops.unstack(pairs), strict=True):
            branch.push(pair, weight > SMALLEST_DMD_WEIGHT)
        terms = [ops.ones(()), loss, weight, weight * loss, high]
        self.koopman_totals.assign_add(ops.stop_gradient(ops.stack(terms)))
        return weight * loss

    @property
    def untrained_weights(self):
        """Trainable weights that no loss reaches (faults 6 and 10)."""
        weights = []
        for block in self.blocks:
            weights += block.experts.gate.weights
            if block.koopman is not None:
                weights += [
                    w for layer in block.koopman.psi for w in layer.weights
                ]
        return weights

    def set_replaced(self, indices):
        """Choose the blocks that run their Koopman branch; not saved.

        Args:
            indices: iterable of ints, empty for the standard model.
        """
        indices = tuple(sorted(set(indices)))
        known = range(self.num_layers if self.koopman else 0)
        if any(i not in known for i in indices):
            raise ValueError(
                f"`indices` must be among {list(known)}. Received: {indices}"
            )
        self.replaced = indices
        # The compiled functions hold the former choice.
        self.train_function = None
        self.test_function = None
        self.predict_function = None

    def reset_koopman_totals(self):
        self.koopman_totals.assign(ops.zeros((5,)))

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """A new, untrained model of `ResNetBK.presets`."""
        if preset not in cls.presets:
            raise ValueError(
                f"`preset` must be one of {list(cls.presets)}. "
                f"Received: {preset!r}"
            )
        return cls(**{**cls.presets[preset], **kwargs})

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "length": self.length,
            "dim": self.dim,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "mode": self.mode,
            "gradient": self.gradient,
            "koopman": self.koopman,
        }
