"""The blocks of ResNet-BK: experts chosen by argmax, then the resolvent."""

import keras
from keras import ops

from .resnet_bk_koopman import KoopmanBranch
from .resnet_bk_linear import layer_norm, linear, uniform
from .resnet_bk_resolvent import resolvent_diagonal


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
        self.gate = linear(self.num_experts, d, "gate")
        self.expand = linear(width, d, "expand")
        self.contract, self.expert_bias = (
            keras.layers.Dense(
                d,
                use_bias=False,
                kernel_initializer=uniform(2 * d),
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
        self.norm = layer_norm(self.dim, "norm")
        self.experts.build(input_shape)
        self.potential = linear(1, self.dim, "potential")
        self.spectrum = linear(self.dim, 2, "spectrum")
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
