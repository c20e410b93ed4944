"""A learned potential of many bodies that conserves their momentum."""

import keras
from keras import ops

from .mlp_potential import log_cosh
from .potential import Potential


@keras.saving.register_keras_serializable(package="orrery")
class PairwisePotential(Potential):
    """Energies of pairs of bodies, functions of their squared distances.

    `V = sum_{i<j} u(|q_i - q_j|^2)` with
    `u(r) = sum_k a_k log cosh(w_k r + b_k) + c r`. Since V depends on
    differences alone, action equals reaction: `sum_i F_i = 0`, and the total
    momentum is conserved, which an outer field would break. Bodies are alike.

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
    """

    def __init__(self, num_bodies, hidden_dim=32, **kwargs):
        super().__init__(**kwargs)
        for name, value, least in (
            ("num_bodies", num_bodies, 2),
            ("hidden_dim", hidden_dim, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"`{name}` must be an integer of at least {least}. "
                    f"Received: {value!r}"
                )
        self.num_bodies = num_bodies
        self.hidden_dim = hidden_dim

    def build(self, q_shape, context_shape=None):
        if q_shape[-1] % self.num_bodies:
            raise ValueError(
                "The number of positions must be a multiple of `num_bodies`. "
                f"Received: {q_shape[-1]} positions, "
                f"num_bodies={self.num_bodies}"
            )
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

    def _differences(self, q):
        """`q_i - q_j`, `(..., n, n, D)`, and their squared lengths."""
        shape = ops.shape(q)
        bodies = ops.reshape(q, (*shape[:-1], self.num_bodies, -1))
        difference = bodies[..., :, None, :] - bodies[..., None, :, :]
        square = ops.sum(difference * difference, axis=-1)
        return difference, square

    def _hidden(self, square):
        return square[..., None] * self.kernel + self.bias

    def energy(self, q, context=None):
        _, square = self._differences(q)
        wells = log_cosh(self._hidden(square)) - log_cosh(self.bias * 1.0)
        pairs = ops.sum(wells * self.amplitude, axis=-1) + self.slope * square
        # Every pair is there twice; a body with itself was made to give zero.
        return 0.5 * ops.sum(pairs, axis=(-2, -1))

    def force(self, q, context=None):
        difference, square = self._differences(q)
        slope = self.slope + ops.sum(
            ops.tanh(self._hidden(square)) * self.amplitude * self.kernel,
            axis=-1,
        )
        forces = ops.sum(-2.0 * slope[..., None] * difference, axis=-2)
        return ops.reshape(forces, ops.shape(q))

    def get_config(self):
        return {
            **super().get_config(),
            "num_bodies": self.num_bodies,
            "hidden_dim": self.hidden_dim,
        }
