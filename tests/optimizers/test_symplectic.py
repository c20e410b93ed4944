"""Damped motion in the loss landscape: what it conserves, what it equals."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.optimizers import SymplecticAdam, SymplecticSGD

RNG = np.random.default_rng(0)
DIM = 10
# Condition number 100, eigenvectors that are no axes.
EIGENVALUES = np.geomspace(0.01, 1.0, DIM)
ROTATION = np.linalg.qr(RNG.normal(size=(DIM, DIM)))[0]
HESSIAN = ROTATION * EIGENVALUES @ ROTATION.T
START = RNG.normal(size=DIM)


def quadratic(x):
    return 0.5 * x @ HESSIAN @ x


def path(optimizer, steps, gradient=lambda x: HESSIAN @ x, start=START):
    """Positions from the start on, `(steps + 1, n)` in float64."""
    variable = keras.Variable(np.asarray(start, "float32"))
    positions = [np.array(start, "float32").astype("float64")]
    for _ in range(steps):
        grad = ops.convert_to_tensor(gradient(positions[-1]), "float32")
        optimizer.apply([grad], [variable])
        positions.append(ops.convert_to_numpy(variable).astype("float64"))
    return np.stack(positions)


OPTIMIZERS = {
    "sgd": lambda: SymplecticSGD(1.0, damping=0.9),
    "sgd with friction": lambda: SymplecticSGD(1.0, friction=0.1),
    "adam": lambda: SymplecticAdam(0.1),
    "adam with a mass held": lambda: SymplecticAdam(0.1, mass_every=10),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reaches_the_minimum_of_a_rotated_quadratic(name):
    found = path(OPTIMIZERS[name](), 500)
    assert quadratic(START) > 0.5
    assert quadratic(found[-1]) < 1e-6


# === Named identities ===
@pytest.mark.parametrize("schedule", [False, True])
def test_without_a_half_start_it_is_heavy_ball(schedule):
    rate = 0.5
    if schedule:
        rate = keras.optimizers.schedules.CosineDecay(0.5, 100)
    ours = SymplecticSGD(rate, damping=0.9, half_start=False)
    heavy_ball = keras.optimizers.SGD(rate, momentum=0.9)
    # Where |x| <= 0.5, whose rounding is below the tolerance.
    ours, theirs = (path(o, 100, start=START / 5) for o in (ours, heavy_ball))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)


def test_with_a_mass_every_step_it_is_adam():
    ours = path(SymplecticAdam(0.01, damping=0.8, beta_2=0.99), 100)
    adam = keras.optimizers.Adam(0.01, beta_1=0.8, beta_2=0.99)
    np.testing.assert_allclose(ours, path(adam, 100), rtol=0, atol=1e-6)


def test_friction_is_a_damping():
    """mu = exp(-gamma h), h the root of the learning rate."""
    ours = path(SymplecticSGD(0.25, friction=0.3), 50)
    same = path(SymplecticSGD(0.25, damping=float(np.exp(-0.3 * 0.5))), 50)
    np.testing.assert_allclose(ours, same, rtol=0, atol=1e-6)


def test_under_a_schedule_the_displacement_is_kept():
    """And not the momentum, which would be rescaled with h."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    found = path(SymplecticSGD(schedule, friction=0.3, half_start=False), 40)
    x, displacement, expected = START, np.zeros(DIM), [START]
    for step in range(40):
        rate = 0.5 * 0.5 ** (step / 10)
        damping = np.exp(-0.3 * np.sqrt(rate))
        displacement = damping * displacement - rate * (HESSIAN @ x)
        x = x + displacement
        expected.append(x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


# === Structure without friction ===
def pendulum_energy(step, time=20.0):
    """Largest error of the energy of a pendulum let go at q = 1."""
    positions = path(
        SymplecticSGD(step**2, damping=1.0), round(time / step), np.sin, [1.0]
    )[:, 0]
    momenta = (positions[2:] - positions[:-2]) / (2 * step)
    energy = 0.5 * momenta**2 - np.cos(positions[1:-1])
    return np.abs(energy + np.cos(1.0)).max()


def test_undamped_it_is_leapfrog():
    """Kick, drift, kick from rest, in NumPy."""
    step, q, p = 0.2, 1.0, 0.0
    found = path(SymplecticSGD(step**2, damping=1.0), 50, np.sin, [1.0])
    for position in found[1:, 0]:
        p -= step / 2 * np.sin(q)
        q += step * p
        p -= step / 2 * np.sin(q)
        assert position == pytest.approx(q, abs=1e-5)


def test_error_of_the_energy_is_of_second_order():
    ratio = pendulum_energy(0.4) / pendulum_energy(0.2)
    assert ratio == pytest.approx(4, rel=0.1)


def test_undamped_it_is_reversible():
    """With the last displacement turned, back over the same positions."""
    start = RNG.normal(size=DIM)
    there = path(SymplecticSGD(0.5, damping=1.0), 60, start=start)
    # A step from the last but one, its displacement the turned last one.
    back = SymplecticSGD(0.5, damping=1.0, half_start=False)
    variable = keras.Variable(there[-2].astype("float32"))
    back.build([variable])
    back.displacements[0].assign((there[-2] - there[-1]).astype("float32"))
    again = [there[-1], there[-2]]
    for _ in range(59):
        grad = ops.convert_to_tensor(HESSIAN @ again[-1], "float32")
        back.apply([grad], [variable])
        again.append(ops.convert_to_numpy(variable).astype("float64"))
    np.testing.assert_allclose(again[:-1], there[:0:-1], atol=1e-5)


@pytest.mark.parametrize("half_start", [True, False])
def test_with_friction_total_energy_never_rises(half_start):
    """`|p|^2 / 2 + f` where `h^2 lambda <= 1 - mu`."""
    rate, damping = 0.1, 0.9
    optimizer = SymplecticSGD(rate, damping=damping, half_start=half_start)
    positions = path(optimizer, 300)
    moved = np.diff(positions, axis=0, prepend=positions[:1])
    energy = 0.5 * (moved**2).sum(-1) / rate
    energy += [quadratic(x) for x in positions]
    assert np.all(np.diff(energy) <= 1e-6 * energy[:-1])
    assert energy[-1] < 0.01 * energy[0]


def flow(step, dim):
    """The matrix of a linear map, column by column."""
    return np.stack([step(column) for column in np.eye(dim)], axis=1)


def test_flow_at_a_held_mass_is_conformally_symplectic():
    """`J^T Omega J = mu Omega` for a step of Adam between two masses."""
    n, damping = 3, 0.8
    hessian = HESSIAN[:n, :n] + np.eye(n)
    squares = np.array([0.5, 1.0, 2.0], "float32")

    def step(state):
        optimizer = SymplecticAdam(0.1, damping, mass_every=100)
        variable = keras.Variable(state[:n].astype("float32"))
        optimizer.build([variable])
        optimizer.iterations.assign(7)
        optimizer.squares[0].assign(squares)
        optimizer.momenta[0].assign(state[n:].astype("float32"))
        grad = ops.convert_to_tensor(hessian @ state[:n], "float32")
        optimizer.apply([grad], [variable])
        return np.concatenate(
            [
                ops.convert_to_numpy(variable),
                ops.convert_to_numpy(optimizer.momenta[0]),
            ]
        ).astype("float64")

    jacobian = flow(step, 2 * n)
    zero, one = np.zeros((n, n)), np.eye(n)
    omega = np.block([[zero, one], [-one, zero]])
    np.testing.assert_allclose(
        jacobian.T @ omega @ jacobian, damping * omega, atol=1e-6
    )


# === First steps ===
@pytest.mark.parametrize("rate", [1e-3, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("half_start", [True, False])
@pytest.mark.parametrize("kind", [SymplecticSGD, SymplecticAdam])
def test_first_step_descends(kind, half_start, rate):
    optimizer = kind(rate, half_start=half_start)
    first = path(optimizer, 1, lambda x: x, [1.0])[1, 0]
    expected = 1 - rate * (0.5 if half_start else 1.0)
    assert first == pytest.approx(expected, abs=1e-5)


def test_the_first_step_of_adam_is_the_rate():
    """Whatever the size of the gradient."""
    for size in (1e-2, 1e3):
        found = path(SymplecticAdam(0.1), 1, lambda x, s=size: s * x, [1.0])
        assert found[1, 0] == pytest.approx(0.9, abs=1e-4)


# === As Keras optimizers ===
def test_mass_is_held_between_its_updates():
    optimizer = SymplecticAdam(0.01, mass_every=3)
    variable = keras.Variable(np.ones(2, "float32"))
    seen = []
    for k in range(7):
        grad = ops.convert_to_tensor(np.full(2, 1.0 + k, "float32"))
        optimizer.apply([grad], [variable])
        seen.append(float(ops.convert_to_numpy(optimizer.squares[0])[0]))
    assert seen[0] == seen[1] == seen[2] < seen[3] == seen[4] == seen[5]
    assert seen[5] < seen[6]


@pytest.mark.parametrize(
    "optimizer",
    [
        SymplecticSGD(
            keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5),
            friction=0.5,
            half_start=False,
            weight_decay=0.01,
            global_clipnorm=1.0,
        ),
        SymplecticAdam(0.01, 0.7, 0.9, 1e-6, 4, True, clipnorm=2.0),
    ],
    ids=["sgd", "adam"],
)
def test_fit_save_load_and_go_on(optimizer, tmp_path):
    """An embedding's gradient is sparse on TensorFlow."""
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(7, 2),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    x = RNG.integers(0, 7, (8, 3)).astype("int32")
    y = RNG.normal(size=(8, 1)).astype("float32")
    model.compile(optimizer, "mse")
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
    losses = model.fit(x, y, epochs=8, **fit).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == optimizer.get_config()
    again = [m.fit(x, y, **fit).history["loss"] for m in (model, loaded)]
    np.testing.assert_allclose(*again, rtol=1e-6)


def test_base_class_gives_decay_and_clipping():
    decayed = path(
        SymplecticSGD(0.1, weight_decay=0.5), 1, np.zeros_like, [1.0]
    )
    assert decayed[1, 0] == pytest.approx(0.95, abs=1e-6)
    clipped = path(
        SymplecticSGD(0.1, half_start=False, clipnorm=0.5),
        1,
        lambda x: 100 * x,
        [1.0],
    )
    assert clipped[1, 0] == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SymplecticSGD(damping=1.5), "damping"),
        (lambda: SymplecticSGD(damping=-0.1), "damping"),
        (lambda: SymplecticSGD(damping=float("nan")), "damping"),
        (lambda: SymplecticSGD(friction=-1.0), "friction"),
        (lambda: SymplecticSGD(friction="a"), "friction.*'a'"),
        (lambda: SymplecticSGD(friction=1.0, damping=0.9), "friction.*damping"),
        (lambda: SymplecticSGD(learning_rate=0.0), "learning_rate"),
        (lambda: SymplecticSGD(learning_rate=-1.0), "learning_rate"),
        (lambda: SymplecticSGD(float("inf")), "learning_rate.*schedule"),
        (lambda: SymplecticSGD("a"), "learning_rate"),
        (lambda: SymplecticAdam(damping=1.0), "damping"),
        (lambda: SymplecticAdam(damping=None), "damping.*None"),
        (lambda: SymplecticAdam(beta_2=1.0), "beta_2"),
        (lambda: SymplecticAdam(epsilon=0.0), "epsilon"),
        (lambda: SymplecticAdam(mass_every=0), "mass_every"),
        (lambda: SymplecticAdam(mass_every=1.5), "mass_every"),
        (lambda: SymplecticAdam(mass_every=True), "mass_every"),
        (lambda: SymplecticAdam(learning_rate=-1e-3), "learning_rate"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_numpy_are_numbers():
    sgd = SymplecticSGD(np.float32(0.5), friction=np.float64(0.1))
    adam = SymplecticAdam(1, mass_every=np.int64(3))
    json.dumps([sgd.get_config(), adam.get_config()])
    assert adam.get_config()["mass_every"] == 3
