import json
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from orrery.optimizers.guarded_optimizer import GuardedOptimizer

BATCH, DIM = 4, 3


def arrays(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def state(model):
    """All that a skipped batch must leave alone."""
    return arrays(
        model.trainable_variables + model.optimizer.inner_optimizer.variables
    )


def compiled(optimizer, probe_scale=None, loss="mse"):
    """A linear model; beside it a probe that adds a loss of any size."""
    inputs = keras.Input((DIM,))
    outputs = keras.layers.Dense(1, name="dense")(inputs)
    if probe_scale is not None:
        probe = keras.layers.Dense(1, name="koopman_operator_0")(
            ops.stop_gradient(outputs)
        )
        outputs = [outputs, probe * probe_scale]
        loss = [loss, loss]
    model = keras.Model(inputs, outputs)
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.weights])
    model.compile(optimizer, loss)
    return model


def data(rows=BATCH):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(rows, DIM)).astype("float32")
    return x, generator.normal(size=(rows, 1)).astype("float32")


def fit(model, x, y):
    outputs = len(model.outputs)
    targets = [y] * outputs if outputs > 1 else y
    model.fit(x, targets, batch_size=BATCH, shuffle=False, verbose=0)


def gradients(kernel, bias, x, y):
    """Of the mean squared error of the linear model, in float64."""
    error = x.astype("float64") @ kernel + bias - y
    return 2 * x.T @ error / len(x), 2 * error.mean(axis=0)


def adamw():
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 10)
    return keras.optimizers.AdamW(schedule)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["inputs", "targets"])
def test_a_bad_batch_changes_nothing_and_is_counted(bad, where):
    model = compiled(GuardedOptimizer(adamw()))
    x, y = data()
    fit(model, x, y)
    before = state(model)
    (x if where == "inputs" else y)[1, 0] = bad
    fit(model, x, y)
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(model.optimizer.skipped) == 1
    assert int(model.optimizer.iterations) == 1
    fit(model, *data())
    assert int(model.optimizer.iterations) == 2
    assert any(
        np.any(old != new)
        for old, new in zip(before, state(model), strict=True)
    )


def test_training_continues_as_if_the_bad_batch_had_not_been():
    x, y = data(3 * BATCH)
    y[BATCH] = np.nan
    good = np.delete(np.arange(3 * BATCH), slice(BATCH, 2 * BATCH))
    with_bad, without = (compiled(GuardedOptimizer(adamw())) for _ in range(2))
    fit(with_bad, x, y)
    fit(without, x[good], y[good])
    for old, new in zip(state(with_bad), state(without), strict=True):
        np.testing.assert_array_equal(old, new)


def test_one_bad_gradient_skips_all():
    model = compiled(GuardedOptimizer(adamw()), probe_scale=np.inf)
    before = state(model)
    fit(model, *data())
    # The iteration counter and the moments are among the state compared.
    for old, new in zip(before, state(model)[: len(before)], strict=False):
        np.testing.assert_array_equal(old, new)
    assert int(model.optimizer.skipped) == 1


def test_an_infinite_loss_with_finite_gradients_is_caught():
    def loss(y_true, y_pred):
        constant = ops.stop_gradient(ops.sum(y_pred) * 0 + float("inf"))
        return ops.mean(ops.square(y_true - y_pred), axis=-1) + constant

    model = compiled(GuardedOptimizer(keras.optimizers.SGD(0.1)), loss=loss)
    before = state(model)
    fit(model, *data())
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(model.optimizer.skipped) == 1


@pytest.mark.parametrize("clip_norm", [0.1, 1e3, None])
def test_clips_by_the_norm_of_the_group(clip_norm):
    rate = 0.5
    optimizer = GuardedOptimizer(keras.optimizers.SGD(rate), clip_norm)
    model = compiled(optimizer)
    kernel, bias = arrays(model.trainable_variables)
    x, y = data()
    fit(model, x, y)
    expected = gradients(kernel, bias, x, y)
    norm = np.sqrt(sum((g**2).sum() for g in expected))
    scale = min(1.0, (clip_norm or np.inf) / norm)
    for old, new, gradient in zip(
        (kernel, bias), arrays(model.trainable_variables), expected, strict=True
    ):
        np.testing.assert_allclose(
            new, old - rate * scale * gradient, rtol=1e-5, atol=1e-6
        )


def test_a_probe_however_large_leaves_the_model_alone():
    after = []
    for scale in (1.0, 1e4):
        model = compiled(
            GuardedOptimizer(keras.optimizers.AdamW(1e-2), 0.1), scale
        )
        for _ in range(3):
            fit(model, *data())
        after.append(arrays(model.get_layer("dense").variables))
        probe = arrays(model.get_layer("koopman_operator_0").variables)
        assert not np.allclose(probe[0], 0)
    for small, large in zip(*after, strict=True):
        np.testing.assert_array_equal(small, large)
    alone = compiled(GuardedOptimizer(keras.optimizers.AdamW(1e-2), 0.1))
    for _ in range(3):
        fit(alone, *data())
    for one, other in zip(arrays(alone.variables), after[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_repeated_rows_of_an_embedding_are_summed_before_the_norm():
    inputs = keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Embedding(5, 2)(inputs))
    table = arrays(model.trainable_variables)[0].astype("float64")
    optimizer = GuardedOptimizer(keras.optimizers.SGD(1.0), clip_norm=0.1)
    model.compile(optimizer, "mse")
    tokens = np.array([[1, 1, 4]], "int32")
    target = np.ones((1, 3, 2), "float32")
    model.fit(tokens, target, verbose=0)
    gradient = np.zeros_like(table)
    np.add.at(gradient, tokens[0], 2 * (table[tokens[0]] - 1) / 6)
    gradient *= 0.1 / np.linalg.norm(gradient)
    np.testing.assert_allclose(
        arrays(model.trainable_variables)[0], table - gradient, atol=1e-6
    )


@pytest.mark.parametrize("matrices_only", [True, False])
def test_decay_leaves_out_what_is_not_a_matrix(matrices_only):
    inner = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    model = compiled(GuardedOptimizer(inner, decay_matrices_only=matrices_only))
    kernel, bias = arrays(model.trainable_variables)
    x = np.zeros((BATCH, DIM), "float32")
    y = np.full((BATCH, 1), bias[0], "float32")
    fit(model, x, y)  # gradients are zero: decay alone moves anything
    new_kernel, new_bias = arrays(model.trainable_variables)
    np.testing.assert_allclose(new_kernel, 0.95 * kernel, rtol=1e-5)
    factor = 1.0 if matrices_only else 0.95
    np.testing.assert_allclose(new_bias, factor * bias, rtol=1e-5)


def test_config_round_trip():
    optimizer = GuardedOptimizer(
        adamw(), clip_norm=1.5, separate=("a", "b"), decay_matrices_only=False
    )
    config = json.loads(
        json.dumps(keras.saving.serialize_keras_object(optimizer))
    )
    rebuilt = keras.saving.deserialize_keras_object(config)
    assert isinstance(rebuilt, GuardedOptimizer)
    assert rebuilt.get_config() == optimizer.get_config()
    assert rebuilt.separate == ("a", "b")


def test_a_saved_model_trains_on_as_the_original(tmp_path):
    model = compiled(GuardedOptimizer(keras.optimizers.AdamW(1e-2)))
    x, y = data()
    fit(model, x, y * np.nan)
    fit(model, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.skipped) == 1
    fit(model, x, y)
    fit(loaded, x, y)
    for one, other in zip(state(model), state(loaded), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_variable_is_saved_once(tmp_path):
    model = compiled(GuardedOptimizer(keras.optimizers.AdamW(1e-2)))
    fit(model, *data())
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    sizes = []

    def count(name, item):
        if isinstance(item, h5py.Dataset):
            sizes.append(item.size)

    with h5py.File(tmp_path / "model.weights.h5") as file:
        file["optimizer"].visititems(count)
    variables = arrays(model.optimizer.variables)
    assert sum(sizes) == sum(variable.size for variable in variables)


def test_learning_rate_is_the_inner_optimizers():
    model = compiled(GuardedOptimizer(keras.optimizers.SGD(0.1)))
    model.optimizer.learning_rate = 0.25
    assert float(model.optimizer.inner_optimizer.learning_rate) == 0.25
    assert float(model.optimizer.learning_rate) == 0.25


def test_under_loss_scaling():
    inner = GuardedOptimizer(keras.optimizers.SGD(0.1))
    model = compiled(keras.optimizers.LossScaleOptimizer(inner))
    before = arrays(model.trainable_variables)
    x, y = data()
    fit(model, x, y)
    after = arrays(model.trainable_variables)
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True))
    fit(model, x * np.nan, y)
    for old, new in zip(after, arrays(model.trainable_variables), strict=True):
        np.testing.assert_array_equal(old, new)


def test_bad_arguments_are_named():
    sgd = keras.optimizers.SGD
    with pytest.raises(TypeError, match="inner_optimizer"):
        GuardedOptimizer("adam")
    with pytest.raises(TypeError, match="separate"):
        GuardedOptimizer(sgd(0.1), separate="koopman")
    with pytest.raises(ValueError, match="clip_norm"):
        GuardedOptimizer(sgd(0.1), clip_norm=0.0)
    for argument in ("clipnorm", "clipvalue", "global_clipnorm"):
        with pytest.raises(ValueError, match=argument):
            GuardedOptimizer(sgd(0.1, **{argument: 1.0}))


def test_a_variable_without_gradient_is_left_alone():
    inputs = keras.Input((DIM,))
    outputs = keras.layers.Dense(1)(inputs)
    dead = keras.layers.Dense(1)(ops.stop_gradient(outputs))
    model = keras.Model(inputs, outputs + ops.stop_gradient(dead))
    model.compile(GuardedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    before = arrays(model.trainable_variables)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist")
        fit(model, *data())
    after = arrays(model.trainable_variables)
    assert np.any(before[0] != after[0])
    np.testing.assert_array_equal(before[2], after[2])
