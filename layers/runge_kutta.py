"""Explicit Runge-Kutta steps, which no structure survives."""

# For each stage the weights of those before it; last, the weights of a step.
TABLEAUX = {
    "forward_euler": ((), (1.0,)),
    "rk4": (
        (),
        (0.5,),
        (0.0, 0.5),
        (0.0, 0.0, 1.0),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}


def runge_kutta(field, state, step_size, num_steps, method="rk4"):
    """Integrate `dx/dt = f(x)` in explicit steps of one size.

    Args:
        field: function of the parts of a state, `f(*state)`, that returns as
            many derivatives.
        state: tuple of tensors of one backend, or of NumPy arrays.
        step_size: float h.
        num_steps: int S.
        method: `"forward_euler"` (order 1) or `"rk4"` (order 4).

    Returns:
        list of S + 1 states, the given one first.

    Raises:
        ValueError: if `method` is neither.

    Reference:
        - [Hairer, Norsett, Wanner, 1993](https://doi.org/10.1007/978-3-540-78862-1)
    """
    if method not in TABLEAUX:
        raise ValueError(
            f"`method` must be one of {tuple(TABLEAUX)}. "
            f"Received: method={method!r}"
        )
    *stages, last = TABLEAUX[method]

    def moved(state, weights, slopes):
        for weight, slope in zip(weights, slopes, strict=True):
            if weight:
                state = tuple(
                    x + weight * step_size * dx
                    for x, dx in zip(state, slope, strict=True)
                )
        return state

    states = [state]
    for _ in range(num_steps):
        slopes = []
        for weights in stages:
            slopes.append(field(*moved(state, weights, slopes)))
        state = moved(state, last, slopes)
        states.append(state)
    return states
