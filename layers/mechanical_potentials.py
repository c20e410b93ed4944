"""The named potentials of mechanics, in dimensionless units."""

import keras
from keras import ops

from .._checks import check_real
from .potential import Potential


def _positive(name, value):
    check_real(name, value, "above 0", lambda x: x > 0)
    return float(value)


@keras.saving.register_keras_serializable(package="orrery")
class HarmonicPotential(Potential):
    """Springs, stiffening ones with `quartic`.

    `V = sum_i omega^2 q_i^2 / 2 + quartic q_i^4 / 4`.

    Args:
        omega: float > 0, angular frequency at unit mass. Defaults to `1`.
        quartic: float >= 0. Defaults to `0`.

    Call arguments:
        q: float tensor `(..., n)`.

    Returns:
        Energies, float tensor `(...)`.

    Raises:
        ValueError: if `omega` or `quartic` is out of its range.

    Example:
    >>> float(HarmonicPotential(omega=2.0).energy(keras.ops.ones((1,))))
    2.0

    Reference:
        - [Hairer, Lubich, Wanner, 2006](https://doi.org/10.1007/3-540-30666-8)
    """

    def __init__(self, omega=1.0, quartic=0.0, **kwargs):
        super().__init__(**kwargs)
        self.omega = _positive("omega", omega)
        check_real("quartic", quartic, "from 0 on", lambda x: x >= 0)
        self.quartic = float(quartic)

    def energy(self, q, context=None):
        square = q * q
        return ops.sum(
            0.5 * self.omega**2 * square + 0.25 * self.quartic * square**2,
            axis=-1,
        )

    def force(self, q, context=None):
        return -q * (self.omega**2 + self.quartic * q * q)

    def get_config(self):
        return {
            **super().get_config(),
            "omega": self.omega,
            "quartic": self.quartic,
        }


@keras.saving.register_keras_serializable(package="orrery")
class PendulumPotential(Potential):
    """`V = strength sum_i (1 - cos q_i)`, one pendulum per angle.

    Args:
        strength: float > 0, weight times length. Defaults to `1`.

    Call arguments:
        q: float tensor `(..., n)`, angles in radians, 0 hanging down.

    Returns:
        Energies, float tensor `(...)`.

    Raises:
        ValueError: if `strength` is not positive.

    Example:
    >>> float(PendulumPotential(3.0).energy(keras.ops.zeros((1,))))
    0.0

    Reference:
        - [Hairer, Lubich, Wanner, 2006](https://doi.org/10.1007/3-540-30666-8)
    """

    def __init__(self, strength=1.0, **kwargs):
        super().__init__(**kwargs)
        self.strength = _positive("strength", strength)

    def energy(self, q, context=None):
        return self.strength * ops.sum(1.0 - ops.cos(q), axis=-1)

    def force(self, q, context=None):
        return -self.strength * ops.sin(q)

    def get_config(self):
        return {**super().get_config(), "strength": self.strength}


@keras.saving.register_keras_serializable(package="orrery")
class HenonHeilesPotential(Potential):
    """`V = (x^2 + y^2) / 2 + x^2 y - y^3 / 3`; bounded below energy 1/6.

    Call arguments:
        q: float tensor `(..., 2)`, x and y.

    Returns:
        Energies, float tensor `(...)`.

    Raises:
        ValueError: at build, if positions are not two numbers.

    Example:
    >>> float(HenonHeilesPotential().energy(keras.ops.array([1.0, 0.0])))
    0.5

    Reference:
        - [Henon and Heiles, 1964](https://doi.org/10.1086/109234)
    """

    def build(self, q_shape, context_shape=None):
        if q_shape[-1] != 2:
            raise ValueError(
                f"`q` must hold two numbers, x and y. Received: {q_shape[-1]}"
            )
        super().build(q_shape, context_shape)

    def energy(self, q, context=None):
        x, y = q[..., 0], q[..., 1]
        return 0.5 * (x * x + y * y) + x * x * y - y**3 / 3.0

    def force(self, q, context=None):
        x, y = q[..., 0], q[..., 1]
        return -ops.stack([x + 2.0 * x * y, y + x * x - y * y], axis=-1)


@keras.saving.register_keras_serializable(package="orrery")
class KeplerPotential(Potential):
    """`V = -strength / |q|`, `q` pointing from one body to the other.

    Args:
        strength: float > 0, masses times gravitational constant. Defaults to
            `1`.

    Call arguments:
        q: float tensor `(..., n)`; at 0 energy and force are not finite.

    Returns:
        Energies, float tensor `(...)`.

    Raises:
        ValueError: if `strength` is not positive.

    Example:
    >>> float(KeplerPotential().energy(keras.ops.array([0.0, 2.0])))
    -0.5

    Reference:
        - [Hairer, Lubich, Wanner, 2006](https://doi.org/10.1007/3-540-30666-8)
    """

    def __init__(self, strength=1.0, **kwargs):
        super().__init__(**kwargs)
        self.strength = _positive("strength", strength)

    def energy(self, q, context=None):
        return -self.strength * ops.rsqrt(ops.sum(q * q, axis=-1))

    def force(self, q, context=None):
        square = ops.sum(q * q, axis=-1, keepdims=True)
        return -self.strength * q * ops.rsqrt(square) / square

    def get_config(self):
        return {**super().get_config(), "strength": self.strength}
