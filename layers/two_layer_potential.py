"""A learned potential with two hidden layers and a force in closed form."""

import keras
from keras import ops

from .._checks import check_integer
from .potential import Landscape, Potential


@keras.saving.register_keras_serializable(package="orrery")
class TwoLayerPotential(Potential):
    """A potential with two hidden layers.

    `V = a . tanh(W_2 f + b_2) + 1/2 sum_i k_i q_i^2` with
    `f = tanh(W_1 q + U c + b_1)` and `k = softplus(.) > 0`, so that with
    `s = tanh(W_2 f + b_2)`
    `F = -W_1^T ((1 - f^2) W_2^T ((1 - s^2) a)) - k q`.
    Between its data it follows a landscape more closely than an `MLPPotential`
    of as many weights; beyond them the quadratic term keeps a motion bounded.

    With a context `V(0; c)` is not 0, as it is for an `MLPPotential`: this much
    energy has no force, and can differ between tokens by anything. A network
    that is asked to conserve its energy relative to the spread over tokens
    can widen that spread instead, so give a `HamiltonianBlock` with a mixer
    the other.

    The first layer starts with kinks spread over where `|q|` is of order one.

    Args:
        hidden_dim: int, width h of both layers. Defaults to `32`.

    Call arguments:
        q: float tensor `(..., n)`.
        context: float tensor `(..., c)`, or `None`.

    Returns:
        Energies, float tensor `(...)`.

    Raises:
        ValueError: if `hidden_dim` is not a positive integer.

    Example:
    >>> potential = TwoLayerPotential(16)
    >>> q = keras.ops.ones((5, 3))
    >>> tuple(potential(q).shape), tuple(potential.force(q).shape)
    ((5,), (5, 3))

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563)
    """

    def __init__(self, hidden_dim=32, **kwargs):
        super().__init__(**kwargs)
        check_integer("hidden_dim", hidden_dim, 1)
        self.hidden_dim = int(hidden_dim)

    def build(self, q_shape, context_shape=None):
        n, h = q_shape[-1], self.hidden_dim
        normal = keras.initializers.RandomNormal
        weights = {
            "kernel_1": ((n, h), normal(stddev=n**-0.5)),
            "bias_1": ((h,), keras.initializers.RandomUniform(-2.0, 2.0)),
            "kernel_2": ((h, h), "orthogonal"),
            "bias_2": ((h,), "zeros"),
            "amplitude": ((h,), normal(stddev=h**-0.5)),
            # softplus(-4) = 0.018
            "curvature": ((n,), keras.initializers.Constant(-4.0)),
        }
        if context_shape is not None:
            c = context_shape[-1]
            weights["context_kernel"] = (c, h), normal(stddev=c**-0.5)
        for name, (shape, initializer) in weights.items():
            weight = self.add_weight(
                shape=shape, initializer=initializer, name=name
            )
            setattr(self, name, weight)

    def energy(self, q, context=None):
        return self.freeze(context).energy(q)

    def force(self, q, context=None):
        return self.freeze(context).force(q)

    def freeze(self, context=None):
        tensor = ops.convert_to_tensor
        kernel_1, kernel_2 = tensor(self.kernel_1), tensor(self.kernel_2)
        bias_1, bias_2 = tensor(self.bias_1), tensor(self.bias_2)
        if context is not None:
            context = ops.cast(context, kernel_1.dtype)
            bias_1 = bias_1 + ops.matmul(context, self.context_kernel)
        amplitude = tensor(self.amplitude)
        # Scaled transposes serve every force of a block.
        back_1 = ops.transpose(kernel_1)
        back_2 = ops.transpose(kernel_2 * amplitude)
        stiffness = ops.softplus(tensor(self.curvature))

        def hidden(q):
            first = ops.tanh(ops.matmul(q, kernel_1) + bias_1)
            return first, ops.tanh(ops.matmul(first, kernel_2) + bias_2)

        def energy(q):
            _, second = hidden(q)
            wells = ops.sum(second * amplitude, axis=-1)
            return wells + 0.5 * ops.sum(stiffness * q * q, axis=-1)

        def force(q):
            first, second = hidden(q)
            slope = ops.matmul(1.0 - second * second, back_2)
            slope = ops.matmul(slope * (1.0 - first * first), back_1)
            return -slope - stiffness * q

        return Landscape(energy, force)

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim}
