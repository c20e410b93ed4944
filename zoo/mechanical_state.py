"""States of mechanical models in the forms they are given in, checked."""

import numpy as np

from .._checks import check_finite


def split_state(state):
    """Positions and momenta of states `(..., 2 n)`, tensors or arrays.

    Raises:
        ValueError: if the width is odd.
    """
    width = state.shape[-1]
    if not width or width % 2:
        raise ValueError(
            "The width of a state must be even: its halves are positions and "
            f"momenta. Received: width={width}"
        )
    return state[..., : width // 2], state[..., width // 2 :]


def unpack(inputs, dim, num_steps, num_controls):
    """Positions, momenta and control of a batch, as far as given.

    Args:
        inputs: a dict with `"q"`, `"p"` `(B, n)` and perhaps `"controls"`
            `(B, S, m)`; a tuple of these; or one tensor `(B, 2 n)`.
        dim: int, n.
        num_steps: int, S.
        num_controls: int, m.

    Returns:
        q, p and controls, the last `None` where none were given.

    Raises:
        ValueError: if a width is not n, or the controls are not `(S, m)`.
    """
    if isinstance(inputs, dict):
        if not {"q", "p"} <= set(inputs):
            raise ValueError(
                "`inputs` must have the keys 'q' and 'p', and 'controls' for a "
                f"model with controls. Received: {list(inputs)}"
            )
        q, p = inputs["q"], inputs["p"]
        controls = inputs.get("controls")
    elif isinstance(inputs, (tuple, list)):
        if len(inputs) not in (2, 3):
            raise ValueError(
                "`inputs` must be (q, p) or (q, p, controls). Received: "
                f"{len(inputs)} parts"
            )
        q, p, controls = (*inputs, None)[:3]
    else:
        q, p = split_state(inputs)
        controls = None
    for name, x in (("q", q), ("p", p)):
        if len(x.shape) != 2 or x.shape[-1] != dim:
            raise ValueError(
                f"`{name}` must have the shape (batch, {dim}). "
                f"Received: {tuple(x.shape)}"
            )
    expected = (num_steps, num_controls)
    given = (num_steps, 0) if controls is None else controls.shape[1:]
    if tuple(given) != expected:
        raise ValueError(
            f"`controls` must have the shape (batch, {num_steps}, "
            f"{num_controls}). Received: (batch, {given[0]}, {given[1]})"
        )
    return q, p, controls


def check_inputs(inputs):
    """Raise unless NumPy arrays, in a form that `unpack` takes, are finite.

    Raises:
        ValueError: names the part that is not, and where.
    """
    parts = {"inputs": inputs}
    if isinstance(inputs, dict):
        parts = inputs
    elif isinstance(inputs, (tuple, list)):
        parts = dict(zip(("q", "p", "controls"), inputs, strict=False))
    for name, part in parts.items():
        if isinstance(part, np.ndarray):
            check_finite(name, part)


def check_array(name, array, shape, dtype):
    """The array in that dtype.

    Raises:
        ValueError: if it has another shape, is empty, or not finite.
    """
    array = np.asarray(array)
    if array.shape != shape or not len(array):
        raise ValueError(
            f"`{name}` must have the shape {('batch', *shape[1:])}, the "
            f"batch that of `q`. Received: {array.shape}"
        )
    array = array.astype(dtype)
    check_finite(name, array)
    return array
