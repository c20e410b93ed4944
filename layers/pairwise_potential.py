"""A learned potential of many bodies that conserves their momentum."""

import keras
from keras import ops

from .._checks import check_integer
from .radial_potential import RadialPotential


@keras.saving.register_keras_serializable(package="orrery")
class PairwisePotential(RadialPotential):
    """Energies of pairs of bodies, functions of their squared distances.

    `V = sum_{i<j} u(|q_i - q_j|^2)` with the `u` of `RadialPotential`. Since V
    depends on differences alone, action equals reaction: `sum_i F_i = 0`, and
    the total momentum is conserved, which an outer field would break. Bodies
    are alike.

    Args:
        num_bodies: int of at least 2.
        hidden_dim: int, hidden width of `u`. Defaults to `32`.

    Call arguments:
        q: float tensor `(..., num_bodies * D)`, the bodies one after another.

    Returns:
        Energies, float tensor `(...)`.

    Raises:
        ValueError: if an argument is out of its range, or at build if the
            width is no multiple of `num_bodies`.

    Example:
    >>> potential = PairwisePotential(num_bodies=3)
    >>> q = keras.random.normal((5, 6))
    >>> energies = potential(q)
    >>> force = keras.ops.reshape(potential.force(q), (5, 3, 2))
    >>> bool(keras.ops.max(keras.ops.abs(keras.ops.sum(force, 1))) < 1e-5)
    True

    Reference:
        - [Noether, 1918](https://arxiv.org/abs/physics/0503066), what
          a symmetry conserves.
        - [Sanchez-Gonzalez et al., 2019](https://arxiv.org/abs/1909.12790),
          learned energies of interacting bodies.
    """

    def __init__(self, num_bodies, hidden_dim=32, **kwargs):
        super().__init__(hidden_dim, **kwargs)
        check_integer("num_bodies", num_bodies, 2)
        self.num_bodies = int(num_bodies)

    def build(self, q_shape, context_shape=None):
        if q_shape[-1] % self.num_bodies:
            raise ValueError(
                "The number of positions must be a multiple of `num_bodies`. "
                f"Received: {q_shape[-1]} positions, "
                f"num_bodies={self.num_bodies}"
            )
        super().build(q_shape, context_shape)

    def _differences(self, q):
        """`q_i - q_j`, `(..., n, n, D)`, and their squared lengths."""
        shape = ops.shape(q)
        bodies = ops.reshape(q, (*shape[:-1], self.num_bodies, -1))
        difference = bodies[..., :, None, :] - bodies[..., None, :, :]
        square = ops.sum(difference * difference, axis=-1)
        return difference, square

    def energy(self, q, context=None):
        _, square = self._differences(q)
        # Every pair is there twice; a body with itself was made to give zero.
        return 0.5 * ops.sum(self.of_square(square), axis=(-2, -1))

    def force(self, q, context=None):
        difference, square = self._differences(q)
        slope = self.slope_of_square(square)
        forces = ops.sum(-2.0 * slope[..., None] * difference, axis=-2)
        return ops.reshape(forces, ops.shape(q))

    def get_config(self):
        return {**super().get_config(), "num_bodies": self.num_bodies}
