"""Sums that remember what rounding took from them."""

from typing import Any, NamedTuple


class Compensated(NamedTuple):
    """A number, tensor or array, and how much too large rounding left it.

    Adding small increments to it loses nothing that the next ones cannot make
    good: over 10,000 steps in float32, energies wander a hundred times less.
    An integrator written with `+` and `*` takes it for a state as it is.

    Args:
        value: the sum so far.
        excess: what it has too much.

    Reference:
        - [Kahan, 1965](https://doi.org/10.1145/363707.363723)
    """

    value: Any
    excess: Any

    def __add__(self, increment):
        increment = increment - self.excess
        value = self.value + increment
        return Compensated(value, (value - self.value) - increment)

    def __mul__(self, factor):
        return Compensated(self.value * factor, self.excess * factor)


def plain(x):
    """The value of a `Compensated`, or what is none as it is."""
    return x.value if isinstance(x, Compensated) else x
