"""Networks of equal size: the widest that a number of weights allows."""


def widest(size, parameters):
    """The largest width whose network has at most so many weights.

    Args:
        size: function from a width to the number of weights, increasing.
        parameters: int.

    Raises:
        ValueError: if not even one unit fits.
    """
    width = 0
    while size(width + 1) <= parameters:
        width += 1
    if not width:
        raise ValueError(
            f"`parameters` must be at least {size(1)}. "
            f"Received: parameters={parameters}"
        )
    return width
