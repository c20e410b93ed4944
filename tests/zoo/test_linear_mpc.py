"""Quadratic programmes of control: the regulator, the box, soft limits."""

import numpy as np
import pytest

pytest.importorskip("osqp")
from orrery.zoo.linear_mpc import LinearMPC  # noqa: E402

pytestmark = pytest.mark.one_backend("torch")
A, B = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.5], [1.0]])


def prediction(state, steps):
    """Free response and gain of a double integrator."""
    powers = [np.linalg.matrix_power(A, n) for n in range(steps + 1)]
    free = np.stack([powers[n] @ state for n in range(1, steps + 1)])
    gain = np.zeros((2 * steps, steps))
    for h in range(steps):
        for j in range(h + 1):
            gain[2 * h : 2 * h + 2, j] = (powers[h - j] @ B)[:, 0]
    return free, gain


def regulator(steps, effort):
    """The first gain of the finite-horizon regulator, by Riccati."""
    weight = np.eye(2)
    for _ in range(steps):
        inner = effort + B.T @ weight @ B
        gain = np.linalg.solve(inner, B.T @ weight @ A)
        last, weight = gain, np.eye(2) + A.T @ weight @ (A - B @ gain)
    return last


def test_without_bounds_it_is_the_regulator():
    mpc = LinearMPC(30, [-10.0], [10.0], effort=[0.5], tracking=[1.0, 1.0])
    gain, state = regulator(30, 0.5), np.array([3.0, -1.0])
    for _ in range(5):
        u = mpc.solve(*prediction(state, 30))[0]
        np.testing.assert_allclose(u, -gain @ state, atol=1e-4)
        state = A @ state + B @ u


def test_the_box_is_respected():
    mpc = LinearMPC(20, [-0.2], [0.3], tracking=[1.0, 1.0], effort=[0.1])
    state, given = np.array([5.0, 0.0]), []
    for _ in range(60):
        u = mpc.solve(*prediction(state, 20))[0]
        given.append(u)
        state = A @ state + B @ u
    assert np.min(given) == -0.2 and np.max(given) <= 0.3
    assert np.abs(state).max() < 1e-2


def test_costs_push_to_the_bounds():
    """Without curvature the answer lies in a corner, as in a linear one."""
    mpc = LinearMPC(3, [0.0, -2.0], [1.0, 5.0], cost=[-1.0, 1.0])
    found = mpc.solve(np.zeros((3, 1)), np.zeros((3, 6)))
    np.testing.assert_allclose(found, [[1.0, -2.0]] * 3, atol=1e-4)


def test_changes_have_a_price():
    pull = [[-1.0]] * 4
    sizes = []
    for change in (0.0, 10.0):
        mpc = LinearMPC(4, [0.0], [9.0], effort=[0.1], change=[change])
        found = mpc.solve(
            np.zeros((4, 1)), np.eye(4), last=[0.0], output_cost=pull
        )
        sizes.append(np.abs(np.diff(found[:, 0], prepend=0.0)).max())
    assert sizes[0] == pytest.approx(5.0, abs=1e-3) and sizes[1] < 0.3


def test_limits_of_outputs_are_soft():
    """Met where they can be, exceeded as little as possible elsewhere."""
    limits = np.array([1.0])
    options = {"cost": [-1.0], "limits": limits, "slack_weight": 1e3}
    mpc = LinearMPC(2, [0.0], [5.0], **options)
    found = mpc.solve(np.zeros((2, 1)), np.eye(2))
    np.testing.assert_allclose(found, 1.0, atol=2e-3)
    found = mpc.solve(np.full((2, 1), 3.0), np.eye(2))
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearMPC(0, [0.0], [1.0]), "`horizon`"),
        (lambda: LinearMPC(2, [2.0], [1.0]), "`low`"),
        (lambda: LinearMPC(2, [0.0], [1.0], effort=[-1.0]), "`effort`"),
        (lambda: LinearMPC(2, [0.0], [1.0], change=[1.0, 2.0]), "`change`"),
        (lambda: LinearMPC(2, [0.0], [1.0], cost=[1.0, 2.0]), "`cost`"),
        (lambda: LinearMPC(2, [0.0], [1.0], slack_weight=0), "`slack_weight`"),
        (
            lambda: LinearMPC(2, [0.0], [1.0]).solve(
                np.zeros((3, 1)), np.eye(3)
            ),
            "`free`",
        ),
        (
            lambda: LinearMPC(1, [0.0], [1.0], limits=[1.0, 2.0]).solve(
                np.zeros((1, 1)), np.eye(1)
            ),
            "`limits`",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
