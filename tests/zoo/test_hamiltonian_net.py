"""Learned mechanics: mathematics of the roll-outs, training, bad input."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.datasets import (
    TrajectoryWindows,
    henon_heiles_system,
    mass_spring,
    pendulum,
    pendulum_system,
)
from orrery.layers import (
    HarmonicPotential,
    HenonHeilesPotential,
    PairwisePotential,
    PendulumPotential,
)
from orrery.layers.symplectic_integrator import METHODS, integrate
from orrery.zoo import HamiltonianNet
from orrery.zoo.rollout_measures import is_steady, secular_drift

RNG = np.random.default_rng(0)
Q, P = RNG.normal(size=(2, 5, 2)).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class Quartic:
    """A user's own potential: two methods, a config, no base class."""

    def __init__(self, strength):
        self.strength = strength

    def energy(self, q, context=None):
        return self.strength * ops.sum(q**4, axis=-1) / 4

    def force(self, q, context=None):
        return -self.strength * q**3

    def get_config(self):
        return {"strength": self.strength}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def true_energy(system, states):
    q, p = (np.asarray(x, "float64") for x in states)
    return system.energy(q, p)


# === Roll-outs of known systems ===
@pytest.mark.parametrize(
    ("potential", "system", "q", "p", "largest"),
    [
        (PendulumPotential(), pendulum_system(), [1.0], [0.0], 1.061e-3),
        (PendulumPotential(), pendulum_system(), [2.5], [0.0], 3.154e-3),
        (
            HenonHeilesPotential(),
            henon_heiles_system(),
            [0.1, 0],
            [0, 0.5],
            3.770e-4,
        ),
        (
            HenonHeilesPotential(),
            henon_heiles_system(),
            [0, 0.1],
            [0.396653, 0],
            2.318e-4,
        ),
    ],
)
def test_long_rollouts_are_steady(potential, system, q, p, largest):
    """10,000 leapfrogs in float32: the error of float64 to 1 %, no drift."""
    model = HamiltonianNet(
        len(q), potential, mass=1.0, integrator="leapfrog", step_size=0.1
    )
    model.build()
    q, p = (np.array([x], "float32") for x in (q, p))
    energy = true_energy(system, model.rollout(q, p, 10_000))
    drift = secular_drift(energy)
    assert drift["error"][0] == pytest.approx(largest, rel=0.01)
    assert is_steady(drift).all()


@pytest.mark.parametrize(
    ("integrator", "ratio", "tolerance"),
    [("leapfrog", 4, 0.1), ("yoshida4", 16, 0.15)],
)
def test_order(integrator, ratio, tolerance):
    """The energy error when the step is halved, steps of 0.4 and 0.2."""
    errors = []
    for step_size, steps in ((0.4, 100), (0.2, 200)):
        model = HamiltonianNet(
            1,
            PendulumPotential(),
            mass=1.0,
            integrator=integrator,
            step_size=step_size,
        )
        model.build()
        states = model.rollout([[1.0]], [[0.0]], steps)
        errors.append(secular_drift(true_energy(pendulum_system(), states)))
    found = errors[0]["error"] / errors[1]["error"]
    assert found[0] == pytest.approx(ratio, rel=tolerance)


def test_forward_euler_is_not_steady():
    model = HamiltonianNet(
        1, HarmonicPotential(), mass=1.0, integrator="forward_euler"
    )
    model.build()
    energy = model.energy(*model.rollout([[1.0]], [[0.0]], 500))
    drift = secular_drift(numpy(energy))
    assert not is_steady(drift).any() and drift["growth"] > 10


@pytest.mark.parametrize("integrator", METHODS)
def test_rollout_is_the_loop_of_numpy(integrator):
    """However many of its states are saved."""
    model = HamiltonianNet(
        2,
        HenonHeilesPotential(),
        mass=[1.5, 0.5],
        integrator=integrator,
        substeps=2,
        step_size=0.1,
    )
    model.build()
    system = henon_heiles_system()
    q, p = 0.2 * Q, 0.2 * P
    states = integrate(
        system.force,
        lambda p: p / np.array([1.5, 0.5]),
        q.astype("float64"),
        p.astype("float64"),
        0.05,
        80,
        integrator,
    )
    wanted = np.stack(states[::2], axis=2)
    for save_every in (1, 20) if integrator == "leapfrog" else (4,):
        found = model.rollout(q, p, 40, save_every)
        for x, truth in zip(found, wanted, strict=True):
            truth = truth[:, ::save_every]
            assert x.shape == (5, 40 // save_every + 1, 2)
            np.testing.assert_allclose(x, truth, atol=2e-6)


def test_rounding_is_remembered():
    """Energy in float32 wanders less than plain float32 arithmetic would."""
    model = HamiltonianNet(
        1, HarmonicPotential(), mass=1.0, integrator="yoshida4", step_size=0.01
    )
    model.build()
    steps = 500 if keras.backend.backend() == "torch" else 5_000
    q = np.linspace(0.5, 1.5, 16, dtype="float32")[:, None]
    energy = numpy(model.energy(*model.rollout(q, 0 * q, steps)))
    states = np.stack(
        integrate(lambda q: -q, lambda p: p, q, 0 * q, 0.01, steps, "yoshida4")
    )
    plain = 0.5 * (states.astype("float64") ** 2).sum(axis=1)[..., 0].T
    assert states.dtype == "float32"
    ends = [np.abs(e[:, -1] - e[:, 0]).mean() for e in (energy, plain)]
    assert ends[0] < 0.5 * ends[1]


# === Friction, many bodies ===
def test_friction_takes_energy_monotonically():
    model = HamiltonianNet(
        1, PendulumPotential(), mass=1.0, friction=True, step_size=0.05
    )
    model.build()
    strength = float(numpy(model.frictions())[0])
    assert strength == pytest.approx(np.log1p(np.exp(-3)), rel=1e-5)
    start = np.array([[1.0]], "float32")
    states = model.rollout(start, 0 * start, 400)
    energy = true_energy(pendulum_system(), states)[0]
    assert (np.diff(energy) < 1e-6).all() and energy[-1] < 0.5 * energy[0]
    truth = pendulum(
        1, 401, step_size=0.05, friction=strength, initial=(start, 0 * start)
    )
    np.testing.assert_allclose(states[0], truth["q"], atol=2e-4)


def test_friction_without_forces_is_exact():
    model = HamiltonianNet(1, Quartic(0.0), mass=2.0, friction=True)
    model.build()
    model.friction_parameter.assign([0.5])
    (decay,) = numpy(model.frictions())
    _, p = model.rollout([[0.0]], [[1.0]], 30)
    t = 0.1 * np.arange(31)
    np.testing.assert_allclose(p[0, :, 0], np.exp(-decay * t), rtol=1e-5)


def test_pairs_conserve_momentum_and_an_outer_field_does_not():
    q, p = RNG.normal(size=(2, 4, 6)).astype("float32")

    def total(potential):
        model = HamiltonianNet(6, potential, mass=1.0)
        model.build()
        _, p_all = model.rollout(q, p, 100)
        p_all = p_all.reshape(4, 101, 3, 2).astype("float64")
        return p_all.sum(axis=2), np.abs(p_all).sum(axis=2).max()

    potential = PairwisePotential(num_bodies=3, hidden_dim=8)
    potential.build((None, 6))
    potential.slope.assign(1.0)  # They attract each other.
    pairs, size = total(potential)
    assert np.abs(pairs - pairs[:, :1]).max() < 1e-6 * size
    outer, _ = total(HarmonicPotential())
    assert np.abs(outer - outer[:, :1]).max() > 0.1


# === Training ===
def test_learns_mass_force_friction_and_control():
    """Known potential: the rest is found to a percent."""
    data = mass_spring(
        20, 30, friction=0.2, control=RNG.uniform(-1, 1, size=(20, 30, 1))
    )
    model = HamiltonianNet(
        1,
        HarmonicPotential(),
        friction=True,
        integrator="leapfrog",
        num_steps=2,
        num_controls=1,
    )
    model.build()
    model.compile(keras.optimizers.Adam(0.05), "mse")
    windows = TrajectoryWindows(data, num_steps=2, stride=4, batch_size=35)
    model.fit(windows, epochs=40, shuffle=False, verbose=0)
    for found, truth in (
        (model.masses(), 1.0),
        (model.frictions(), 0.2),
        (model.control_kernel, 1.0),
    ):
        assert float(numpy(found).item()) == pytest.approx(truth, rel=0.02)


# === Saving ===
@pytest.mark.parametrize(
    "potential",
    [Quartic(0.7), PairwisePotential(2, 4)],
    ids=lambda p: type(p).__name__,
)
def test_other_potentials_saved_and_reloaded(potential, tmp_path):
    model = HamiltonianNet(2, potential, mass=[1.0, 2.0], num_steps=2)
    wanted = numpy(model((Q, P)))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.potential) is type(potential)
    np.testing.assert_allclose(numpy(again((Q, P))), wanted, atol=1e-6)


def test_a_potential_that_cannot_be_saved(tmp_path):
    class Bare:
        energy = force = Quartic.energy

    model = HamiltonianNet(2, Bare())
    model.build()
    with pytest.raises(TypeError, match="get_config and from_config.*Bare"):
        model.save(tmp_path / "model.keras")


def test_presets():
    model = HamiltonianNet.from_preset(
        "hamiltonian_kepler", load_weights=False, num_steps=3
    )
    assert model((Q, P)).shape == (5, 4, 4)
    with pytest.raises(ValueError, match="hamiltonian_pendulum.*'x'"):
        HamiltonianNet.from_preset("x", load_weights=False)
    with pytest.raises(ValueError, match="no trained weights.*load_weights"):
        HamiltonianNet.from_preset("hamiltonian_kepler")
    with pytest.raises(ValueError, match="cannot be changed"):
        HamiltonianNet.from_preset("hamiltonian_pendulum", dim=2)


# === Bad input ===
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "`dim`.*dim=0"),
        ({"dim": 1.5}, "`dim`.*dim=1.5"),
        ({"num_steps": 0}, "`num_steps`.*num_steps=0"),
        ({"step_size": 0.0}, "`step_size`.*step_size=0.0"),
        ({"step_size": -0.1}, "`step_size`.*step_size=-0.1"),
        ({"step_size": float("nan")}, "`step_size`"),
        ({"substeps": 0}, "`substeps`.*at least 1.*substeps=0"),
        ({"num_controls": -1}, "`num_controls`.*num_controls=-1"),
        ({"mass": 0.0}, "`mass`.*positive.*mass=0.0"),
        ({"mass": [1.0, -1.0]}, "`mass`.*positive"),
        ({"mass": [1.0, 1.0, 1.0]}, "`mass`.*2 of them"),
        ({"mass": "heavy"}, "`mass`.*'heavy'"),
        ({"integrator": "midpoint"}, "integrator.*'midpoint'"),
        ({"mass": np.array([1.0, np.nan])}, "`mass`.*positive"),
        ({"units": {"q": 0.0}}, "`units.*above 0"),
        ({"units": {"q": np.inf}}, "`units.*above 0"),
        ({"units": {"x": 1.0}}, "`units`"),
        ({"units": ["q"]}, r"`units` must be a dict.*\['q'\]"),
        ({"units": {"q": "a"}}, r"`units\['q'\]`.*'a'"),
        ({"units": {"q": True}}, r"`units\['q'\]`.*True"),
        ({"mass": True}, "`mass`.*True"),
        ({"mass": None}, "`mass`.*None"),
        ({"mass": [1.0, True]}, "`mass`.*True"),
        ({"mass": [1.0, "a"]}, "`mass`.*'a'"),
        ({"mass": [[1.0], [1.0, 2.0]]}, "`mass`"),
        ({"hidden_dim": 0}, "`hidden_dim`"),
        ({"friction": 0.3}, "`friction` must be True.*friction=0.3"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HamiltonianNet(**{"dim": 2, **arguments})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"q": Q}, "keys 'q' and 'p'"),
        ((Q,), r"\(q, p\).*1 parts"),
    ],
)
def test_bad_states(inputs, message):
    with pytest.raises(ValueError, match=message):
        HamiltonianNet(2)(inputs)


def test_masses_as_an_array_and_measures_before_a_build():
    model = HamiltonianNet(2, mass=np.array([1.0, 2.0]))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model.masses()), [1.0, 2.0]
    )
    assert model.energy(Q, P).shape == (5,)
    assert HamiltonianNet(2).masses().shape == (2,)
    assert HamiltonianNet(2, friction=True).frictions().shape == (2,)
    q, _ = HamiltonianNet(2).rollout(Q, P, 3)
    assert q.shape == (5, 4, 2)


def test_a_potential_without_a_force():
    with pytest.raises(TypeError, match=r"`potential`.*force\(q, context\)"):
        HamiltonianNet(2, keras.layers.Dense(1))
