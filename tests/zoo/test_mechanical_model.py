"""What all learned mechanical models share: inputs, control, saving."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.datasets import TrajectoryWindows
from orrery.layers import HarmonicPotential
from orrery.testing import compare_backends
from orrery.zoo import HamiltonianNet, NeuralODE, PlainHNN
from orrery.zoo.mechanical_state import split_state

# On JAX every new shape is compiled: few of them, small ones.
RNG = np.random.default_rng(0)
Q, P = RNG.normal(size=(2, 5, 2)).astype("float32")
MODELS = {
    "hamiltonian": lambda **k: HamiltonianNet(2, hidden_dim=8, **k),
    "friction": lambda **k: HamiltonianNet(2, hidden_dim=8, friction=True, **k),
    "plain_hnn": lambda **k: PlainHNN(2, 8, **k),
    "neural_ode": lambda **k: NeuralODE(2, 8, **k),
}


@pytest.fixture(params=MODELS)
def model(request):
    model = MODELS[request.param](num_steps=2)
    model.build()
    return model


@keras.saving.register_keras_serializable(package="tests")
class Spring:
    """A plain object with a constant."""

    def __init__(self, stiffness):
        self.stiffness = stiffness

    def energy(self, q, context=None):
        return 0.5 * self.stiffness * ops.sum(q * q, axis=-1)

    def force(self, q, context=None):
        return -self.stiffness * q

    def get_config(self):
        return {"stiffness": self.stiffness}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def trajectory(model, *inputs):
    return split_state(numpy(model(inputs)))


def test_a_call_is_the_beginning_of_a_rollout(model):
    for x, y in zip(
        trajectory(model, Q, P), model.rollout(Q, P, 2), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=2e-6)


def test_control_enters_as_a_force():
    """Held over a step: p grows by dt B u, and q by half of that."""
    almost_free = HarmonicPotential(omega=1e-4)
    model = HamiltonianNet(2, almost_free, mass=1.0, num_controls=3)
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


def test_computes_in_float32_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = HamiltonianNet(2, hidden_dim=8)
        out = model((Q, P))
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(out.dtype) == "float32"
    np.testing.assert_array_equal(numpy(out)[:, 0], np.hstack([Q, P]))


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


BROKEN = np.where(np.eye(5, 2) == 1, np.nan, Q)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"q": Q, "p": BROKEN}, r"`p` must be finite.*nan at \(0, 0\)"),
        ((BROKEN, P), "`q` must be finite"),
        ((Q, P, np.full((5, 2, 1), np.inf)), "`controls` must be.*inf"),
        (np.hstack([Q, BROKEN]), r"`inputs` must be finite.*\(0, 2\)"),
    ],
)
def test_states_that_are_not_finite_are_named(inputs, message):
    """Training on them would make every weight NaN, and say nothing."""
    controlled = isinstance(inputs, tuple) and len(inputs) == 3
    model = MODELS["hamiltonian"](num_steps=2, num_controls=int(controlled))
    model.compile("adam", "mse")
    truth = np.zeros((5, 3, 4), "float32")
    for use in (model, lambda x: model.fit(x, truth, verbose=0)):
        with pytest.raises(ValueError, match=message):
            use(inputs)


def test_trajectories_that_are_not_finite_are_named():
    model = MODELS["hamiltonian"](num_steps=2)
    model.compile("adam", "mse")
    truth = np.zeros((5, 3, 4), "float32")
    truth[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"`y` must be finite.*\(1, 2, 3\)"):
        model.fit({"q": Q, "p": P}, truth, verbose=0)


def test_numbers_of_numpy_make_a_plain_config():
    one = np.int64(1)
    for model in (
        HamiltonianNet(
            one,
            hidden_dim=np.int64(4),
            substeps=one,
            num_steps=np.int64(2),
            step_size=np.float32(0.5),
            num_controls=one,
            units={"q": np.float32(2)},
            mass=np.float32(2),
        ),
        PlainHNN(one, np.int64(4)),
        NeuralODE(one, np.int64(4)),
    ):
        config = json.loads(json.dumps(model.get_config()))
        assert type(model).from_config(config).get_config() == config


def test_a_rollout_takes_the_step_and_the_potential_as_they_are():
    """Its loop is compiled, and they are no weights."""
    potential = Spring(1.0)
    model = HamiltonianNet(2, potential, mass=1.0, step_size=0.1)
    first = model.rollout(Q, P, 3)
    potential.stiffness = 4.0
    stiff = model.rollout(Q, P, 3)
    model.step_size = 0.2
    found = model.rollout(Q, P, 3)
    for states, k, step_size in (
        (first, 1.0, 0.1),
        (stiff, 4.0, 0.1),
        (found, 4.0, 0.2),
    ):
        fresh = HamiltonianNet(2, Spring(k), mass=1.0, step_size=step_size)
        for x, y in zip(states, fresh.rollout(Q, P, 3), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)


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
