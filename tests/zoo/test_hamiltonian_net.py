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
from orrery.testing import compare_backends
from orrery.zoo import HamiltonianNet, NeuralODE, PlainHNN
from orrery.zoo.mechanical_state import split_state
from orrery.zoo.rollout_measures import (
    energy_drift,
    is_steady,
    position_errors,
)

# On JAX every new shape is compiled: few of them, small ones.
RNG = np.random.default_rng(0)
Q, P = RNG.normal(size=(2, 5, 2)).astype("float32")
MODELS = {
    "hamiltonian": lambda **k: HamiltonianNet(2, hidden_dim=8, **k),
    "friction": lambda **k: HamiltonianNet(2, hidden_dim=8, friction=True, **k),
    "plain_hnn": lambda **k: PlainHNN(2, 8, **k),
    "neural_ode": lambda **k: NeuralODE(2, 8, **k),
}


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


@pytest.fixture(params=MODELS)
def model(request):
    model = MODELS[request.param](num_steps=2)
    model.build()
    return model


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def trajectory(model, *inputs):
    return split_state(numpy(model(inputs)))


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
    ],
)
def test_long_rollouts_are_steady(potential, system, q, p, largest):
    """10,000 leapfrogs in float32: the error of float64 to 1 %, no drift."""
    model = HamiltonianNet(
        len(q), potential, mass=1.0, integrator="leapfrog", step_size=0.1
    )
    model.build()
    steps = 1_000 if keras.backend.backend() == "torch" else 10_000
    q, p = (np.array([x], "float32") for x in (q, p))
    energy = true_energy(system, model.rollout(q, p, steps))
    drift = energy_drift(energy)
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
        errors.append(energy_drift(true_energy(pendulum_system(), states)))
    found = errors[0]["error"] / errors[1]["error"]
    assert found[0] == pytest.approx(ratio, rel=tolerance)


def test_forward_euler_is_not_steady():
    model = HamiltonianNet(
        1, HarmonicPotential(), mass=1.0, integrator="forward_euler"
    )
    model.build()
    energy = model.energy(*model.rollout([[1.0]], [[0.0]], 500))
    drift = energy_drift(numpy(energy))
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


def test_a_call_is_the_beginning_of_a_rollout(model):
    for x, y in zip(
        trajectory(model, Q, P), model.rollout(Q, P, 2), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=2e-6)


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


# === Friction, control, many bodies ===
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


def test_control_enters_as_a_force():
    """Held over a step: p grows by dt B u, and q by half of that."""
    model = HamiltonianNet(2, Quartic(0.0), mass=1.0, num_controls=3)
    model.build()
    kernel = RNG.normal(size=(3, 2)).astype("float32")
    model.control_kernel.assign(kernel)
    controls = RNG.normal(size=(5, 10, 3)).astype("float32")
    q, p = trajectory(model, Q, P, controls)
    push = 0.1 * np.cumsum(controls @ kernel, axis=1)
    np.testing.assert_allclose(p[:, 1:], P[:, None] + push, atol=1e-5)
    middle = 0.5 * (p[:, 1:] + p[:, :-1])
    np.testing.assert_allclose(np.diff(q, axis=1), 0.1 * middle, atol=1e-5)
    for save_every in (1, 5):
        found = model.rollout(Q, P, 10, save_every, controls)
        for x, y in zip(found, (q, p), strict=True):
            np.testing.assert_allclose(x, y[:, ::save_every], atol=1e-5)


def test_pairs_conserve_momentum_and_an_outer_field_does_not():
    q, p = RNG.normal(size=(2, 4, 6)).astype("float32")

    def total(potential):
        model = HamiltonianNet(6, potential, mass=1.0)
        model.build()
        _, p_all = model.rollout(q, p, 100)
        return p_all.reshape(4, 101, 3, 2).sum(axis=2)

    potential = PairwisePotential(num_bodies=3, hidden_dim=8)
    potential.build((None, 6))
    potential.slope.assign(1.0)  # They attract each other.
    pairs = total(potential)
    assert np.abs(pairs - pairs[:, :1]).max() < 2e-5
    outer = total(HarmonicPotential())
    assert np.abs(outer - outer[:, :1]).max() > 0.1


# === Baselines ===
def test_gradient_of_the_plain_hnn():
    """The formula against central differences of its energy, float64."""
    model = PlainHNN(2, 8)
    model.build()
    w1, b1, w2, b2, a = (w.astype("float64") for w in model.get_weights())

    def energy(x):
        return (np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2) @ a)[..., 0]

    x = np.concatenate([Q, P], axis=-1).astype("float64")
    np.testing.assert_allclose(numpy(model.energy(Q, P)), energy(x), atol=1e-5)
    dq, dp = map(numpy, model.field(Q, P))
    for i in range(4):
        shift = 1e-5 * np.eye(4)[i]
        slope = (energy(x + shift) - energy(x - shift)) / 2e-5
        found = -dp[:, i] if i < 2 else dq[:, i - 2]
        np.testing.assert_allclose(found, slope, atol=1e-5)


def test_runge_kutta_of_the_neural_ode():
    model = NeuralODE(2, 8, num_steps=1)
    model.build()
    w1, b1, w2, b2, w3, b3 = (w.astype("float64") for w in model.get_weights())

    def field(x):
        return np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2) @ w3 + b3

    x, h = np.concatenate([Q, P], -1).astype("float64"), 0.1
    k1 = field(x)
    k2 = field(x + h / 2 * k1)
    k3 = field(x + h / 2 * k2)
    k4 = field(x + h * k3)
    wanted = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    found = numpy(model((Q, P)))[:, 1]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("cls", [PlainHNN, NeuralODE])
def test_the_widest_network_of_a_size(cls):
    model = cls(2, 8)
    model.build()
    size = model.count_params()
    assert cls.of_size(size, 2).hidden_dim == 8
    assert cls.of_size(size - 1, 2).hidden_dim == 7
    with pytest.raises(ValueError, match="at least.*parameters=3"):
        cls.of_size(3, 2)


# === Training ===
@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_trained(name):
    data = {
        "q": RNG.normal(size=(4, 9, 2)),
        "p": RNG.normal(size=(4, 9, 2)),
        "u": RNG.normal(size=(4, 9, 3)),
    }
    model = MODELS[name](num_steps=1, num_controls=3)
    model.build()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [np.array(w) for w in model.get_weights()]
    windows = TrajectoryWindows(data, num_steps=1, batch_size=32)
    history = model.fit(windows, epochs=1, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for weight, old in zip(model.weights, before, strict=True):
        assert np.any(numpy(weight) != old), weight.path
        assert np.isfinite(numpy(weight)).all(), weight.path


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


def test_units_change_numbers_but_not_physics():
    """Data in other units, with those units given: the same network learns."""
    units = {"q": 1e-3, "p": 50.0, "t": 1e-2, "u": 7.0}
    one = HamiltonianNet(2, hidden_dim=8, num_controls=1, friction=True)
    two = HamiltonianNet(
        2,
        hidden_dim=8,
        num_controls=1,
        friction=True,
        step_size=0.1 * units["t"],
        units=units,
    )
    for model in (one, two):
        model.build()
    two.set_weights(one.get_weights())
    for model in (one, two):
        model.control_kernel.assign([[0.5, -1.0]])
    controls = RNG.normal(size=(5, 10, 1)).astype("float32")
    q, p = trajectory(one, Q, P, controls)
    scaled = Q * units["q"], P * units["p"], controls * units["u"]
    found = trajectory(two, *scaled)
    np.testing.assert_allclose(found[0] / units["q"], q, atol=1e-5)
    np.testing.assert_allclose(found[1] / units["p"], p, atol=1e-5)
    scale = units["q"] * units["p"] / units["t"]
    np.testing.assert_allclose(
        numpy(two.energy(*scaled[:2])) / scale,
        numpy(one.energy(Q, P)),
        rtol=1e-4,
    )
    # dq/dt is dH/dp in any units.
    dq, _ = map(numpy, two.field(*scaled[:2]))
    mass = numpy(two.masses()) * units["p"] * units["t"] / units["q"]
    np.testing.assert_allclose(dq, scaled[1] / mass, rtol=1e-5)


def test_a_last_batch_of_another_size_changes_nothing():
    model = MODELS["friction"](num_steps=2)
    model.compile(loss="mse")
    truth = RNG.normal(size=(5, 3, 4)).astype("float32")
    inputs = {"q": Q, "p": P}
    whole = model.evaluate(inputs, truth, batch_size=5, verbose=0)
    parts = model.evaluate(inputs, truth, batch_size=3, verbose=0)
    assert parts == pytest.approx(whole, rel=1e-5)


def test_forms_of_the_input():
    model = MODELS["hamiltonian"](num_steps=2)
    wanted = numpy(model({"q": Q, "p": P}))
    assert wanted.shape == (5, 3, 4)
    joint = np.concatenate([Q, P], axis=-1)
    for inputs in ((Q, P), joint):
        np.testing.assert_array_equal(numpy(model(inputs)), wanted)
    np.testing.assert_allclose(
        model.predict(joint, verbose=0), wanted, atol=1e-6
    )
    symbol = model(keras.Input((4,)))
    assert symbol.shape == (None, 3, 4)


# === Saving ===
@pytest.mark.parametrize("name", MODELS)
def test_saved_and_reloaded(name, tmp_path):
    model = MODELS[name](num_steps=2, num_controls=1, units={"q": 2.0})
    model.build()
    model.control_kernel.assign([[1.0, -1.0]])
    inputs = {"q": Q, "p": P, "controls": np.ones((5, 2, 1), "float32")}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    configs = again.get_config(), model.get_config()
    for config in configs:
        # Keras adds how it was built.
        config.get("potential", {}).pop("build_config", None)
    assert configs[0] == configs[1]
    np.testing.assert_allclose(
        numpy(again(inputs)), numpy(model(inputs)), atol=1e-6
    )


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
    with pytest.raises(ValueError, match="cannot be changed"):
        HamiltonianNet.from_preset("hamiltonian_pendulum", dim=2)


def test_computes_in_float32_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = HamiltonianNet(2, hidden_dim=8)
        out = model((Q, P))
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(out.dtype) == "float32"
    np.testing.assert_array_equal(numpy(out)[:, 0], np.hstack([Q, P]))


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
        ({"substeps": 0}, "at least 1"),
        ({"num_controls": -1}, "`num_controls`.*num_controls=-1"),
        ({"mass": 0.0}, "`mass`.*positive.*mass=0.0"),
        ({"mass": [1.0, -1.0]}, "`mass`.*positive"),
        ({"mass": [1.0, 1.0, 1.0]}, "`mass`.*2 of them"),
        ({"mass": "heavy"}, "`mass`.*'heavy'"),
        ({"integrator": "midpoint"}, "integrator.*'midpoint'"),
        ({"units": {"q": 0.0}}, "`units`.*positive"),
        ({"units": {"x": 1.0}}, "`units`"),
        ({"hidden_dim": 0}, "`hidden_dim`"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HamiltonianNet(**{"dim": 2, **arguments})


def test_a_potential_without_a_force():
    with pytest.raises(TypeError, match=r"`potential`.*force\(q, context\)"):
        HamiltonianNet(2, keras.layers.Dense(1))


def test_bad_states():
    model = HamiltonianNet(2, hidden_dim=8)
    with pytest.raises(ValueError, match="width of a state.*even.*width=3"):
        model(np.ones((5, 3), "float32"))
    with pytest.raises(ValueError, match=r"`q`.*\(batch, 2\).*\(5, 3\)"):
        model(np.ones((5, 6), "float32"))
    with pytest.raises(ValueError, match="`controls`.*10, 0.*10, 1"):
        model((Q, P, np.ones((5, 10, 1), "float32")))
    controlled = HamiltonianNet(2, hidden_dim=8, num_controls=1)
    with pytest.raises(ValueError, match="`controls`.*10, 1.*10, 0"):
        controlled((Q, P))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps`.*num_steps=0"),
        ({"num_steps": 2.0}, "`num_steps`.*num_steps=2.0"),
        ({"save_every": 0}, "`save_every`.*save_every=0"),
        ({"save_every": 4}, "divide.*save_every=4, num_steps=10"),
        ({"q": np.full((5, 2), np.nan)}, "`q` must be finite.*nan"),
        ({"p": P[:, :1]}, r"`p`.*\(5, 1\)"),
        ({"p": P[:4]}, r"`p`.*\(4, 2\)"),
        ({"q": Q[:0], "p": P[:0]}, "`q`"),
        ({"controls": np.ones((5, 10, 1))}, "`controls`.*without any"),
    ],
)
def test_bad_rollouts(arguments, message):
    model = HamiltonianNet(2, hidden_dim=8)
    model.build()
    with pytest.raises(ValueError, match=message):
        model.rollout(**{"q": Q, "p": P, "num_steps": 10, **arguments})


# === Measures ===
def test_drift_and_errors_of_what_diverges():
    energy = np.ones((3, 100))
    energy[1, 50:] = np.inf
    energy[2] = np.linspace(0, 1, 100)
    drift = energy_drift(energy)
    assert drift["error"].tolist() == [0.0, np.inf, 1.0]
    assert drift["trend"][2] == pytest.approx(1.0)
    assert is_steady(drift).tolist() == [True, False, False]
    q = np.zeros((2, 5, 1))
    truth = np.ones((2, 5, 1)) * [[[3.0]], [[4.0]]]
    q[0, 4] = np.nan
    errors = position_errors(q, truth, [1, 4])
    assert errors.tolist() == [pytest.approx(np.sqrt(12.5)), np.inf]


# === One file, three backends ===
def build(path):
    model = HamiltonianNet(2, hidden_dim=8, friction=True, num_controls=1)
    model.build()
    model.control_kernel.assign([[1.0, -1.0]])
    model.save(path)


def run(path):
    model = keras.saving.load_model(path)
    controls = np.ones((5, 100, 1), "float32")
    q, p = model.rollout(Q, P, 100, 10, controls)
    out = model((Q, P, controls[:, :10]))
    return {"trajectory": numpy(out), "q": q, "p": p}


@pytest.mark.cross_backend
def test_backends_agree(tmp_path):
    differences = compare_backends(__file__, tmp_path)
    assert differences["trajectory"].absolute < 1e-5
    assert differences["q"].absolute < 1e-4
    assert differences["p"].absolute < 1e-4
