"""Steps of Hamilton's equations with a separable Hamiltonian."""

import itertools

from .._checks import check_integer, check_real
from .runge_kutta import TABLEAUX, runge_kutta

_W1 = 1 / (2 - 2 ** (1 / 3))
_W0 = 1 - 2 * _W1
# Kicks `p += c h F(q)` and drifts `q += d h v(p)` in turn, a kick first.
SPLITTINGS = {
    "symplectic_euler": ((1.0,), (1.0,)),
    "leapfrog": ((0.5, 0.5), (1.0,)),
    "yoshida4": (
        (_W1 / 2, (_W1 + _W0) / 2, (_W0 + _W1) / 2, _W1 / 2),
        (_W1, _W0, _W1),
    ),
}
METHODS = (*SPLITTINGS, *TABLEAUX)


def check_steps(step_size, num_steps, method):
    """Raise unless these can be integrated with.

    Raises:
        ValueError: if `step_size` is not a positive number, `num_steps` not a
            positive integer or `method` unknown.
    """
    check_real("step_size", step_size, "above 0", lambda size: size > 0)
    check_integer("num_steps", num_steps, 1)
    if method not in METHODS:
        raise ValueError(
            f"The integrator must be one of {METHODS}. Received: {method!r}"
        )


def integrate(
    force,
    velocity,
    q,
    p,
    step_size,
    num_steps,
    method="leapfrog",
    reverse=False,
):
    """Integrate `dq/dt = v(p)`, `dp/dt = F(q)` in steps of one size.

    Exact flows of the kinetic and of the potential energy take turns, so every
    step is symplectic whatever `F = -grad V` and `v = grad T` are:
    `"symplectic_euler"` (order 1), `"leapfrog"` (kick, drift, kick; order 2)
    and `"yoshida4"` (three leapfrogs; order 4). A force is evaluated once per
    position: S leapfrogs cost S + 1 forces. `"forward_euler"` and `"rk4"` are
    the controls, which are not symplectic.

    Plain arithmetic: tensors of any backend, or NumPy arrays in float64.

    Args:
        force: function from `q` to `F(q)`, the shape of `q`.
        velocity: function from `p` to `v(p)`, the shape of `p`.
        q: positions.
        p: momenta.
        step_size: float h, the time of a step.
        num_steps: int S.
        method: one of `METHODS`. Defaults to `"leapfrog"`.
        reverse: bool. Undo the steps instead, the last first: exactly, but for
            rounding; the two controls step with -h, which does not undo them.
            Defaults to `False`.

    Returns:
        list of S + 1 pairs `(q, p)`, the given one first.

    Raises:
        ValueError: see `check_steps`.

    Reference:
        - [Yoshida, 1990](https://doi.org/10.1016/0375-9601(90)90092-3)
        - [Hairer, Lubich, Wanner, 2003](https://doi.org/10.1017/S0962492902000144)
    """
    check_steps(step_size, num_steps, method)
    if reverse:
        step_size = -step_size
    if method in TABLEAUX:

        def field(q, p):
            return velocity(p), force(q)

        return runge_kutta(field, (q, p), step_size, num_steps, method)
    kicks, drifts = SPLITTINGS[method]
    # Symplectic Euler kicks first; what undoes it drifts first.
    kicks += (0.0,) * (1 + len(drifts) - len(kicks))
    if reverse:
        kicks, drifts = kicks[::-1], drifts[::-1]
    states, known = [(q, p)], None
    for _ in range(num_steps):
        for kick, drift in itertools.zip_longest(kicks, drifts, fillvalue=0.0):
            if kick:
                known = force(q) if known is None else known
                p = p + kick * step_size * known
            if drift:
                q, known = q + drift * step_size * velocity(p), None
        states.append((q, p))
    return states
