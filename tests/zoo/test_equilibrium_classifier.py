"""The classifier that comes to rest: training, its control, saving."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.datasets import LabelledBatches, noisy_patterns
from orrery.testing import compare_backends, updated_weights
from orrery.zoo import EquilibriumClassifier, UnrolledClassifier

PARTS = noisy_patterns(1000, width=12, num_classes=3, variants=2, flips=0.05)
SMALL = {"max_steps": 500, "beta": 0.1}


def batches(part="train", **options):
    return LabelledBatches(*PARTS[part], batch_size=100, **options)


def fitted(kind, epochs, **options):
    keras.utils.set_random_seed(0)
    model = kind(12, (16,), 3, **SMALL, **options)
    model.build()
    model.compile(keras.optimizers.Adam(0.02), weighted_metrics=["accuracy"])
    history = model.fit(
        batches(), epochs=epochs, shuffle=False, verbose=0
    ).history
    return model, history


@pytest.fixture(scope="module")
def trained():
    return fitted(EquilibriumClassifier, 12)


def test_learns_and_comes_to_rest(trained):
    model, history = trained
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert max(history["residual"]) <= 1e-6
    assert 1 < history["relaxation_steps"][-1] < 500
    valid = batches("valid", shuffle=False)
    found = model.evaluate(valid, verbose=0, return_dict=True)
    assert found["accuracy"] > 0.9 and found["residual"] <= 1e-6
    scores = model.predict(PARTS["valid"][0], batch_size=30, verbose=0)
    accuracy = np.mean(scores.argmax(-1) == PARTS["valid"][1])
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_is_as_good_as_back_propagation_through_the_same_energy(trained):
    """On the synthetic task, within one per cent."""
    control, history = fitted(UnrolledClassifier, 12, unrolled_steps=10)
    for name in ("loss", "accuracy"):
        assert trained[1][name][-1] == pytest.approx(
            history[name][-1], abs=0.01
        )
    accuracies = [
        np.mean(
            model.predict(PARTS["test"][0], verbose=0).argmax(-1)
            == PARTS["test"][1]
        )
        for model in (trained[0], control)
    ]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01 + 1e-6)


def test_saves_and_goes_on(trained, tmp_path):
    model = trained[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = PARTS["test"][0]
    scores = [m.predict(x, verbose=0) for m in (model, loaded)]
    np.testing.assert_allclose(*scores, atol=1e-6)
    losses = [
        m.fit(batches(), shuffle=False, verbose=0).history["loss"]
        for m in (model, loaded)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_weight_of_zero_takes_an_example_out():
    keras.utils.set_random_seed(0)
    model = EquilibriumClassifier(12, (4,), 3, **SMALL)
    model.build()
    x, y = (array[:6] for array in PARTS["train"])
    weight = np.array([1, 1, 1, 0, 0, 0], "float32")
    loss = model.compute_loss(x, y, None, weight, training=False)
    alone = model.compute_loss(x[:3], y[:3], None, None, training=False)
    assert float(loss) == pytest.approx(float(alone) / 2, rel=1e-5)


@pytest.mark.parametrize("kind", [EquilibriumClassifier, UnrolledClassifier])
def test_config(kind):
    model = kind(
        np.int64(5),
        (np.int64(4), 3),
        np.int64(2),
        rho="hard_sigmoid",
        nudging="one_sided",
    )
    model.build()
    config = json.loads(json.dumps(model.get_config()))
    assert kind.from_config(config).get_config() == model.get_config()
    symbolic = model(keras.Input((5,)))
    assert symbolic.shape == (None, 2)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = kind(5, (4, 3), 2)
        found = mixed(ops.ones((3, 5)))
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(found.dtype) == "float32"


def learner():
    model = EquilibriumClassifier(5, (4,), 3)
    model.compile("sgd")
    return model


def test_arguments_by_position_are_those_of_keras():
    model, x, y = learner(), np.ones((4, 5)), np.array([0, 1, 2, 0])
    assert len(model.fit(x, y, 2, 1, 0).history["loss"]) == 1
    assert np.isfinite(model.evaluate(x, y, 2, 0)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EquilibriumClassifier(0, (4,), 3), "input_dim"),
        (lambda: EquilibriumClassifier(5, (), 3), "hidden_dims"),
        (lambda: EquilibriumClassifier(5, (4,), 1), "num_classes"),
        (lambda: EquilibriumClassifier(5, (4,), 3, beta=2.0), "beta"),
        (lambda: EquilibriumClassifier(5, (4,), 3, rho="relu"), "rho"),
        (
            lambda: EquilibriumClassifier(5, (4,), 3).compile("adam", "mse"),
            "loss",
        ),
        (
            lambda: EquilibriumClassifier(5, (4,), 3)(np.ones((2, 6))),
            "batch, 5",
        ),
        (
            lambda: learner().fit(np.ones((4, 5)), np.eye(3)[[0, 1, 2, 0]]),
            r"`y`.*one label per example",
        ),
        (lambda: learner().fit(np.ones((4, 5))), "`y`.*None"),
        (
            lambda: learner().fit(np.ones((2, 5)), np.array([0, 3])),
            "`y` must hold labels from 0 to 2. Received: 3",
        ),
        (
            lambda: learner().evaluate(np.ones((2, 5)), np.array([0.5, 1])),
            "`y` must hold labels from 0 to 2. Received: 0.5",
        ),
        (
            lambda: LabelledBatches(np.ones((2, 5)), np.array([0, -1])),
            "`y`.*-1 as example 1",
        ),
        (
            lambda: UnrolledClassifier(5, (4,), 3, unrolled_steps=0),
            "unrolled_steps",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# === One file, three backends ===
X = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
Y = np.arange(16) % 3


def build(path):
    keras.utils.set_random_seed(0)
    model = EquilibriumClassifier(5, (6, 4), 3)
    model.build()
    model.save(path)


def run(path):
    scores = keras.saving.load_model(path)(X)
    updated = updated_weights(
        keras.saving.load_model(path), keras.optimizers.SGD(1e-2), X, Y
    )
    return {"scores": ops.convert_to_numpy(scores), **updated}


@pytest.mark.cross_backend
def test_backends_agree(tmp_path):
    differences = compare_backends(__file__, tmp_path)
    assert differences["scores"].absolute < 1e-5
    assert max(d.relative for d in differences.values()) < 1e-3
