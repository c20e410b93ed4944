"""Trajectories of mechanical systems, integrated to the limit of float64."""

import numpy as np

from .._checks import check_finite, check_integer, check_real
from .mechanical_systems import (
    henon_heiles_system,
    kepler_system,
    mass_spring_system,
    pendulum_system,
)

TOLERANCE = 1e-12


def mass_spring(
    num_trajectories=50, num_points=30, convention="unit", **kwargs
):
    """Trajectories of a mass on a spring; see `simulate`.

    Args:
        num_trajectories: int. Defaults to `50`.
        num_points: int, points of each. Defaults to `30`.
        convention: `"unit"` or `"hnn"`, see `mass_spring_system`.
        **kwargs: further arguments of `simulate`.

    Returns:
        A dict of arrays, see `simulate`; n = 1.

    Raises:
        ImportError, ValueError: see `simulate`.

    Example:
    >>> data = mass_spring(num_trajectories=3, num_points=20)
    >>> data["q"].shape, data["energy"].shape
    ((3, 20, 1), (3, 20))

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563), "hnn".
    """
    system = mass_spring_system(convention)
    return simulate(system, num_trajectories, num_points, **kwargs)


def pendulum(num_trajectories=50, num_points=45, convention="unit", **kwargs):
    """Trajectories of a pendulum; see `simulate`.

    Args:
        num_trajectories: int. Defaults to `50`.
        num_points: int, points of each. Defaults to `45`.
        convention: `"unit"` or `"hnn"`, see `pendulum_system`.
        **kwargs: further arguments of `simulate`.

    Returns:
        A dict of arrays, see `simulate`; n = 1.

    Raises:
        ImportError, ValueError: see `simulate`.

    Example:
    >>> data = pendulum(convention="hnn", step_size=3 / 44, noise=0.1)
    >>> data["q"].shape  # the data of the HNN paper, by another seed
    (50, 45, 1)

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563), "hnn".
    """
    system = pendulum_system(convention)
    return simulate(system, num_trajectories, num_points, **kwargs)


def kepler(num_trajectories=50, num_points=100, **kwargs):
    """Near-circular orbits of two bodies, relative coordinates; see `simulate`.

    Args:
        num_trajectories: int. Defaults to `50`.
        num_points: int, points of each. Defaults to `100`.
        **kwargs: further arguments of `simulate`.

    Returns:
        A dict of arrays, see `simulate`; n = 2.

    Raises:
        ImportError, ValueError: see `simulate`.

    Example:
    >>> data = kepler(num_trajectories=2)
    >>> distance = np.linalg.norm(data["q"], axis=-1)
    >>> bool((distance > 0.65).all() and (distance < 1.48).all())
    True

    Reference:
        - [Hairer, Lubich, Wanner, 2006](https://doi.org/10.1007/3-540-30666-8)
    """
    return simulate(kepler_system(), num_trajectories, num_points, **kwargs)


def henon_heiles(num_trajectories=50, num_points=100, **kwargs):
    """Trajectories of the Henon-Heiles system; see `simulate`.

    Args:
        num_trajectories: int. Defaults to `50`.
        num_points: int, points of each. Defaults to `100`.
        **kwargs: further arguments of `simulate`.

    Returns:
        A dict of arrays, see `simulate`; n = 2.

    Raises:
        ImportError, ValueError: see `simulate`.

    Example:
    >>> data = henon_heiles(num_trajectories=2)
    >>> bool((data["energy"] < 1 / 6).all())
    True

    Reference:
        - [Henon and Heiles, 1964](https://doi.org/10.1086/109234)
    """
    system = henon_heiles_system()
    return simulate(system, num_trajectories, num_points, **kwargs)


def simulate(
    system,
    num_trajectories,
    num_points,
    step_size=0.1,
    seed=0,
    noise=0.0,
    friction=0.0,
    control=None,
    initial=None,
):
    """Integrate a system by DOP853 (SciPy) at a tolerance of 1e-12.

    `dq/dt = p / m`, `dp/dt = F(q) - friction p + u(t)`. The control u is held
    from each point to the next, as a controller with a clock holds it.

    Args:
        system: a `MechanicalSystem`.
        num_trajectories: int, at least 1.
        num_points: int, at least 2, points of each trajectory.
        step_size: float > 0, time between two points. Defaults to `0.1`.
        seed: int >= 0, of the initial states and, apart from them, of the
            noise. Defaults to `0`.
        noise: float >= 0, standard deviation of what is added to q and p.
            Defaults to `0.0`.
        friction: float >= 0, in 1 / time. Defaults to `0.0`.
        control: function from the time to u, a number or an array `(n,)`; or
            an array `(num_trajectories, num_points, n)`. At the last point
            it enters `dp` alone: no step follows. Defaults to `None`, no
            control.
        initial: pair of arrays `(num_trajectories, n)`, q and p at time 0,
            instead of those that the system draws. Defaults to `None`.

    Returns:
        A dict of float64 arrays: `q`, `p` `(trajectories, points, n)`, noise
        included; `dq`, `dp`, their derivatives, and `energy`
        `(trajectories, points)`, H, both without noise; `t`
        `(trajectories, points)`; with a control `u` like `q`.

    Raises:
        ImportError: if SciPy is not installed; says how to install it.
        ValueError: if an argument is not as described, or the motion leaves
            what can be integrated (an escape to infinity).

    Example:
    >>> rest = np.zeros((1, 1)), np.zeros((1, 1))
    >>> pushed = simulate(
    ...     mass_spring_system(), 1, 11, initial=rest, control=lambda t: 1.0
    ... )
    >>> bool(np.allclose(pushed["q"][0, :, 0], 1 - np.cos(pushed["t"][0])))
    True

    Reference:
        - [Hairer, Norsett, Wanner, 1993](https://doi.org/10.1007/978-3-540-78862-1),
          DOP853.
    """
    _check(num_trajectories, num_points, step_size, seed, noise, friction)
    q, p = _initial(system, num_trajectories, seed, initial)
    time = step_size * np.arange(num_points)
    shape = (num_trajectories, num_points, system.dim)
    u = _control(control, time, shape)
    path = _integrate(system, q, p, time, friction, u)
    if not np.isfinite(path).all():
        raise ValueError(f"A trajectory of {system.name} is not finite.")
    q, p = np.moveaxis(path, 0, 2)
    data = {
        "dq": system.velocity(p),
        "dp": system.force(q) - friction * p + (0.0 if u is None else u),
        "t": np.tile(time, (num_trajectories, 1)),
        "energy": system.energy(q, p),
    }
    generator = np.random.default_rng([seed, 1])
    data["q"] = q + noise * generator.normal(size=shape)
    data["p"] = p + noise * generator.normal(size=shape)
    return data if u is None else {**data, "u": u}


def _initial(system, count, seed, initial):
    if initial is None:
        return system.draw(np.random.default_rng([seed, 0]), count)
    parts = [np.asarray(part, "float64") for part in initial]
    shapes = [part.shape for part in parts]
    if shapes != [(count, system.dim)] * 2:
        raise ValueError(
            "`initial` must be a pair of arrays of the shape "
            f"{(count, system.dim)}. Received: arrays of the shapes {shapes}"
        )
    check_finite("initial", np.stack(parts))
    return parts


def _control(control, time, shape):
    """The control at every point, `(trajectories, points, n)`, or `None`."""
    if control is None:
        return None
    if callable(control):
        values = [_control_at(control, t, shape[2:]) for t in time]
        values = np.broadcast_to(values, shape).copy()
    else:
        values = np.asarray(control, "float64")
    if values.shape != shape:
        raise ValueError(
            f"`control` must be a function or have the shape {shape}. "
            f"Received: {values.shape}"
        )
    # DOP853 would look for a step small enough for NaN, for ever.
    check_finite("control", values)
    return values


def _control_at(control, time, shape):
    value = np.asarray(control(time), "float64")
    if value.shape not in ((), shape):
        raise ValueError(
            "`control` must return a number or an array of the shape "
            f"{shape}. Received: an array of the shape {value.shape}"
        )
    return np.broadcast_to(value, shape)


def _integrate(system, q, p, time, friction, u):
    """States `(points, 2, trajectories, n)`, all trajectories at once."""
    solve_ivp = _solve_ivp()
    shape = (2, *q.shape)

    def field(_, state, push):
        q, p = state.reshape(shape)
        force = system.force(q) - friction * p + push
        return np.stack([system.velocity(p), force]).ravel()

    def solve(state, times, push):
        found = solve_ivp(
            field,
            (times[0], times[-1]),
            state,
            method="DOP853",
            t_eval=times,
            args=(push,),
            rtol=TOLERANCE,
            atol=TOLERANCE,
        )
        if not found.success:
            raise ValueError(
                f"A trajectory of {system.name} cannot be integrated: "
                f"{found.message}"
            )
        return found.y.T

    state = np.stack([q, p]).ravel()
    if u is None:
        states = solve(state, time, 0.0)
    else:
        states = [state]
        for k in range(len(time) - 1):
            push = u[:, k]
            states.append(solve(states[-1], time[k : k + 2], push)[-1])
    return np.reshape(states, (len(time), *shape))


def _solve_ivp():
    try:
        from scipy.integrate import solve_ivp
    except ModuleNotFoundError as error:
        raise ImportError(
            'SciPy is not installed. Run: pip install "orrery[science]"'
        ) from error
    return solve_ivp


def _check(num_trajectories, num_points, step_size, seed, noise, friction):
    for name, value, smallest in (
        ("num_trajectories", num_trajectories, 1),
        ("num_points", num_points, 2),
        ("seed", seed, 0),
    ):
        check_integer(name, value, smallest)
    check_real("step_size", step_size, "above 0", lambda size: size > 0)
    for name, value in (("noise", noise), ("friction", friction)):
        check_real(name, value, "from 0 on", lambda v: v >= 0)
