"""ResNet-BK with its Koopman operators, as published, faults included.

The network of neko-jpg/Project-ResNet-BK-An-O-N-Language-Model-Architecture
(PyTorch, MIT), written anew in Keras so that its curve can be reproduced
beside sound models. Nothing outside this file depends on it. Its faults:

 1. The resolvent is bidirectional: the feature at i sees the token it is to
    predict. `mode="causal"` measures the size of the leak.
 2. The original forms G from minors that grow like 2.08^N. In complex128 they
    are finite at N = 128, so the values, and this file, are unaffected: it
    computes the same numbers from bounded ratios in float32.
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

import math

import keras
import numpy as np
from keras import ops

from ...losses.fused_linear_crossentropy import fused_linear_crossentropy

# A sweep of `_ratios` halves the error at least: 24 reach float32's rounding.
SWEEPS = 24
FALLBACK_LOSS = 8.0
FALLBACK_SCALE = 0.01
SMALLEST_DMD_WEIGHT = 1e-4
MODES = ("bidirectional", "causal")
GRADIENTS = ("blend", "theory", "hypothesis7", "exact")


def _ratios(real):
    """The ratios L_0 = a_0, L_i = a_i - 1 / L_{i-1} with a = real - i.

    All positions are updated at once, from L = a. Every iterate has
    |Im L| >= 1, `z -> -1/z` is an isometry of the half-plane onto |Im| <= 1,
    and adding -i halves hyperbolic distances there; L and a start within
    distance 1. So `SWEEPS` sweeps leave a relative error below 2^-SWEEPS at
    any length, without the N sequential steps of the recursion.
    """
    padding = [(0, 0)] * (len(real.shape) - 1) + [(1, 0)]

    def previous(values):
        return ops.pad(values[..., :-1], padding)

    x, y = real, -ops.ones_like(real)
    for _ in range(SWEEPS):
        square = x * x + y * y
        x, y = real - previous(x / square), previous(y / square) - 1.0
    return x, y


def _diagonal(potential, mode):
    """Real and imaginary part of G, stacked on a last axis of 2."""
    real = potential - 2.0
    if mode == "causal":
        x, y = _ratios(real)
    else:
        x, y = _ratios(ops.stack([real, ops.flip(real, axis=-1)]))
        x = x[0] + ops.flip(x[1], axis=-1) - real
        y = y[0] + ops.flip(y[1], axis=-1) + 1.0
    square = x * x + y * y
    return ops.stack([x / square, -y / square], axis=-1)


def _published_gradient(diagonal, upstream, gradient):
    """What the original returned as dL/dv, from G and g alone."""
    x, y = diagonal[..., 0], diagonal[..., 1]
    p, q = upstream[..., 0], upstream[..., 1]
    square_x, square_y = x * x - y * y, 2.0 * x * y
    theory = -(p * square_x - q * square_y)
    magnitude = x * x + y * y  # |G^2| = |G|^2
    stretch = ops.where(magnitude < 1e-3, 1e-3 / (magnitude + 1e-9), 1.0)
    divisor_x, divisor_y = square_x * stretch + 1e-6, square_y * stretch
    hypothesis = -(p * divisor_x + q * divisor_y) / (
        divisor_x * divisor_x + divisor_y * divisor_y
    )
    share = {"theory": 0.0, "blend": 0.5, "hypothesis7": 1.0}[gradient]
    mixed = (1.0 - share) * theory + share * hypothesis
    mixed = ops.where(ops.isfinite(mixed), mixed, ops.zeros_like(mixed))
    return ops.clip(mixed, -1000.0, 1000.0)


def resolvent_diagonal(potential, mode="bidirectional", gradient="blend"):
    """Diagonal of (T - iI)^-1, T = tridiag(1, v - 2, 1), wrong gradient.

    `G_ii = 1 / (L_i + R_i - a_i)` with the ratios L from the left and R from
    the right, `a = v - 2 - i`. Causal: `G_i = 1 / L_i`, the last diagonal
    entry of the chain cut at i. |G| <= 1, so the original's clamps (features
    at 10, modulus at 50) never act and are left out.

    With `g = dL/dRe G + i dL/dIm G` (no conjugate, no cross terms: fault 4)
    the original took `-Re(g G^2)` ("theory") or `-Re(g / G^2)` with |G^2| held
    above 1e-3 ("hypothesis7"), and trained with their mean ("blend"), clipped
    at 1000.

    Args:
        potential: float tensor `(..., N)`, v.
        mode: "bidirectional" or "causal".
        gradient: "blend", "theory", "hypothesis7", or "exact" for the
            derivative.

    Returns:
        float tensor `(..., N, 2)`: Re G and Im G.
    """
    if gradient == "exact":
        return _diagonal(potential, mode)

    @ops.custom_gradient
    def published(potential):
        diagonal = _diagonal(potential, mode)

        def backward(*arguments, upstream=None):
            # PyTorch passes the inputs, and the upstream gradient by name.
            upstream = arguments[0] if upstream is None else upstream
            return _published_gradient(diagonal, upstream, gradient)

        return diagonal, backward

    return published(potential)


def _uniform(fan_in):
    limit = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit)


def _linear(units, fan_in, name, **kwargs):
    """A `Dense` as PyTorch initialises it: U(+-1/sqrt(fan_in)), bias too."""
    layer = keras.layers.Dense(
        units,
        kernel_initializer=_uniform(fan_in),
        bias_initializer=_uniform(fan_in),
        name=name,
        **kwargs,
    )
    layer.build((None, fan_in))
    return layer


def _norm(dim, name):
    layer = keras.layers.LayerNormalization(epsilon=1e-5, name=name)
    layer.build((None, None, dim))
    return layer


@keras.saving.register_keras_serializable(package="orrery")
class ArgmaxExperts(keras.layers.Layer):
    """Experts chosen by the argmax of a gate that never learns (fault 6).

    `y = Expert_e(u)`, `e = argmax(W_g u + b_g)`, an expert being
    Linear(d, 2d)-ReLU-Dropout-Linear(2d, d). No gate value multiplies the
    output and no balance loss is added. The experts lie side by side in two
    matrices; all are computed and all but one are set to zero.

    Args:
        dim: int, width d.
        num_experts: int. Defaults to 4.
        dropout: float, rate in [0, 1) on the hidden units. Defaults to 0.1.

    Call arguments:
        inputs: float tensor `(B, N, d)`.
        training: bool.

    Returns:
        float tensor `(B, N, d)`.
    """

    def __init__(self, dim, num_experts=4, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.num_experts = num_experts
        self.dropout = dropout
        # Only one expert runs per token: they may share a dropout mask.
        self.hidden_dropout = keras.layers.Dropout(
            dropout, noise_shape=(None, None, 1, 2 * dim)
        )

    def build(self, input_shape):
        d, width = self.dim, 2 * self.dim * self.num_experts
        self.gate = _linear(self.num_experts, d, "gate")
        self.expand = _linear(width, d, "expand")
        self.contract, self.expert_bias = (
            keras.layers.Dense(
                d,
                use_bias=False,
                kernel_initializer=_uniform(2 * d),
                name=name,
            )
            for name in ("contract", "expert_bias")
        )
        self.contract.build((None, width))
        self.expert_bias.build((None, self.num_experts))

    def call(self, inputs, training=False):
        shape = ops.shape(inputs)
        chosen = ops.argmax(self.gate(inputs), axis=-1)
        mask = ops.one_hot(chosen, self.num_experts, dtype=inputs.dtype)
        hidden = ops.reshape(
            ops.relu(self.expand(inputs)), (*shape[:2], self.num_experts, -1)
        )
        hidden = self.hidden_dropout(hidden, training=training)
        hidden = ops.reshape(hidden * mask[..., None], (*shape[:2], -1))
        return self.contract(hidden) + self.expert_bias(mask)

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "num_experts": self.num_experts,
            "dropout": self.dropout,
        }


def _near_identity(shape, dtype=None):
    noise = keras.random.normal(shape, stddev=0.01, dtype=dtype)
    return ops.eye(shape[0], dtype=dtype) + noise


def wrong_pseudo_inverse(matrix):
    """The original's pseudo-inverse: V's rows for its columns (fault 7).

    `torch.svd` returns V where the caller expected V^T, so that
    `(V[:r, :])^T S^-1 U^T` was formed in place of `V[:, :r] S^-1 U^T`, with
    r the number of singular values above 1e-6 of the largest.

    Args:
        matrix: float array `(m, n)`.

    Returns:
        float array `(n, m)`, or `None` where r = 0.
    """
    u, s, transposed = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(s > 1e-6 * s[0]))
    if rank == 0:
        return None
    return transposed[:, :rank] / s[:rank] @ u[:, :rank].T


@keras.saving.register_keras_serializable(package="orrery")
class KoopmanBranch(keras.layers.Layer):
    """phi, K and psi beside a block, with the ring buffers of the DMD.

    Forward mode: `psi(phi(u) K)`. Loss: mean SmoothL1 of `phi(h) K^T` against
    `phi(h')`, nothing detached (faults 10 and 11). K is trainable, starts at
    `I + 0.01 N(0, 1)`, and is overwritten by `update` as well (fault 9).

    Args:
        dim: int, state width d.
        lift_dim: int, width m of phi and K. Defaults to 256.
        ring: int, columns kept for the DMD. Defaults to 100.

    Call arguments:
        inputs: float tensor `(B, N, d)`, the normalised state.

    Returns:
        float tensor `(B, N, d)`.
    """

    def __init__(self, dim, lift_dim=256, ring=100, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.lift_dim = lift_dim
        self.ring = ring

    def build(self, input_shape):
        m = self.lift_dim
        self.phi = [
            _linear(m, self.dim, "phi_0", activation="tanh"),
            _linear(m, m, "phi_1"),
        ]
        self.psi = [
            _linear(m, m, "psi_0", activation="tanh"),
            _linear(self.dim, m, "psi_1"),
        ]
        self.operator = self.add_weight(
            shape=(m, m), initializer=_near_identity, name="operator"
        )
        self.columns = self.add_weight(
            shape=(2, m, self.ring),
            initializer="zeros",
            trainable=False,
            name="columns",
        )
        self.pushes = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="pushes",
        )

    def call(self, inputs):
        z = ops.matmul(self.lift(inputs), self.operator)
        return self.psi[1](self.psi[0](z))

    def lift(self, state):
        """phi: `(B, N, d) -> (B, N, m)`."""
        return self.phi[1](self.phi[0](state))

    def consistency(self, state, following, weight):
        """The loss of one block and the column pair for the ring.

        Args:
            state: float tensor `(B, N, d)`, the block's input.
            following: float tensor `(B, N, d)`, the block's output.
            weight: float tensor `(B, N)` that sums to 1; zero on padding.

        Returns:
            The scalar loss, and the mean lifted pair `(2, m)`.
        """
        z, target = self.lift(state), self.lift(following)
        error = ops.abs(ops.matmul(z, ops.transpose(self.operator)) - target)
        smooth = ops.where(error < 1.0, 0.5 * error * error, error - 0.5)
        loss = ops.sum(ops.mean(smooth, axis=-1) * weight)
        means = [
            ops.sum(a * weight[..., None], axis=(0, 1)) for a in (z, target)
        ]
        return loss, ops.stop_gradient(ops.stack(means))

    def push(self, pair, enabled):
        """Write a column pair `(2, m)` into the ring where `enabled`."""
        slot = ops.one_hot(ops.mod(self.pushes, self.ring), self.ring)
        slot = slot * ops.cast(enabled, slot.dtype)
        self.columns.assign(
            self.columns * (1.0 - slot) + pair[..., None] * slot
        )
        self.pushes.assign_add(ops.cast(enabled, "int32"))

    def update(self):
        """K <- 0.9 K + 0.1 Z' pinv(Z), with the wrong pinv, in NumPy.

        Returns:
            bool, whether K was changed: not before the ring is full, and not
            where the SVD fails, which the original passed over in silence.
        """
        if int(self.pushes) < self.ring:
            return False
        current, following = keras.ops.convert_to_numpy(self.columns)
        try:
            inverse = wrong_pseudo_inverse(current)
        except np.linalg.LinAlgError:
            return False
        if inverse is None:
            return False
        old = keras.ops.convert_to_numpy(self.operator)
        self.operator.assign(0.9 * old + 0.1 * (following @ inverse))
        return True

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "lift_dim": self.lift_dim,
            "ring": self.ring,
        }


@keras.saving.register_keras_serializable(package="orrery")
class ResNetBKBlock(keras.layers.Layer):
    """One block: `h + f + s W_o [Re G; Im G]`, `f = Experts(LN h)`.

    `G = resolvent_diagonal(clip(w_v f + b_v, -3, 3))`, one head, s a scalar
    that starts at 1. The Koopman forward mode runs `h + psi(phi(LN h) K)` in
    its place.

    Args:
        dim: int, width d.
        dropout: float, of the experts.
        mode: see `resolvent_diagonal`.
        gradient: see `resolvent_diagonal`.
        koopman: bool, whether the block has a `KoopmanBranch`.

    Call arguments:
        inputs: float tensor `(B, N, d)`.
        replaced: bool, whether to run the Koopman branch instead.
        training: bool.

    Returns:
        float tensor `(B, N, d)`.
    """

    def __init__(self, dim, dropout, mode, gradient, koopman, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.dropout = dropout
        self.mode = mode
        self.gradient = gradient
        self.experts = ArgmaxExperts(dim, dropout=dropout, name="experts")
        self.koopman = KoopmanBranch(dim, name="koopman") if koopman else None

    def build(self, input_shape):
        self.norm = _norm(self.dim, "norm")
        self.experts.build(input_shape)
        self.potential = _linear(1, self.dim, "potential")
        self.spectrum = _linear(self.dim, 2, "spectrum")
        self.bk_scale = self.add_weight(
            shape=(), initializer="ones", name="bk_scale"
        )
        if self.koopman is not None:
            self.koopman.build(input_shape)

    def call(self, inputs, replaced=False, training=False):
        normalised = self.norm(inputs)
        if replaced:
            return inputs + self.koopman(normalised)
        f = self.experts(normalised, training=training)
        v = ops.clip(self.potential(f)[..., 0], -3.0, 3.0)
        g = resolvent_diagonal(v, self.mode, self.gradient)
        return inputs + f + self.bk_scale * self.spectrum(g)

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "dropout": self.dropout,
            "mode": self.mode,
            "gradient": self.gradient,
            "koopman": self.koopman is not None,
        }


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
        self.final_norm = _norm(self.dim, "final_norm")
        self.head = _linear(self.vocabulary_size, self.dim, "head")
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


@keras.saving.register_keras_serializable(package="orrery")
class BatchMeanPerplexity(keras.metrics.Metric):
    """exp(mean over batches of the batch's mean NLL): fault 15.

    `update_state(y_true, y_pred, sample_weight)` takes the per-token NLL
    `(B, N)` as `y_pred` and ignores `y_true`. The result differs from the
    token-weighted perplexity where batches differ in size.
    """

    def __init__(self, name="batch_mean_perplexity", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(initializer="zeros", name="total")
        self.batches = self.add_weight(initializer="zeros", name="batches")

    def update_state(self, y_true, y_pred, sample_weight=None):
        nll = ops.cast(y_pred, self.dtype)
        weight = ops.ones_like(nll)
        if sample_weight is not None:
            weight = weight * ops.cast(sample_weight, self.dtype)
        self.total.assign_add(ops.sum(nll * weight) / ops.sum(weight))
        self.batches.assign_add(1.0)

    def result(self):
        return ops.exp(self.total / ops.maximum(self.batches, 1.0))


class PublishedSchedule(keras.callbacks.Callback):
    """Koopman weight 0 for `warmup` epochs, then a line from 0.

    `w(e) = max_weight (e - warmup) / (epochs - warmup)` in epoch e = 0, 1,
    ...: the first epoch after the warm-up has weight 0 as well, and
    `max_weight` is never reached. Adds to the logs of an epoch
    `koopman_weight`, `koopman_loss`, `koopman_effective_weight`,
    `koopman_contribution` (mean of `w_eff L_K`) and
    `koopman_fallback_fraction`.

    Args:
        max_weight: float. Defaults to 0.05.
        warmup: int, epochs. Defaults to 4.
        epochs: int, epochs the line is laid for. Defaults to 10.
    """

    def __init__(self, max_weight=0.05, warmup=4, epochs=10):
        super().__init__()
        self.max_weight = max_weight
        self.warmup = warmup
        self.epochs = epochs

    def weight(self, epoch):
        progress = (epoch - self.warmup) / max(1, self.epochs - self.warmup)
        return self.max_weight * min(max(progress, 0.0), 1.0)

    def on_epoch_begin(self, epoch, logs=None):
        self.model.reset_koopman_totals()
        self.model.koopman_weight.assign(self.weight(epoch))

    def on_epoch_end(self, epoch, logs=None):
        totals = ops.convert_to_numpy(self.model.koopman_totals)
        loss, weight, contribution, fallback = totals[1:] / max(totals[0], 1.0)
        if logs is not None:
            logs["koopman_weight"] = self.weight(epoch)
            logs["koopman_loss"] = float(loss)
            logs["koopman_effective_weight"] = float(weight)
            logs["koopman_contribution"] = float(contribution)
            logs["koopman_fallback_fraction"] = float(fallback)


class DynamicModeDecomposition(keras.callbacks.Callback):
    """Overwrites K after each step, once the ring is full (faults 7 to 9).

    It runs after a step whose effective weight exceeds 1e-4. A callback,
    because Keras's compiled step on JAX returns trainable weights from the
    optimizer alone; the singular value decomposition is NumPy's. Meant for
    `steps_per_execution=1`. Adds `dmd_updates`, the steps of the epoch that
    changed a K, to the logs.
    """

    def on_epoch_begin(self, epoch, logs=None):
        # Access to `self.model` copies the state on JAX: not in every step.
        self._enabled = float(self.model.koopman_weight) > SMALLEST_DMD_WEIGHT
        self._updates = 0

    def on_train_batch_end(self, batch, logs=None):
        if not self._enabled:
            return
        model = self.model
        if float(model.koopman_effective_weight) > SMALLEST_DMD_WEIGHT:
            changed = [block.koopman.update() for block in model.blocks]
            self._updates += any(changed)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["dmd_updates"] = self._updates


def compile_as_published(model, metrics=(), **kwargs):
    """Compile as the original: AdamW 1e-3, decay 0.01, gradient norm 0.5.

    The rate is constant and the decay acts on biases and embeddings too. Only
    `untrained_weights` are left out, as PyTorch leaves out what has no
    gradient; Keras would decay them on JAX. phi and K do decay (by 2.5 % in
    all) while the Koopman weight is still 0, which they did not in PyTorch.

    Args:
        model: a `ResNetBK`.
        metrics: weighted metrics beside `BatchMeanPerplexity`.
        **kwargs: further arguments of `compile`.
    """
    if not model.built:
        model.build((None, model.length))
    optimizer = keras.optimizers.AdamW(
        learning_rate=1e-3,
        weight_decay=0.01,
        epsilon=1e-8,
        global_clipnorm=0.5,
    )
    optimizer.exclude_from_weight_decay(var_list=model.untrained_weights)
    model.compile(
        optimizer=optimizer,
        weighted_metrics=[BatchMeanPerplexity(), *metrics],
        **kwargs,
    )


def published_callbacks(model):
    """The callbacks of the original's Koopman run; none without operators."""
    if not model.koopman:
        return []
    return [PublishedSchedule(), DynamicModeDecomposition()]


def operator_change(initial, final):
    """How far K moved: as reported, and as it is (fault 13).

    Args:
        initial: float array `(m, m)`, K at the start.
        final: float array `(m, m)`, K at the end.

    Returns:
        dict of floats: "reported", the mean of |K - K_0| over the norm of K,
        and "relative", the norm of K - K_0 over the norm of K_0 (Frobenius).
    """
    initial, final = np.asarray(initial), np.asarray(final)
    change = final - initial
    return {
        "reported": float(np.abs(change).mean() / np.linalg.norm(final)),
        "relative": float(np.linalg.norm(change) / np.linalg.norm(initial)),
    }
