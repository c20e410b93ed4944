"""Explicit Runge-Kutta steps: their order, and what they refuse."""

import numpy as np
import pytest
from orrery.layers.runge_kutta import runge_kutta


@pytest.mark.parametrize(
    ("method", "ratio"), [("forward_euler", 2), ("rk4", 16)]
)
def test_order(method, ratio):
    """The error at time 1 of `dx/dt = x` when the step is halved."""
    errors = []
    for num_steps in (50, 100):
        *_, (end,) = runge_kutta(
            lambda x: (x,), (1.0,), 1 / num_steps, num_steps, method
        )
        errors.append(abs(end - np.e))
    assert errors[0] / errors[1] == pytest.approx(ratio, rel=0.05)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="`method`.*'rk4'.*method='midpoint'"):
        runge_kutta(lambda x: (x,), (1.0,), 0.1, 1, "midpoint")
