"""The mathematics of the integrators, in float64 NumPy."""

import numpy as np
import pytest
from orrery.datasets import henon_heiles_system, pendulum_system
from orrery.layers.symplectic_integrator import (
    METHODS,
    SPLITTINGS,
    integrate,
)

RNG = np.random.default_rng(0)
SYMPLECTIC = tuple(SPLITTINGS)


def mlp(n, hidden=12, seed=0):
    """Force and energy of a random one-hidden-layer potential."""
    rng = np.random.default_rng(seed)
    w, a = rng.normal(size=(n, hidden)), rng.normal(size=hidden)
    b = rng.normal(size=hidden)

    def energy(q):
        return np.log(np.cosh(q @ w + b)) @ a

    def force(q):
        return -(np.tanh(q @ w + b) * a) @ w.T

    return energy, force


def flow(force, masses, steps, method, step_size=0.25):
    """The map of a state `(q, p)` in one array."""

    def apply(h, reverse=False):
        n = h.shape[-1] // 2
        q, p = integrate(
            force,
            lambda p: p / masses,
            h[..., :n],
            h[..., n:],
            step_size,
            steps,
            method,
            reverse,
        )[-1]
        return np.concatenate([q, p], axis=-1)

    return apply


def jacobian(function, x, step=1e-30):
    """By complex steps: to rounding, not to a difference's error."""
    columns = [
        function(x + 1j * step * unit).imag / step for unit in np.eye(len(x))
    ]
    return np.stack(columns, axis=-1)


def symplectic_error(matrix):
    n = len(matrix) // 2
    omega = np.block(
        [[np.zeros((n, n)), np.eye(n)], [-np.eye(n), np.zeros((n, n))]]
    )
    return np.abs(matrix.T @ omega @ matrix - omega).max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_symplectic_and_the_controls_are_not(method, n, steps):
    _, force = mlp(n)
    masses = RNG.uniform(0.5, 2.0, size=n)
    matrix = jacobian(
        flow(force, masses, steps, method), RNG.normal(size=2 * n)
    )
    error = symplectic_error(matrix)
    if method in SYMPLECTIC:
        assert error < 1e-10
        assert np.linalg.det(matrix) == pytest.approx(1.0, abs=1e-9)
    else:
        assert error > 1e-8


@pytest.mark.parametrize("method", SYMPLECTIC)
def test_reverse_undoes_the_steps(method):
    _, force = mlp(3)
    apply = flow(force, np.ones(3), 100, method)
    start = RNG.normal(size=(5, 6))
    np.testing.assert_allclose(
        apply(apply(start), reverse=True), start, atol=1e-12
    )


@pytest.mark.parametrize("method", ["leapfrog", "yoshida4"])
def test_flipped_momenta_run_back(method):
    _, force = mlp(3)
    apply = flow(force, np.ones(3), 100, method, step_size=0.1)
    start = RNG.normal(size=(5, 6))
    flip = np.repeat([1.0, -1.0], 3)
    np.testing.assert_allclose(
        flip * apply(flip * apply(start)), start, atol=1e-12
    )


def quartic():
    """A spring with a quartic wall, and a start of energy 3/4."""
    return (
        lambda q: (q**2 / 2 + q**4 / 4).sum(-1),
        lambda q: -q - q**3,
        np.array([1.0]),
        np.array([0.0]),
    )


def named(system, q, p):
    return (
        system.potential,
        system.force,
        np.array(q, "float64"),
        np.array(p, "float64"),
    )


@pytest.mark.parametrize(
    ("method", "ratio", "tolerance"),
    [
        ("symplectic_euler", 2, 0.2),
        ("leapfrog", 4, 0.1),
        ("yoshida4", 16, 0.15),
    ],
)
@pytest.mark.parametrize(
    "problem",
    [
        quartic(),
        named(pendulum_system(), [1.0], [0.0]),
        named(henon_heiles_system(), [0.0, 0.1], [0.49, 0.0]),
    ],
    ids=["quartic", "pendulum", "henon_heiles"],
)
def test_order(method, ratio, tolerance, problem):
    """What the largest error of energy falls by when the step halves."""
    energy, force, q, p = problem
    worst = []
    for step_size, steps in ((0.1, 200), (0.05, 400)):
        states = integrate(force, lambda p: p, q, p, step_size, steps, method)
        energies = np.array([energy(q) + (p**2).sum() / 2 for q, p in states])
        worst.append(np.abs(energies - energies[0]).max())
    assert worst[0] / worst[1] == pytest.approx(ratio, rel=tolerance)


def test_leapfrog_keeps_its_own_harmonic_invariant():
    omega, step_size = 1.3, 0.2
    states = integrate(
        lambda q: -(omega**2) * q,
        lambda p: p,
        np.array([1.0]),
        np.array([0.3]),
        step_size,
        1000,
    )
    q, p = np.array(states)[..., 0].T
    kept = p**2 + omega**2 * (1 - (omega * step_size) ** 2 / 4) * q**2
    np.testing.assert_allclose(kept, kept[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("method", "forces"),
    [
        ("symplectic_euler", 5),
        ("leapfrog", 6),
        ("yoshida4", 16),
        ("forward_euler", 5),
        ("rk4", 20),
    ],
)
def test_forces_are_evaluated_once_per_position(method, forces):
    calls = []

    def force(q):
        calls.append(q)
        return -q

    states = integrate(
        force, lambda p: p, np.ones(1), np.ones(1), 0.1, 5, method
    )
    assert len(calls) == forces
    assert len(states) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": -0.1}, "step_size"),
        ({"step_size": float("nan")}, "step_size"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 2.5}, "num_steps"),
        ({"method": "verlet"}, "integrator"),
    ],
)
def test_bad_steps_are_named(change, message):
    arguments = {"step_size": 0.1, "num_steps": 2, **change}
    with pytest.raises(ValueError, match=message):
        integrate(
            lambda q: -q, lambda p: p, np.ones(1), np.ones(1), **arguments
        )
