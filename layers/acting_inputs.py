"""What acts on a step from outside: controls and disturbances."""

from keras import ops


def acting_inputs(u, control_dim, d, disturbance_dim):
    """Controls and disturbances side by side.

    Args:
        u: float tensor `(batch, steps, control_dim)`, or `None` if 0.
        control_dim: int >= 0.
        d: float tensor `(batch, steps, disturbance_dim)`, or `None` if 0.
        disturbance_dim: int >= 0.

    Returns:
        Float tensor `(batch, steps, control_dim + disturbance_dim)`, or `None`
        if there is neither.

    Raises:
        ValueError: if one is missing, not expected, or of another width.
    """
    given = []
    for name, x, width in (("u", u, control_dim), ("d", d, disturbance_dim)):
        if (0 if x is None else x.shape[-1]) != width:
            what = None if x is None else tuple(x.shape)
            raise ValueError(
                f"`{name}` must have {width} entries a step (`None` if 0). "
                f"Received: shape {what}"
            )
        if x is not None:
            given.append(x)
    return ops.concatenate(given, axis=-1) if given else None
