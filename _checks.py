"""Errors that name the argument, what it was, and what is allowed."""

import math
import numbers

import numpy as np


def check_real(name, value, allowed, fine):
    """Raise a ValueError unless `value` is a finite number and `fine` of it."""
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or not math.isfinite(value)
        or not fine(value)
    ):
        raise ValueError(
            f"`{name}` must be a finite number {allowed}. "
            f"Received: {name}={value!r}"
        )


def check_integer(name, value, least, allowed=None):
    """Raise a ValueError unless `value` is an integer of at least `least`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Integral)
        or value < least
    ):
        allowed = allowed or f"an integer of at least {least}"
        raise ValueError(
            f"`{name}` must be {allowed}. Received: {name}={value!r}"
        )


def check_finite(name, array):
    """Raise a ValueError unless every number of a NumPy array is finite."""
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        index = tuple(map(int, wrong[0]))
        raise ValueError(
            f"`{name}` must be finite. Received: {array[index]} at {index}"
        )
