"""Solutions of stiff differential equations at given times, by SciPy."""

import numpy as np

METHODS = ("LSODA", "BDF", "Radau")
# Evaluations between two times after which an integrator is taken to be lost;
# some of them never give up by themselves.
MOST_CALLS = 200_000


def stiff_path(
    rate, jacobian, state, times, method="LSODA", rtol=1e-6, atol=1e-5
):
    """The states at `times` of `dy/dt = rate(t, y)`.

    Args:
        rate: function of a time and a state `(n,)`, the derivative.
        jacobian: function of the same, `d rate / d state`, `(n, n)`.
        state: array `(n,)`, at the first of the times.
        times: ascending numbers.
        method: `"LSODA"`, `"BDF"` or `"Radau"`. Defaults to `"LSODA"`.
        rtol: float > 0, allowed error relative to a state. Defaults to `1e-6`.
        atol: float > 0, or array `(n,)`, what is allowed beside it. Defaults to
            `1e-5`.

    Returns:
        A float64 array `(len(times), n)`, the given state first.

    Raises:
        ArithmeticError: if the integrator gives up or takes too long, or a
            state is not finite.
        ImportError: if SciPy is not installed; says how to install it.
        ValueError: for another method.

    Example:
    >>> path = stiff_path(
    ...     lambda t, y: [-1e4 * (y[0] - np.cos(t))],
    ...     lambda t, y: [[-1e4]], np.ones(1), (0.0, 1.0),
    ... )
    >>> bool(abs(path[-1, 0] - np.cos(1)) < 1e-3)
    True
    """
    try:
        from scipy.integrate import solve_ivp
    except ImportError as error:
        raise ImportError(
            "Stiff equations are integrated by SciPy: "
            "pip install 'orrery[science]'"
        ) from error
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {METHODS}. Received: method={method!r}"
        )
    times = np.asarray(times, "float64")
    left, ahead = MOST_CALLS, 1

    def counted(time, y):
        nonlocal left, ahead
        if ahead < len(times) and time > times[ahead]:
            left = MOST_CALLS
            ahead = np.searchsorted(times, time)
        left -= 1
        if left < 0:
            raise ArithmeticError(
                f"{method} stopped at t = {time:g} of {times[-1]:g}: no step "
                "it tries is accurate enough."
            )
        return rate(time, y)

    solution = solve_ivp(
        counted,
        (times[0], times[-1]),
        np.asarray(state, "float64"),
        method=method,
        t_eval=times,
        jac=jacobian,
        rtol=rtol,
        atol=atol,
    )
    path = solution.y.T
    if not solution.success or not np.isfinite(path).all():
        reached = solution.t[-1] if len(solution.t) else times[0]
        raise ArithmeticError(
            f"{method} stopped at t = {reached:g} of {times[-1]:g}: "
            f"{solution.message}"
        )
    return path
