"""Learned potentials of a distance."""

import keras
from keras import ops

from .._checks import check_integer
from .mlp_potential import log_cosh
from .potential import Potential


@keras.saving.register_keras_serializable(package="orrery")
class RadialPotential(Potential):
    """An energy that is a function of the squared distance to the origin.

    `V = u(|q|^2)` with `u(r) = sum_k a_k log(cosh(w_k r + b_k) / cosh b_k)
    + c r`. It does not change when positions are turned, so the angular
    momentum about the origin is conserved, by a symplectic integrator to
    rounding. One body in the field of a fixed centre, or two in relative
    coordinates, are such systems; `PairwisePotential` is for more.

    Args:
        hidden_dim: int, hidden width of `u`. Defaults to `32`.

    Call arguments:
        q: float tensor `(..., n)`.

    Returns:
        Energies, float tensor `(...)`.

    Raises:
        ValueError: if `hidden_dim` is not a positive integer.

    Example:
    >>> potential = RadialPotential()
    >>> q = keras.random.normal((5, 2))
    >>> turned = keras.ops.stack([-q[:, 1], q[:, 0]], axis=-1)
    >>> change = potential(turned) - potential(q)
    >>> bool(keras.ops.max(keras.ops.abs(change)) < 1e-5)
    True

    Reference:
        - [Noether, 1918](https://arxiv.org/abs/physics/0503066), what
          a symmetry conserves.
    """

    def __init__(self, hidden_dim=32, **kwargs):
        super().__init__(**kwargs)
        check_integer("hidden_dim", hidden_dim, 1)
        self.hidden_dim = int(hidden_dim)

    def build(self, q_shape, context_shape=None):
        normal = keras.initializers.RandomNormal
        m = self.hidden_dim
        self.kernel = self.add_weight(
            shape=(m,), initializer=normal(stddev=1.0), name="kernel"
        )
        self.bias = self.add_weight(
            shape=(m,), initializer=normal(stddev=1.0), name="bias"
        )
        self.amplitude = self.add_weight(
            shape=(m,), initializer=normal(stddev=m**-0.5), name="amplitude"
        )
        self.slope = self.add_weight(
            shape=(), initializer="zeros", name="slope"
        )

    def of_square(self, square):
        """`u`, float tensor of the shape of the squared distances."""
        wells = log_cosh(self._hidden(square)) - log_cosh(self.bias * 1.0)
        return ops.sum(wells * self.amplitude, axis=-1) + self.slope * square

    def slope_of_square(self, square):
        """`u'`, float tensor of the shape of the squared distances."""
        return self.slope + ops.sum(
            ops.tanh(self._hidden(square)) * self.amplitude * self.kernel,
            axis=-1,
        )

    def _hidden(self, square):
        return square[..., None] * self.kernel + self.bias

    def energy(self, q, context=None):
        return self.of_square(ops.sum(q * q, axis=-1))

    def force(self, q, context=None):
        square = ops.sum(q * q, axis=-1)
        return -2.0 * self.slope_of_square(square)[..., None] * q

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim}
