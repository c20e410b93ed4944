"""References are right: exact solutions, conserved energy, derivatives."""

import dataclasses
import sys

import numpy as np
import pytest
from orrery.datasets import (
    henon_heiles,
    henon_heiles_system,
    kepler,
    kepler_system,
    mass_spring,
    mass_spring_system,
    pendulum,
    pendulum_system,
    simulate,
)
from orrery.layers.symplectic_integrator import integrate

GENERATORS = [mass_spring, pendulum, kepler, henon_heiles]
SYSTEMS = [
    mass_spring_system(),
    mass_spring_system("hnn"),
    pendulum_system(),
    pendulum_system("hnn"),
    kepler_system(),
    henon_heiles_system(),
]


def names(system):
    return f"{system.name}-{system.mass}"


@pytest.mark.parametrize("generate", GENERATORS)
def test_reference_conserves_energy(generate):
    data = generate(num_trajectories=3, num_points=400)
    energy = data["energy"]
    assert np.abs(energy - energy[:, :1]).max() < 1e-9


@pytest.mark.parametrize("generate", GENERATORS)
def test_shapes_and_type(generate):
    data = generate(num_trajectories=3, num_points=7, step_size=0.2)
    n = data["q"].shape[-1]
    for name in ("q", "p", "dq", "dp"):
        assert data[name].shape == (3, 7, n)
    for name in ("t", "energy"):
        assert data[name].shape == (3, 7)
    assert all(array.dtype == "float64" for array in data.values())
    np.testing.assert_allclose(np.diff(data["t"]), 0.2)


@pytest.mark.parametrize("system", SYSTEMS, ids=names)
def test_force_is_minus_the_gradient(system):
    q, p = system.draw(np.random.default_rng(0), 5)
    step = 1e-5
    for i in range(system.dim):
        shift = step * np.eye(system.dim)[i]
        difference = system.potential(q + shift) - system.potential(q - shift)
        np.testing.assert_allclose(
            system.force(q)[:, i], -difference / (2 * step), atol=1e-8
        )
        difference = system.energy(q, p + shift) - system.energy(q, p - shift)
        np.testing.assert_allclose(
            system.velocity(p)[:, i], difference / (2 * step), atol=1e-8
        )


@pytest.mark.parametrize(("convention", "omega"), [("unit", 1.0), ("hnn", 2.0)])
def test_a_spring_swings_as_a_cosine(convention, omega):
    initial = np.array([[1.0]]), np.array([[0.0]])
    data = mass_spring(1, 200, convention=convention, initial=initial)
    t = data["t"][0]
    np.testing.assert_allclose(
        data["q"][0, :, 0], np.cos(omega * t), atol=1e-10
    )
    # In both conventions H is round: p swings as far as q.
    np.testing.assert_allclose(
        data["p"][0, :, 0], -np.sin(omega * t), atol=1e-10
    )


def test_a_circular_orbit_closes():
    initial = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    data = kepler(1, 64, step_size=2 * np.pi / 63, initial=initial)
    np.testing.assert_allclose(data["q"][0, -1], [1.0, 0.0], atol=1e-10)
    np.testing.assert_allclose(
        np.linalg.norm(data["q"], axis=-1), 1.0, atol=1e-10
    )


@pytest.mark.parametrize("generate", GENERATORS)
def test_derivatives_are_those_of_the_path(generate):
    data = generate(num_trajectories=2, num_points=9, step_size=1e-3)
    for name in "qp":
        x = data[name]
        # Fourth order: (-x2 + 8 x1 - 8 x-1 + x-2) / 12 h.
        slope = (x[:, :-4] - 8 * x[:, 1:-3] + 8 * x[:, 3:-1] - x[:, 4:]) / 12e-3
        np.testing.assert_allclose(data["d" + name][:, 2:-2], slope, atol=1e-8)


def test_initial_states_are_where_they_are_said_to_be():
    for convention, low, high in (("unit", 0.5, 1.8), ("hnn", 1.3, 2.3)):
        data = pendulum(500, 2, convention=convention)
        start = np.concatenate([data["q"][:, 0], data["p"][:, 0]], axis=-1)
        radius = np.linalg.norm(start, axis=-1)
        assert low < radius.min() < low + 0.1 and high - 0.1 < radius.max()
        assert radius.max() < high
        top = 2.0 if convention == "unit" else 6.0
        assert data["energy"].max() < top
    energy = henon_heiles(500, 2)["energy"][:, 0]
    assert 1 / 50 < energy.min() < 0.03 and 0.11 < energy.max() < 1 / 8
    distance = np.linalg.norm(kepler(200, 80)["q"], axis=-1)
    assert 0.65 < distance.min() < 0.75 and 1.3 < distance.max() < 1.48


def test_same_seed_same_data_and_noise_leaves_the_path():
    clean, again = pendulum(5, 10, seed=3), pendulum(5, 10, seed=3)
    noisy = pendulum(2000, 10, seed=3, noise=0.1)
    for name, array in clean.items():
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, pendulum(5, 10, seed=4)[name]) or (
            name == "t"
        )
    path = pendulum(2000, 10, seed=3)
    for name in ("dq", "dp", "energy"):
        np.testing.assert_array_equal(noisy[name], path[name])
    for name in "qp":
        error = noisy[name] - path[name]
        assert abs(error.std() - 0.1) < 2e-3 and abs(error.mean()) < 3e-3


def test_friction_takes_energy_monotonically():
    data = pendulum(10, 200, friction=0.1)
    assert (np.diff(data["energy"]) <= 1e-12).all()
    assert (data["energy"][:, -1] < 0.25 * data["energy"][:, 0]).all()
    rest = mass_spring(
        1, 3, friction=0.5, initial=(np.zeros((1, 1)), np.ones((1, 1)))
    )
    assert rest["dp"][0, 0, 0] == -0.5


def test_control_enters_as_a_force_held_over_a_step():
    start = np.zeros((2, 1)), np.zeros((2, 1))
    control = np.zeros((2, 5, 1))
    control[1, 1] = 2.0
    data = mass_spring(2, 5, step_size=0.1, initial=start, control=control)
    np.testing.assert_array_equal(data["u"], control)
    assert not data["q"][0].any() and not data["q"][1, :2].any()
    # From rest: q = 2 (1 - cos t), p = 2 sin t over the one step of 0.1.
    np.testing.assert_allclose(
        [data["q"][1, 2, 0], data["p"][1, 2, 0]],
        [2 * (1 - np.cos(0.1)), 2 * np.sin(0.1)],
        atol=1e-12,
    )
    assert data["dp"][1, 1, 0] == 2.0
    # That of the last point moves nothing, but is in its derivative.
    control[:, -1] = 3.0
    last = mass_spring(2, 5, step_size=0.1, initial=start, control=control)
    for name in "qp":
        np.testing.assert_array_equal(last[name], data[name])
    np.testing.assert_array_equal(last["dp"][:, -1], data["dp"][:, -1] + 3.0)
    # A function of time is sampled at the points, for every trajectory.
    sampled = mass_spring(2, 5, initial=start, control=np.cos)["u"]
    np.testing.assert_allclose(sampled[1, :, 0], np.cos(0.1 * np.arange(5)))


def test_controls_that_are_not_pushed_change_nothing():
    quiet = henon_heiles(3, 20, control=lambda t: 0.0)
    plain = henon_heiles(3, 20)
    np.testing.assert_allclose(quiet["q"], plain["q"], atol=1e-10)


@pytest.mark.parametrize(
    ("system", "q", "p", "energy", "largest", "ratio"),
    [
        (pendulum_system(), [1.0], [0.0], 0.459698, 1.061e-3, 4.000),
        (pendulum_system(), [2.5], [0.0], 1.801144, 3.154e-3, 4.002),
        (henon_heiles_system(), [0.1, 0], [0, 0.5], 0.13, 3.770e-4, 4.011),
        (henon_heiles_system(), [0, 0.1], None, 1 / 12, 2.318e-4, 4.008),
    ],
)
def test_reference_rollouts(system, q, p, energy, largest, ratio):
    """Leapfrog in float64, 10,000 steps of 0.1, and half of that."""
    q = np.array(q)
    if p is None:
        p = np.array([np.sqrt(2 * (energy - system.potential(q))), 0.0])
    p = np.array(p, "float64")
    errors, trends = [], []
    for step_size, num_steps in ((0.1, 10_000), (0.05, 20_000)):
        states = integrate(
            system.force, system.velocity, q, p, step_size, num_steps
        )
        found = system.energy(*np.moveaxis(states, 0, 1))
        errors.append(np.abs(found - found[0]).max())
        t = step_size * np.arange(len(found))
        trends.append(np.polyfit(t, found, 1)[0] * t[-1])
        # The last 1,000 steps swing as the first.
        error = np.abs(found - found[0])
        assert error[-1000:].max() <= 1.1 * error[:1000].max()
    assert abs(found[0] - energy) < 1e-6
    assert f"{errors[0]:.3e}" == f"{largest:.3e}"
    assert f"{errors[0] / errors[1]:.3f}" == f"{ratio:.3f}"
    assert abs(trends[0]) <= 5e-6


def test_forward_euler_gains_energy():
    """The control: the same check catches what is not symplectic."""
    system = pendulum_system()
    states = integrate(
        system.force,
        system.velocity,
        np.array([1.0]),
        np.array([0.0]),
        0.1,
        1000,
        "forward_euler",
    )
    energy = system.energy(*np.moveaxis(states, 0, 1))
    assert energy[-1] > 3 * energy[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": 0.0}, "`step_size`.*step_size=0.0"),
        ({"step_size": -0.1}, "`step_size`.*step_size=-0.1"),
        ({"step_size": float("nan")}, "`step_size`"),
        ({"num_points": 1}, "`num_points`.*at least 2.*num_points=1"),
        ({"num_trajectories": 0}, "`num_trajectories`.*num_trajectories=0"),
        ({"noise": -1.0}, "`noise`.*noise=-1.0"),
        ({"friction": -0.1}, "`friction`.*friction=-0.1"),
        ({"seed": -1}, "`seed`.*seed=-1"),
        ({"convention": "si"}, "`convention`.*convention='si'"),
        ({"initial": (np.zeros((1, 2)), np.zeros((1, 2)))}, r"\(50, 1\)"),
        ({"initial": np.zeros((50, 1))}, "`initial` must be a pair"),
        ({"initial": np.full((2, 50, 1), np.nan)}, "`initial`.*nan"),
        ({"control": np.zeros((50, 44, 1))}, r"\(50, 45, 1\)"),
        (
            {"control": lambda t: np.ones(3)},
            r"`control`.*a number or.*\(1,\).*\(3,\)",
        ),
        # The integrator itself would never come back.
        ({"control": lambda t: np.nan}, "`control` must be finite.*nan"),
        ({"control": np.full((50, 45, 1), np.inf)}, "`control`.*inf"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        pendulum(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mass": -1.0}, ValueError, "`mass`.*above 0.*mass=-1.0"),
        ({"mass": 0.0}, ValueError, "`mass`"),
        ({"mass": float("nan")}, ValueError, "`mass`"),
        ({"mass": True}, ValueError, "`mass`"),
        ({"dim": 0}, ValueError, "`dim`.*at least 1.*dim=0"),
        ({"dim": 1.0}, ValueError, "`dim`"),
        ({"force": None}, TypeError, "`force` must be a function.*None"),
        ({"potential": 3}, TypeError, "`potential`"),
        ({"draw": "ring"}, TypeError, "`draw`"),
    ],
)
def test_bad_systems(change, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(pendulum_system(), **change)


def test_an_escape_is_an_error():
    initial = np.array([[0.0, 3.0]]), np.array([[0.0, 3.0]])
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match="henon_heiles"),
    ):
        henon_heiles(1, 200, initial=initial)


def test_without_scipy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    with pytest.raises(ImportError, match=r'pip install "orrery\[science\]"'):
        simulate(pendulum_system(), 1, 5)
