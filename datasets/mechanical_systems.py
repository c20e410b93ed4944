"""The physical systems themselves, in NumPy: what learned ones are held to."""

import collections.abc
import dataclasses

import numpy as np

from .._checks import check_integer, check_real


@dataclasses.dataclass(frozen=True)
class MechanicalSystem:
    """A system with the energy `H(q, p) = |p|^2 / (2 m) + V(q)`.

    `dq/dt = p / m`, `dp/dt = F(q) = -grad V(q)`. Everything takes and gives
    float64 arrays whose last axis has `dim` entries, any axes before it.

    Args:
        name: string.
        dim: int, number n of positions.
        potential: function from `(..., n)` to V, `(...)`.
        force: function from `(..., n)` to F, `(..., n)`.
        draw: function from a `numpy.random.Generator` and a number of
            trajectories to the initial `(q, p)`, both `(trajectories, n)`.
        mass: float, m > 0. Defaults to `1.0`.

    Raises:
        ValueError: if `dim` is not a positive integer, or `mass` not a positive
            number.
        TypeError: if `potential`, `force` or `draw` is no function.

    Example:
    >>> spring = MechanicalSystem(
    ...     name="spring",
    ...     dim=1,
    ...     potential=lambda q: 0.5 * np.sum(q**2, axis=-1),
    ...     force=lambda q: -q,
    ...     draw=lambda generator, count: generator.normal(size=(2, count, 1)),
    ... )
    >>> float(spring.energy([1.0], [1.0]))
    1.0

    Reference:
        - [Hairer, Lubich, Wanner, 2006](https://doi.org/10.1007/3-540-30666-8)
    """

    name: str
    dim: int
    potential: collections.abc.Callable
    force: collections.abc.Callable
    draw: collections.abc.Callable
    mass: float = 1.0

    def __post_init__(self):
        check_integer("dim", self.dim, 1)
        check_real("mass", self.mass, "above 0", lambda mass: mass > 0)
        for name in ("potential", "force", "draw"):
            given = getattr(self, name)
            if not callable(given):
                raise TypeError(
                    f"`{name}` must be a function. Received: {name}={given!r}"
                )

    def energy(self, q, p):
        """H of positions and momenta `(..., n)`, an array `(...)`."""
        kinetic = np.sum(np.square(p, dtype="float64"), axis=-1)
        return kinetic / (2 * self.mass) + self.potential(np.asarray(q))

    def velocity(self, p):
        """`dq/dt` of momenta `(..., n)`."""
        return np.asarray(p, "float64") / self.mass


def mass_spring_system(convention="unit"):
    """A mass on a spring.

    Args:
        convention: `"unit"`, `H = (q^2 + p^2) / 2`, or `"hnn"`,
            `H = q^2 + p^2`, with initial states of those experiments: radius
            `|(q, p)|` uniform in [0.1, 1]. Defaults to `"unit"`.

    Returns:
        A `MechanicalSystem` with n = 1.

    Raises:
        ValueError: if the convention is another.

    Example:
    >>> float(mass_spring_system("hnn").energy([1.0], [1.0]))
    2.0

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563), "hnn".
    """
    stiffness = {"unit": 1.0, "hnn": 2.0}[_known(convention)]
    return MechanicalSystem(
        name="mass_spring",
        dim=1,
        potential=lambda q: 0.5 * stiffness * np.sum(q**2, axis=-1),
        force=lambda q: -stiffness * q,
        draw=lambda generator, count: _ring(generator, count, 0.1, 1.0),
        mass=1.0 / stiffness,
    )


def pendulum_system(convention="unit"):
    """A pendulum; q is its angle in radians, 0 hanging down.

    Args:
        convention: `"unit"`, `H = p^2 / 2 + 1 - cos q`, started with a radius
            `|(q, p)|` uniform in [0.5, 1.8]; or `"hnn"`,
            `H = p^2 + 3 (1 - cos q)`, radius in [1.3, 2.3]. None of them goes
            over the top. Defaults to `"unit"`.

    Returns:
        A `MechanicalSystem` with n = 1.

    Raises:
        ValueError: if the convention is another.

    Example:
    >>> float(pendulum_system().energy([0.0], [2.0]))
    2.0

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563), "hnn".
    """
    hnn = _known(convention) == "hnn"
    strength = 3.0 if hnn else 1.0
    low, high = (1.3, 2.3) if hnn else (0.5, 1.8)
    return MechanicalSystem(
        name="pendulum",
        dim=1,
        potential=lambda q: strength * np.sum(1 - np.cos(q), axis=-1),
        force=lambda q: -strength * np.sin(q),
        draw=lambda generator, count: _ring(generator, count, low, high),
        mass=0.5 if hnn else 1.0,
    )


def kepler_system():
    """Two bodies under gravity, in relative coordinates of the plane.

    `H = |p|^2 / 2 - 1 / |q|`. Near-circular orbits: they start at a distance
    `r` uniform in [0.8, 1.2], at right angles to it and with 0.95 to 1.05 of
    the circular speed `1 / sqrt(r)`, either way round; `r` then stays within
    [0.65, 1.48].

    Returns:
        A `MechanicalSystem` with n = 2.

    Example:
    >>> float(kepler_system().energy([1.0, 0.0], [0.0, 1.0]))
    -0.5

    Reference:
        - [Hairer, Lubich, Wanner, 2006](https://doi.org/10.1007/3-540-30666-8)
    """

    def potential(q):
        return -1.0 / np.linalg.norm(q, axis=-1)

    def force(q):
        return -q / np.linalg.norm(q, axis=-1, keepdims=True) ** 3

    def draw(generator, count):
        radius, angle, fraction, way = generator.uniform(size=(4, count, 1))
        radius, angle = 0.8 + 0.4 * radius, 2 * np.pi * angle
        speed = (0.95 + 0.1 * fraction) / np.sqrt(radius)
        out = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
        along = np.stack([-out[:, 1], out[:, 0]], axis=-1)
        return radius * out, np.where(way < 0.5, -speed, speed) * along

    return MechanicalSystem("kepler", 2, potential, force, draw)


def henon_heiles_system():
    """A star in a galaxy's plane, the textbook system between order and chaos.

    `H = (|p|^2 + |q|^2) / 2 + x^2 y - y^3 / 3`, `q = (x, y)`. The energy is
    uniform in [1/50, 1/8], below the escape at 1/6: the position is uniform in
    the disc `|q| < 0.4` where the potential leaves some of it, the direction
    of the momentum uniform.

    Returns:
        A `MechanicalSystem` with n = 2.

    Example:
    >>> energy = henon_heiles_system().energy([0.0, 1.0], [0.0, 0.0])
    >>> round(float(energy), 4)  # of the escape
    0.1667

    Reference:
        - [Henon and Heiles, 1964](https://doi.org/10.1086/109234)
    """

    def potential(q):
        x, y = np.moveaxis(q, -1, 0)
        return 0.5 * (x**2 + y**2) + x**2 * y - y**3 / 3

    def force(q):
        x, y = np.moveaxis(q, -1, 0)
        return np.stack([-x - 2 * x * y, -y - x**2 + y**2], axis=-1)

    def draw(generator, count):
        q, p = np.zeros((2, count, 2))
        for index in range(count):
            energy = generator.uniform(1 / 50, 1 / 8)
            while True:
                q[index] = generator.uniform(-0.4, 0.4, size=2)
                kinetic = energy - potential(q[index])
                if kinetic > 0 and np.sum(q[index] ** 2) < 0.16:
                    break
            angle = generator.uniform(0, 2 * np.pi)
            p[index] = np.sqrt(2 * kinetic) * np.array(
                [np.cos(angle), np.sin(angle)]
            )
        return q, p

    return MechanicalSystem("henon_heiles", 2, potential, force, draw)


def _ring(generator, count, low, high):
    """States of one position whose radius in phase space is uniform."""
    state = generator.uniform(-1, 1, size=(count, 2))
    radius = generator.uniform(low, high, size=(count, 1))
    state *= radius / np.linalg.norm(state, axis=-1, keepdims=True)
    return state[:, :1], state[:, 1:]


def _known(convention):
    if convention not in ("unit", "hnn"):
        raise ValueError(
            "`convention` must be 'unit' or 'hnn'. "
            f"Received: convention={convention!r}"
        )
    return convention
