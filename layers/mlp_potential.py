"""A learned potential with one hidden layer and a force in closed form."""

import math

import keras
from keras import ops

from .._checks import check_integer
from .potential import Landscape, Potential


def log_cosh(x):
    """`log cosh x`, finite for every finite `x`; its derivative is tanh."""
    size = ops.abs(x)
    return size + ops.softplus(-2.0 * size) - math.log(2.0)


@keras.saving.register_keras_serializable(package="orrery")
class MLPPotential(Potential):
    """A potential with one hidden layer, shaped by a context.

    `V = sum_j a_j log(cosh s_j / cosh r_j) + 1/2 sum_i k_i q_i^2 - q . P c`
    with `s = W q + r`, `r = U c + b`, `a = a_0 + A c`, `k = softplus(.) > 0`,
    so that `F = -W^T (a tanh s) - k q + P c`. `A` lets the context choose among
    wells, as the gate of a gated feed-forward network does. Without a context
    there is no `U`, `A` or `P`.

    `V(0; c) = 0`: a term that depends on the context alone has no force, and
    would let energies of different tokens differ by anything.

    At first the wells are shallow and the springs weak (k = 0.018), but a
    context of unit size pulls with a force of order one.

    Args:
        hidden_dim: int, hidden width m, or `None` for four times the number of
            positions. Defaults to `None`.

    Call arguments:
        q: float tensor `(..., n)`.
        context: float tensor `(..., c)`, or `None`.

    Returns:
        Energies, float tensor `(...)`.

    Raises:
        ValueError: if `hidden_dim` is not a positive integer.

    Example:
    >>> potential = MLPPotential(16)
    >>> q = keras.ops.ones((5, 3))
    >>> tuple(potential(q).shape), tuple(potential.force(q).shape)
    ((5,), (5, 3))

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563)
    """

    def __init__(self, hidden_dim=None, **kwargs):
        super().__init__(**kwargs)
        if hidden_dim is not None:
            check_integer(
                "hidden_dim",
                hidden_dim,
                1,
                "a positive integer, or None for four times the number of "
                "positions",
            )
            hidden_dim = int(hidden_dim)
        self.hidden_dim = hidden_dim

    def build(self, q_shape, context_shape=None):
        n = q_shape[-1]
        m = self.hidden_dim or 4 * n

        def weight(name, shape, stddev=None, value=0.0):
            initializer = (
                keras.initializers.Constant(value)
                if stddev is None
                else keras.initializers.RandomNormal(stddev=stddev)
            )
            return self.add_weight(
                shape=shape, initializer=initializer, name=name
            )

        self.position_kernel = weight("position_kernel", (n, m), n**-0.5)
        self.bias = weight("bias", (m,))
        self.amplitude = weight("amplitude", (m,), m**-0.5)
        # softplus(-4) = 0.018
        self.curvature = weight("curvature", (n,), value=-4.0)
        if context_shape is not None:
            c = context_shape[-1]
            self.context_kernel = weight("context_kernel", (c, m), c**-0.5)
            self.context_force = weight("context_force", (c, n), c**-0.5)
            self.context_amplitude = weight(
                "context_amplitude", (c, m), (c * m) ** -0.5
            )

    def energy(self, q, context=None):
        return self.freeze(context).energy(q)

    def force(self, q, context=None):
        return self.freeze(context).force(q)

    def freeze(self, context=None):
        shift, pull = ops.convert_to_tensor(self.bias), 0.0
        amplitude = ops.convert_to_tensor(self.amplitude)
        if context is not None:
            context = ops.cast(context, "float32")
            shift = shift + ops.matmul(context, self.context_kernel)
            pull = ops.matmul(context, self.context_force)
            amplitude = amplitude + ops.matmul(context, self.context_amplitude)
        kernel = ops.convert_to_tensor(self.position_kernel)
        back = ops.transpose(kernel)
        stiffness = ops.softplus(ops.convert_to_tensor(self.curvature))

        def energy(q):
            s = ops.matmul(q, kernel) + shift
            wells = amplitude * (log_cosh(s) - log_cosh(shift))
            return ops.sum(wells, axis=-1) + ops.sum(
                q * (0.5 * stiffness * q - pull), axis=-1
            )

        def force(q):
            slope = amplitude * ops.tanh(ops.matmul(q, kernel) + shift)
            return pull - ops.matmul(slope, back) - stiffness * q

        return Landscape(energy, force)

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim}
