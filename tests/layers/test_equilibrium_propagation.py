"""Equilibrium propagation against the implicit gradient, in NumPy float64."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import EquilibriumPropagation, HopfieldEnergy
from orrery.testing import run_layer_contract

RNG = np.random.default_rng(0)
WIDTHS = (4, 6, 3)
X = RNG.normal(size=(5, WIDTHS[0]))
TARGET = np.eye(3)[[0, 1, 2, 1, 0]]


# === The reference: one example, states in one row ===
class Reference:
    """Energy of two layers, its equilibria and gradients, in float64."""

    def __init__(self, weights, x, target, rho="tanh"):
        self.weights, self.target = weights, target
        self.flat = rho != "tanh"
        self.x = self.act(x)

    def act(self, s):
        return np.clip(s, 0, 1) if self.flat else np.tanh(s)

    def drives(self, s1, s2):
        w1, b1, w2, b2 = self.weights
        return (
            self.x @ w1 + b1 + self.act(s2) @ w2.T,
            self.act(s1) @ w2 + b2,
        )

    def split(self, s):
        return s[: WIDTHS[1]], s[WIDTHS[1] :]

    def energy(self, s):
        w1, b1, w2, b2 = self.weights
        s1, s2 = self.split(s)
        r1, r2 = self.act(s1), self.act(s2)
        return 0.5 * s @ s - r1 @ (self.x @ w1 + b1) - r2 @ (r1 @ w2 + b2)

    def gradient(self, s, beta=0.0):
        d1, d2 = self.drives(*self.split(s))
        slope = 1.0 if self.flat else 1 - np.tanh(s) ** 2
        nudge = np.zeros_like(s)
        nudge[WIDTHS[1] :] = beta * (s[WIDTHS[1] :] - self.target)
        return s - slope * np.concatenate([d1, d2]) + nudge

    def hessian(self, s, beta=0.0):
        w2 = self.weights[2]
        r = np.tanh(s)
        slope, curvature = 1 - r**2, -2 * r * (1 - r**2)
        drives = np.concatenate(self.drives(*self.split(s)))
        found = np.diag(1 - curvature * drives)
        n = WIDTHS[1]
        found[n:, n:] += beta * np.eye(len(s) - n)
        cross = -slope[:n, None] * w2 * slope[None, n:]
        found[:n, n:] += cross
        found[n:, :n] += cross.T
        return found

    def equilibrium(self, beta=0.0, start=None):
        """Descent, then Newton to the last digit."""
        s = np.zeros(sum(WIDTHS[1:])) if start is None else start
        for _ in range(400):
            s = s - 0.4 * self.gradient(s, beta)
            s = np.clip(s, 0, 1) if self.flat else s
        for _ in range(0 if self.flat else 5):
            s = s - np.linalg.solve(
                self.hessian(s, beta), self.gradient(s, beta)
            )
        return s

    def parameter_gradient(self, s):
        """`dE/dtheta` in the order of the weights."""
        r1, r2 = map(self.act, self.split(s))
        return [-np.outer(self.x, r1), -r1, -np.outer(r1, r2), -r2]

    def implicit(self):
        """`-a^T d2E/(ds dtheta)` with `(d2E/ds2) a = dC/ds` at `s*`."""
        s = self.equilibrium()
        s1, s2 = self.split(s)
        pull = np.concatenate([np.zeros(WIDTHS[1]), s2 - self.target])
        a = np.linalg.solve(self.hessian(s), pull)
        slope = 1 - np.tanh(s) ** 2
        m1, m2 = self.split(slope * a)
        r1, r2 = np.tanh(s1), np.tanh(s2)
        return [
            np.outer(self.x, m1),
            m1,
            np.outer(m1, r2) + np.outer(r1, m2),
            m2,
        ]

    def propagated(self, beta, symmetric=True):
        free = self.equilibrium()
        pulled = self.equilibrium(beta, free)
        pushed = self.equilibrium(-beta, free) if symmetric else free
        apart = 2 * beta if symmetric else beta
        return [
            (up - down) / apart
            for up, down in zip(
                self.parameter_gradient(pulled),
                self.parameter_gradient(pushed),
                strict=True,
            )
        ]


def numpy_of(tensor):
    return ops.convert_to_numpy(ops.stop_gradient(tensor)).astype("float64")


def make(beta=0.1, rho="tanh", **options):
    """A built layer with weights well below one, the same everywhere."""
    layer = EquilibriumPropagation(HopfieldEnergy(WIDTHS[1:], rho), beta)
    if options:
        layer = EquilibriumPropagation(layer.energy, beta, **options)
    layer.build((None, WIDTHS[0]))
    generator = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        scale = 0.5 * weight.shape[0] ** -0.5 if len(weight.shape) > 1 else 0.3
        weight.assign(scale * generator.normal(size=weight.shape))
    return layer


def references(layer, rho="tanh"):
    """One for each example, with the weights of the layer."""
    names = ("kernel_1", "bias_1", "kernel_2", "bias_2")
    by_name = {w.name: numpy_of(w) for w in layer.trainable_weights}
    weights = [by_name[name] for name in names]
    return [
        Reference(weights, x, y, rho) for x, y in zip(X, TARGET, strict=True)
    ]


def mean(gradients):
    return [np.mean(block, axis=0) for block in zip(*gradients, strict=True)]


def flat(gradients):
    return np.concatenate([block.ravel() for block in gradients])


def cosine(a, b):
    return np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))


def tensors():
    return (
        ops.convert_to_tensor(X, "float32"),
        ops.convert_to_tensor(TARGET, "float32"),
    )


# === The energy ===
@pytest.mark.parametrize("rho", ["tanh", "hard_sigmoid"])
def test_energy_and_gradient_are_those_of_numpy(rho):
    layer, x = make(rho=rho), tensors()[0]
    states = RNG.uniform(0.1, 0.9, (5, sum(WIDTHS[1:])))
    split = [states[:, : WIDTHS[1]], states[:, WIDTHS[1] :]]
    split = [ops.convert_to_tensor(s, "float32") for s in split]
    rows = references(layer, rho)
    energies = numpy_of(layer.energy((x, *split)))
    gradients = np.concatenate(
        [numpy_of(g) for g in layer.energy.state_gradient(split, x)], axis=-1
    )
    for row, s, energy, gradient in zip(
        rows, states, energies, gradients, strict=True
    ):
        assert energy == pytest.approx(row.energy(s), abs=1e-5)
        np.testing.assert_allclose(gradient, row.gradient(s), atol=1e-5)
        differences = [
            (row.energy(s + e) - row.energy(s - e)) / 2e-5
            for e in 1e-5 * np.eye(len(s))
        ]
        np.testing.assert_allclose(row.gradient(s), differences, atol=1e-8)


def test_contract_of_the_energy():
    arrays = [RNG.normal(size=(4, n)) for n in (3, 5, 2)]
    run_layer_contract(lambda: HopfieldEnergy((5, 2)), tuple(arrays))


@keras.saving.register_keras_serializable(package="tests")
class Scaled(EquilibriumPropagation):
    """With one weight that a gradient reaches: the output is a constant."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(), initializer="ones")
        super().build(input_shape)

    def call(self, x):
        return super().call(x) * self.scale


def test_contract_of_the_relaxation():
    run_layer_contract(
        lambda: Scaled(HopfieldEnergy((5, 2), "hard_sigmoid"), max_steps=100),
        RNG.normal(size=(4, 3)),
        trainable_gradients=False,
        bfloat16_tolerance=0.1,
    )


# === Relaxation ===
@pytest.mark.parametrize("rho", ["tanh", "hard_sigmoid"])
@pytest.mark.parametrize("beta", [0.0, 0.2, -0.2])
def test_relaxes_to_the_equilibrium(rho, beta):
    layer = make(rho=rho)
    x, target = tensors()
    found = layer.relax(x, target, beta)
    assert float(found.residual) <= 1e-6
    assert 1 < int(found.steps) < layer.max_steps
    states = np.concatenate([numpy_of(s) for s in found.states], axis=-1)
    for row, s in zip(references(layer, rho), states, strict=True):
        np.testing.assert_allclose(s, row.equilibrium(beta), atol=1e-5)


def test_stops_at_its_limit_and_says_so():
    layer, (x, _) = make(max_steps=3), tensors()
    found = layer.relax(x)
    assert int(found.steps) == 3
    assert float(found.residual) > 1e-6


# === The gradient ===
def test_error_falls_with_the_square_of_beta():
    """Symmetric; one-sided with beta itself. NumPy float64."""
    rows = references(make())
    exact = np.concatenate(
        [g.ravel() for g in mean(r.implicit() for r in rows)]
    )
    for symmetric, order in ((True, 2), (False, 1)):
        betas = np.array([0.03, 0.1, 0.3])
        errors = []
        for beta in betas:
            found = flat(mean(r.propagated(beta, symmetric) for r in rows))
            errors.append(np.linalg.norm(found - exact))
        slope = np.polyfit(np.log(betas), np.log(errors), 1)[0]
        assert slope == pytest.approx(order, abs=0.15)


def test_implicit_gradient_is_the_slope_of_the_cost():
    row = references(make())[0]
    for block, (weight, gradient) in enumerate(
        zip(row.weights, row.implicit(), strict=True)
    ):
        index = tuple(0 for _ in weight.shape)
        costs = []
        for change in (1e-5, -1e-5):
            weights = [w.copy() for w in row.weights]
            weights[block][index] += change
            moved = Reference(weights, np.arctanh(row.x), row.target)
            output = moved.split(moved.equilibrium())[1]
            costs.append(0.5 * np.sum((output - row.target) ** 2))
        slope = (costs[0] - costs[1]) / 2e-5
        assert gradient[index] == pytest.approx(slope, abs=1e-8)


class Surrogate(keras.layers.Layer):
    """The surrogate of constants, for one step of plain descent."""

    def __init__(self, layer):
        super().__init__()
        self.inner = layer

    def call(self, x):
        free = self.inner.relax(x)
        target = ops.convert_to_tensor(TARGET, "float32")
        return self.inner.surrogate(x, *self.inner.nudge(x, target, free))

    def compute_output_shape(self, input_shape):
        return input_shape[:1]


def moved(layer):
    """The gradient of the surrogate's mean, by a step of rate 1."""
    weights = {w.name: w for w in layer.trainable_weights}
    layers = range(1, len(layer.energy.units) + 1)
    names = [f"{part}_{k}" for k in layers for part in ("kernel", "bias")]
    before = [numpy_of(weights[name]) for name in names]
    inputs = keras.Input((WIDTHS[0],))
    model = keras.Model(inputs, Surrogate(layer)(inputs))
    model.compile(keras.optimizers.SGD(1.0), lambda y, found: found)
    x = X.astype("float32")
    model.fit(x, x[:, 0], batch_size=len(X), shuffle=False, verbose=0)
    return [
        old - numpy_of(weights[name])
        for old, name in zip(before, names, strict=True)
    ]


@pytest.mark.parametrize("nudging", ["symmetric", "one_sided"])
def test_gradient_of_the_surrogate_is_that_of_equilibrium_propagation(nudging):
    """At the same states to 1e-6; those of NumPy are a little elsewhere."""
    beta, symmetric = 0.3, nudging == "symmetric"
    layer = make(beta=beta, nudging=nudging)
    rows = references(layer)
    x, target = tensors()
    pair = layer.nudge(x, target, layer.relax(x))
    ends = [
        np.concatenate([numpy_of(s) for s in end.states], axis=-1)
        for end in pair
    ]
    apart = 2 * beta if symmetric else beta
    at_states = mean(
        [
            (up - down) / apart
            for up, down in zip(
                *(row.parameter_gradient(s) for s in pair), strict=True
            )
        ]
        for row, *pair in zip(rows, *ends, strict=True)
    )
    reference = mean(row.propagated(beta, symmetric) for row in rows)
    for found, same, near in zip(
        moved(layer), at_states, reference, strict=True
    ):
        np.testing.assert_allclose(found, same, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found, near, rtol=0, atol=2e-5)


def test_agrees_with_the_implicit_gradient_at_a_small_beta():
    layer = make(beta=1e-3)
    expected = mean(r.implicit() for r in references(layer))
    for found, block in zip(moved(layer), expected, strict=True):
        assert cosine(found, block) > 0.99


@pytest.mark.parametrize(
    ("nudging", "order"), [("symmetric", 2), ("one_sided", 1)]
)
def test_error_of_the_layer_falls_with_beta(nudging, order):
    """As that of NumPy does above; the next order shows at beta = 0.3."""
    errors, betas = [], (0.03, 0.1, 0.3)
    for beta in betas:
        layer = make(beta=beta, nudging=nudging)
        exact = flat(mean(row.implicit() for row in references(layer)))
        errors.append(np.linalg.norm(flat(moved(layer)) - exact))
    slope = np.polyfit(np.log(betas), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.2)


def relaxed_cost(weights, rho):
    """The mean cost at rest, float64, for any number of layers."""

    def act(s):
        return np.tanh(s) if rho == "tanh" else np.clip(s, 0, 1)

    kernels, biases = weights[::2], weights[1::2]
    states = [np.zeros((len(X), len(b))) for b in biases]
    for _ in range(300):
        active = [act(X), *map(act, states)]
        after = []
        for k, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            drive = active[k] @ kernel + bias
            if k + 1 < len(kernels):
                drive = drive + active[k + 2] @ kernels[k + 1].T
            steep = 1 - active[k + 1] ** 2 if rho == "tanh" else 1.0
            s = states[k] - 0.4 * (states[k] - steep * drive)
            after.append(s if rho == "tanh" else np.clip(s, 0, 1))
        states = after
    return 0.5 * np.sum((states[-1] - TARGET) ** 2, axis=-1).mean()


@pytest.mark.parametrize("rho", ["tanh", "hard_sigmoid"])
def test_two_hidden_layers_agree_with_differences_of_the_cost(rho):
    layer = EquilibriumPropagation(HopfieldEnergy((4, 4, 3), rho), 1e-2)
    layer.build((None, WIDTHS[0]))
    generator = np.random.default_rng(2)
    weights = []
    for weight in layer.trainable_weights:
        wide = len(weight.shape) > 1
        value = generator.normal(size=weight.shape)
        # Biases that keep most states off the walls of the hard sigmoid.
        value = 0.25 * value if wide else 0.5 + 0.05 * value
        weights.append(value.astype("float32").astype("float64"))
        weight.assign(value)
    for block, found in enumerate(moved(layer)):
        expected = np.zeros_like(found)
        for index in np.ndindex(found.shape):
            costs = []
            for change in (1e-5, -1e-5):
                changed = [w.copy() for w in weights]
                changed[block][index] += change
                costs.append(relaxed_cost(changed, rho))
            expected[index] = (costs[0] - costs[1]) / 2e-5
        assert cosine(found, expected) > 0.999
        np.testing.assert_allclose(found, expected, atol=2e-3)


# === Bad input ===
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: HopfieldEnergy(()), ValueError, "units"),
        (lambda: HopfieldEnergy((3, 0)), ValueError, "units"),
        (lambda: HopfieldEnergy(3), ValueError, "units"),
        (lambda: HopfieldEnergy((True, 3)), ValueError, "units"),
        (lambda: HopfieldEnergy((3.0,)), ValueError, "units"),
        (lambda: HopfieldEnergy((3,), rho="relu"), ValueError, "rho"),
        (lambda: EquilibriumPropagation(None), TypeError, "energy"),
        *(
            (
                lambda k=k, v=v: EquilibriumPropagation(
                    HopfieldEnergy((3,)), **{k: v}
                ),
                ValueError,
                k,
            )
            for k, v in (
                ("beta", 0.0),
                ("beta", 1.0),
                ("nudging", "none"),
                ("step_size", 0.0),
                ("step_size", 2.0),
                ("max_steps", 0),
                ("tolerance", 0.0),
                ("tolerance", float("inf")),
                ("beta", None),
                ("beta", "a"),
                ("step_size", True),
                ("max_steps", True),
                ("max_steps", 5.0),
            )
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_numbers_of_numpy_make_a_plain_config():
    energy = HopfieldEnergy((np.int64(4), 3))
    layer = EquilibriumPropagation(
        energy,
        beta=np.float32(0.25),
        step_size=np.float32(0.5),
        max_steps=np.int64(5),
        tolerance=np.float32(1e-5),
    )
    config = json.loads(json.dumps(layer.get_config()))
    assert (config["beta"], config["max_steps"]) == (0.25, 5)


def test_states_of_another_width_are_named():
    with pytest.raises(ValueError, match="widths"):
        HopfieldEnergy((3, 2))((np.ones((4, 5)), np.ones((4, 3))))


@pytest.mark.parametrize("target", [None, np.ones((2, 1)), np.ones(3)])
def test_a_nudge_needs_a_target_of_the_outputs_shape(target):
    layer = EquilibriumPropagation(HopfieldEnergy((4, 3)))
    x = ops.ones((2, 5))
    with pytest.raises(ValueError, match=r"build\(input_shape\)"):
        layer.relax(x)
    layer.build((None, 5))
    with pytest.raises(ValueError, match=r"`target`.*\(batch, 3\)"):
        layer.relax(x, target, beta=0.1)
