import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers.koopman_operator import KoopmanOperator
from orrery.losses.koopman_consistency import KoopmanConsistency
from orrery.testing import run_layer_contract

BATCH, LENGTH, WIDTH = 4, 10, 3
MODES = pytest.mark.parametrize("mode", ["edmd", "gradient"])


@keras.saving.register_keras_serializable(package="orrery_tests")
class Probed(keras.layers.Layer):
    """A dense block and the operator that watches it."""

    def __init__(self, operator, detach="target", weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.block = keras.layers.Dense(WIDTH, activation="tanh")
        self.operator = KoopmanOperator(**operator, dtype=self.dtype_policy)
        self.arguments = operator
        self.loss = KoopmanConsistency(detach=detach)
        self.weight = weight

    def build(self, input_shape):
        self.block.build(input_shape)
        self.operator.build(input_shape)

    def call(self, x, training=False):
        x_next = self.block(x)
        if training and self.weight:
            loss, _ = self.operator.consistency(x, x_next, self.loss, training)
            self.add_loss(self.weight * loss)
        return x_next

    def get_config(self):
        return {**super().get_config(), "operator": self.arguments}


def states(seed=0, batch=BATCH, length=LENGTH, width=WIDTH):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(batch, length, width)).astype("float32")


def built(width=WIDTH, **kwargs):
    operator = KoopmanOperator(**{"lift_dim": 5, **kwargs})
    operator.build((None, None, width))
    return operator


def fitted(x, x_next, **kwargs):
    operator = built(x.shape[-1], **kwargs)
    operator.observe(x, x_next)
    operator.solve()
    return operator


def model_of(layer, learning_rate=0.05, **compile_kwargs):
    inputs = keras.Input((None, WIDTH))
    model = keras.Model(inputs, layer(inputs))
    optimizer = keras.optimizers.SGD(learning_rate)
    model.compile(optimizer, "mse", **compile_kwargs)
    return model


def fit(model, x, y, epochs=1):
    history = model.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0
    )
    return history.history["loss"]


def numpy(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def relative(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def random_kernel(operator, scale=1.0, seed=1):
    shape = operator.kernel.shape
    kernel = scale * np.random.default_rng(seed).normal(size=shape)
    operator.kernel.assign(kernel)
    return numpy(operator.matrix()).astype("float64")


# The contract.


@pytest.mark.parametrize("mode, delays", [("edmd", 2), ("gradient", 0)])
def test_contract(mode, delays):
    run_layer_contract(
        lambda: KoopmanOperator(4, delays, mode),
        states(),
        # At K = I the prediction is the state, whatever the lift.
        trainable_gradients=mode == "gradient",
        reference=lambda operator, x: (
            numpy(operator.lift(x)) @ numpy(operator.matrix()).T
        )[..., :WIDTH],
    )


def test_contract_with_next_state():
    run_layer_contract(
        lambda: KoopmanOperator(4, solve_every=1),
        states(),
        call_kwargs={"x_next": states(1)},
        trainable_gradients=False,
    )


@pytest.mark.parametrize("mode, stable", [("edmd", False), ("gradient", True)])
def test_every_trainable_weight_learns_from_the_consistency(mode, stable):
    operator = {"lift_dim": 4, "delays": 1, "operator": mode, "stable": stable}
    run_layer_contract(lambda: Probed(operator), states())


# The mathematics.


@MODES
def test_starts_as_the_identity(mode):
    x = states()
    operator = built(operator=mode)
    tolerance = 0.0 if mode == "edmd" else 0.02
    np.testing.assert_allclose(numpy(operator(x)), x, atol=tolerance)
    assert operator.distance_from_initial() <= tolerance
    np.testing.assert_allclose(operator.spectrum(), 1.0, atol=1e-2)


@pytest.mark.parametrize("lift_dim", [0, 16])
def test_recovers_a_linear_system(lift_dim):
    width = 32
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(width, width))
    matrix *= 0.95 / np.abs(np.linalg.eigvals(matrix)).max()
    offset = generator.normal(size=width)
    x = generator.normal(size=(100, 100, width)).astype("float32")
    x_next = (x @ matrix.T + offset).astype("float32")
    whole = built(width, lift_dim=lift_dim)
    parts = built(width, lift_dim=lift_dim)
    parts.set_weights(whole.get_weights())
    whole.observe(x, x_next)
    for rows in np.split(np.arange(100), 20):
        parts.observe(x[rows], x_next[rows])
    whole.solve()
    parts.solve()
    estimate = numpy(whole.matrix())
    assert relative(estimate[:width, :width], matrix) < 1e-4
    # Tanh observables explain most of a constant: the ridge shows there.
    assert relative(estimate[:width, width], offset) < 1e-3
    if lift_dim == 0:
        assert relative(numpy(parts.matrix()), estimate) < 1e-5
    assert relative(numpy(parts(x)), numpy(whole(x))) < 1e-5
    assert relative(numpy(whole(x)), x_next) < 1e-4


@pytest.mark.parametrize("delays, exact", [(0, False), (1, True)])
def test_delays_recover_a_map_of_two_tokens(delays, exact):
    x = states(batch=64, length=32, width=6)
    maps = 0.4 * np.random.default_rng(1).normal(size=(2, 6, 6))
    before = np.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    x_next = (x @ maps[0].T + before @ maps[1].T).astype("float32")
    operator = fitted(x, x_next, lift_dim=4, delays=delays)
    error = relative(numpy(operator(x)), x_next)
    if not exact:
        assert error > 0.1
        return
    assert error < 1e-4
    estimate = numpy(operator.matrix())[:6, :12]
    assert relative(estimate, np.concatenate(maps, axis=1)) < 1e-4


def test_the_lift_fits_what_no_affine_map_can():
    x = states(batch=64, length=32)
    x_next = np.abs(x)
    errors = [
        relative(numpy(fitted(x, x_next, lift_dim=dim)(x)), x_next)
        for dim in (0, 64)
    ]
    assert errors[1] < 0.75 * errors[0]


def test_prediction_is_the_tensor_of_the_loss_bit_for_bit():
    x = states()
    operator = built(delays=1)
    random_kernel(operator)
    predicted = operator.decode(operator.advance(operator.lift(x)))
    np.testing.assert_array_equal(numpy(predicted), numpy(operator(x)))


def test_advance_is_a_semigroup_and_keeps_the_constant():
    operator = built(delays=1)
    matrix = random_kernel(operator, scale=0.2)
    constant = 2 * WIDTH
    np.testing.assert_array_equal(
        matrix[constant], np.eye(len(matrix))[constant]
    )
    z = operator.lift(states())
    five = numpy(operator.advance(z, steps=5))
    np.testing.assert_array_equal(five[..., constant], 1.0)
    two_and_three = operator.advance(operator.advance(z, steps=2), steps=3)
    np.testing.assert_allclose(five, numpy(two_and_three), rtol=1e-5)
    power = np.linalg.matrix_power(matrix, 5)
    np.testing.assert_allclose(five, numpy(z) @ power.T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e3])
def test_stable_gradient_operator_has_no_eigenvalue_beyond_one(scale):
    for seed in range(3):
        operator = built(8, operator="gradient", stable=True)
        random_kernel(operator, scale, seed)
        assert np.abs(operator.spectrum()).max() <= 1 + 1e-12
        small = random_kernel(operator, 1e-2, seed)
        np.testing.assert_array_equal(
            numpy(operator.kernel)[0].astype("float64"), small[0]
        )


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e3])
def test_stable_edmd_operator_has_no_eigenvalue_beyond_one(scale):
    x = states(width=8, batch=20)
    growing = np.eye(8) + np.diag(np.ones(7), 1)
    x_next = (scale * x @ growing).astype("float32")
    free = fitted(x, x_next, lift_dim=8)
    assert np.abs(free.spectrum()).max() > 1.0
    assert np.abs(fitted(x, x_next, stable=True).spectrum()).max() <= 1 + 1e-12


def test_spectrum_and_distance():
    operator = built()
    matrix = random_kernel(operator)
    identity = np.eye(len(matrix))
    np.testing.assert_allclose(
        np.sort_complex(operator.spectrum()),
        np.sort_complex(np.linalg.eigvals(matrix)),
    )
    np.testing.assert_allclose(
        operator.distance_from_initial(),
        np.linalg.norm(matrix - identity) / np.linalg.norm(identity),
    )


@pytest.mark.parametrize(
    "mode, delays", [("edmd", 0), ("gradient", 1), ("edmd", 3)]
)
def test_streaming_equals_call(mode, delays):
    x = states()
    operator = built(operator=mode, delays=delays)
    random_kernel(operator)
    expected = numpy(operator(x))
    state = operator.initial_state(BATCH, LENGTH)
    for t in range(LENGTH):
        y, state = operator.step(
            ops.convert_to_tensor(x[:, t : t + 1]), state, t
        )
        assert tuple(y.shape) == (BATCH, 1, WIDTH)
        np.testing.assert_allclose(
            numpy(y)[:, 0], expected[:, t], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("delays", [0, 2])
def test_state_is_the_carry_of_a_loop(delays):
    operator = built(delays=delays)
    random_kernel(operator, scale=0.1)
    start = ops.convert_to_tensor(states(length=1))

    def body(t, y, state):
        return t + 1, *operator.step(y, state, t)

    _, looped, _ = ops.while_loop(
        lambda t, *_: t < 5,
        body,
        (ops.zeros((), "int32"), start, operator.initial_state(BATCH)),
    )
    y, state = start, operator.initial_state(BATCH)
    for t in range(5):
        y, state = operator.step(y, state, t)
    np.testing.assert_allclose(numpy(looped), numpy(y), rtol=1e-5, atol=1e-6)


# Training.


def compilations():
    """The backend's default, and XLA where the backend trusts it."""
    torch = keras.backend.backend() == "torch"
    return ["auto"] if torch else ["auto", True]


@MODES
@pytest.mark.parametrize("jit_compile", compilations())
def test_compiled_fit_learns_to_predict(mode, jit_compile):
    x = states(batch=4 * BATCH)
    layer = Probed(
        {"lift_dim": 8, "delays": 1, "operator": mode, "solve_every": 3}
    )
    operator = layer.operator
    model = model_of(layer, jit_compile=jit_compile)
    losses = fit(model, x, 0.5 * x, epochs=6)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert operator.distance_from_initial() > 1e-3
    if mode == "edmd":
        assert (int(operator.edmd.updates), int(operator.edmd.skipped)) == (
            24,
            0,
        )
        x_next = numpy(model(x))
        _, measures = operator.consistency(x, x_next, KoopmanConsistency())
        assert float(measures["skill"]) > 0.5


def test_solves_every_so_many_calls_from_earlier_tokens_only():
    x = states()
    operator = built(solve_every=3)
    changes = []
    for _ in range(8):
        before = numpy(operator.kernel)
        y = operator(x, 0.5 * x, training=True)
        changes.append(bool(np.any(numpy(operator.kernel) != before)))
        if len(changes) <= 3:
            np.testing.assert_array_equal(numpy(y), x)
    assert changes[:3] == [False] * 3 and changes[3] and changes[6]
    assert not any(changes[t] for t in (4, 5, 7))
    operator(x, 0.5 * x)
    assert int(operator.edmd.updates) == 8


def test_solve_without_data_keeps_the_operator():
    operator = built()
    operator.solve()
    assert operator.distance_from_initial() == 0.0
    x = states()
    operator.observe(x, 0.5 * x)
    operator.reset_statistics()
    operator.solve()
    assert operator.distance_from_initial() == 0.0


def test_training_samples_and_an_exact_pass_does_not():
    x = states(batch=8, length=64)
    operator = built(sample_tokens=100, forget=0.5)
    operator(x, x, training=True)
    assert 50 < float(operator.edmd.count) <= 100
    operator.reset_statistics()
    operator.observe(x, x)
    operator.observe(x, x)
    assert float(operator.edmd.count) == 2 * 8 * 64
    operator.observe(x, x, sample_tokens=100, forget=0.5)
    assert 8 * 64 < float(operator.edmd.count) <= 8 * 64 + 100


def test_batch_with_nan_leaves_operator_and_statistics_alone():
    x = states(batch=3 * BATCH)
    layer = Probed({"lift_dim": 4, "solve_every": 1})
    edmd = layer.operator.edmd
    model = model_of(layer)
    fit(model, x, x)
    weights = [numpy(v) for v in model.trainable_variables]
    statistics = [numpy(v) for v in (edmd.gram, edmd.cross, edmd.count)]
    bad = x[:BATCH].copy()
    bad[1, 2, 0] = np.nan
    fit(model, bad, x[:BATCH])
    for old, new in zip(
        statistics, (edmd.gram, edmd.cross, edmd.count), strict=True
    ):
        np.testing.assert_array_equal(old, numpy(new))
    assert int(edmd.skipped) == 1
    # The optimizer's guard is another layer of defence; here it is played.
    for variable, old in zip(model.trainable_variables, weights, strict=True):
        variable.assign(old)
    fit(model, x, x)
    assert np.isfinite(numpy(layer.operator.kernel)).all()
    assert int(edmd.skipped) == 1


def test_measures():
    x, x_next = states(), states(1)
    operator = built(delays=1)
    random_kernel(operator, scale=0.3)
    loss = KoopmanConsistency()
    value, measures = operator.consistency(x, x_next, loss)
    z, z_next = numpy(operator.lift(x)), numpy(operator.lift(x_next))
    z_predicted = z @ numpy(operator.matrix()).T
    x_predicted = z_predicted[..., :WIDTH]
    expected = {
        "linear": np.sum((z_predicted - z_next) ** 2) / np.sum(z_next**2),
        "state": np.sum((x_predicted - x_next) ** 2) / np.sum(x_next**2),
        "skill": 1
        - np.sum((x_predicted - x_next) ** 2) / np.sum((x_next - x) ** 2),
    }
    assert measures.keys() == expected.keys()
    for name, measure in measures.items():
        np.testing.assert_allclose(numpy(measure), expected[name], rtol=1e-5)
    np.testing.assert_allclose(
        numpy(value), expected["linear"] + expected["state"], rtol=1e-5
    )
    assert int(operator.edmd.updates) == 0


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
@MODES
def test_a_detached_probe_leaves_the_block_bit_identical(mode):
    x = states(batch=2 * BATCH)
    start = states(2, length=1)[0, 0]
    weights = []
    for detach, weight in (("both", 0.0), ("both", 1.0), ("target", 1.0)):
        layer = Probed({"lift_dim": 4, "operator": mode}, detach, weight)
        before = keras.layers.Dense(WIDTH)
        model = model_of(keras.Sequential([before, layer]))
        for dense in (before, layer.block):
            dense.kernel.assign(np.outer(start, start))
        fit(model, x, 0.5 * x, epochs=10)
        weights.append(
            [numpy(v) for v in (*before.weights, *layer.block.weights)]
        )
    base, probed, shaped = weights
    for one, other in zip(base, probed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(
        np.any(one != other) for one, other in zip(base, shaped, strict=True)
    )


# Saving.


def test_file_keeps_the_operator_and_not_the_statistics(tmp_path):
    x = states(batch=4 * BATCH)
    layer = Probed({"lift_dim": 4, "delays": 1, "solve_every": 2})
    operator = layer.operator
    model = model_of(layer)
    fit(model, x, 0.5 * x, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    copy = loaded.layers[-1].operator
    np.testing.assert_array_equal(numpy(copy.kernel), numpy(operator.kernel))
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
    assert operator.distance_from_initial() > 0.0
    assert not any(numpy(v).any() for v in copy.edmd.variables)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    size = len(numpy(operator.kernel))
    assert (tmp_path / "model.weights.h5").stat().st_size < 60_000 + 4 * size**2


def test_a_checkpoint_of_the_variables_resumes_bit_identically():
    x = states(batch=4 * BATCH)
    first, second = (
        model_of(Probed({"lift_dim": 4, "delays": 1, "solve_every": 3}))
        for _ in range(2)
    )
    fit(first, x, 0.5 * x)
    assert any("gram" in v.path for v in first.variables)
    for source, target in zip(first.variables, second.variables, strict=True):
        target.assign(numpy(source))
    assert fit(first, x, 0.5 * x, 2) == fit(second, x, 0.5 * x, 2)
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(other))


# Precision and bad input.


def test_operator_is_float32_under_any_policy():
    x = states(batch=32)
    operator = fitted(x, 0.5 * x, dtype="mixed_bfloat16")
    assert {v.dtype for v in operator.weights} <= {"float32", "int32"}
    y = operator(x)
    assert ops.dtype(y) == "bfloat16"
    assert relative(numpy(ops.cast(y, "float32")), 0.5 * x) < 1e-2
    predicted = operator.advance(operator.lift(x))
    assert ops.dtype(predicted) == "float32"
    assert relative(numpy(operator.decode(predicted)), 0.5 * x) < 1e-4
    state = operator.initial_state(32)
    assert ops.dtype(state[0]) == "bfloat16"


@pytest.mark.parametrize(
    "arguments",
    [
        {"operator": "blocks"},
        {"lift_dim": -1},
        {"delays": -1},
        {"sample_tokens": 0},
        {"solve_every": 0},
        {"forget": 0.0},
        {"ridge": -1.0},
    ],
)
def test_bad_argument(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        KoopmanOperator(**arguments)


@pytest.mark.parametrize("method", ["observe", "solve", "reset_statistics"])
def test_an_operator_trained_by_gradient_has_no_statistics(method):
    arguments = (states(), states()) if method == "observe" else ()
    with pytest.raises(ValueError, match=f"`{method}` needs statistics"):
        getattr(built(operator="gradient"), method)(*arguments)
