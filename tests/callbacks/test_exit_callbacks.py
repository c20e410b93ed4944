"""Exits watched and scored as a model trains, and training stopped by that."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from orrery.callbacks import ExitHistogram, RoutedEvaluation
from orrery.zoo import EarlyExitLM
from orrery.zoo.ashem_configs import create_standard_config
from orrery.zoo.staged_training import StagedTraining

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 31, (6, 10)).astype("int32")
TARGETS = np.roll(TOKENS, -1, axis=1)
GOLDEN = Path(__file__).resolve().parents[1] / "golden/lego_ashem.v1.json"


def small():
    keras.utils.set_random_seed(1)
    model = EarlyExitLM(
        31,
        dim=16,
        blocks=(1, 1),
        num_heads=2,
        hidden_dim=24,
        confidence="max_prob",
        threshold=0.3,
        embedding_stddev=0.5,
    )
    model.build()
    return model


def fit(model, *callbacks, epochs=2):
    model.compile(keras.optimizers.Adam(1e-2))
    return model.fit(
        {"tokens": TOKENS, "targets": TARGETS},
        epochs=epochs,
        batch_size=6,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks],
    ).history


def test_logs_are_those_of_the_model():
    model = small()
    history = fit(
        model, RoutedEvaluation(TOKENS, TARGETS, batch_size=4), epochs=2
    )
    routed = model.route(TOKENS, "both")
    logits = ops.convert_to_numpy(routed["logits"]).astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, TARGETS[..., None], -1).mean()
    left = (ops.convert_to_numpy(routed["exit"]) == 0).mean()
    assert 0 < left < 1
    expected = {
        "loss": nll,
        "perplexity": np.exp(nll),
        "accuracy": (logits.argmax(-1) == TARGETS).mean(),
        "shallow_ratio": left,
        "compute_cost": 1 - left / 2,
    }
    for name, value in expected.items():
        assert history[f"val_routed_{name}"][-1] == pytest.approx(
            value, rel=1e-5
        )
    first, second = history["val_routed_loss"]
    assert second < first


# What is not trained has no gradient: the exit below the only loss.
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_of_layers_trained_by_another_model():
    model = small()
    staged = StagedTraining(model, create_standard_config(2))
    history = fit(
        staged, RoutedEvaluation(TOKENS, TARGETS, model, prefix="routed_")
    )
    first, second = history["routed_loss"]
    assert second < first


def test_histogram_counts_every_token():
    model = small()
    histogram = ExitHistogram(TOKENS, bins=4, every=2)
    history = fit(model, histogram, epochs=4)
    assert [row["epoch"] for row in histogram.history] == [2, 4]
    out = model.route(TOKENS)
    left = np.bincount(ops.convert_to_numpy(out["exit"]).ravel(), minlength=2)
    confidence = ops.convert_to_numpy(out["confidence"])
    last = histogram.history[-1]
    assert last["left"] == left.tolist()
    assert last["confidence"] == [
        int(((confidence >= a) & (confidence < a + 0.25)).sum())
        for a in (0, 0.25, 0.5, 0.75)
    ]
    assert history["exit_shallow_ratio"][-1] == pytest.approx(left[0] / 60)
    assert history["exit_mean_confidence"][-1] == pytest.approx(
        confidence.mean(), rel=1e-5
    )


def test_watching_changes_no_weight():
    plain, watched = small(), small()
    fit(plain)
    fit(watched, ExitHistogram(TOKENS), RoutedEvaluation(TOKENS, TARGETS))
    for one, two in zip(plain.weights, watched.weights, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(one), ops.convert_to_numpy(two)
        )


@pytest.mark.parametrize(
    ("phase", "patience", "best", "stop"),
    [("phase1", 1, 3, 4), ("phase2", 3, 7, 10)],
)
def test_stops_where_the_original_did(phase, patience, best, stop, monkeypatch):
    model = small()
    rows = json.loads(GOLDEN.read_text("utf-8"))[phase]["epochs"]
    curve = [float(row[2]) for row in rows]
    perplexities = iter([*curve, *20 * [curve[-1]]])

    def scripted(*_, **__):
        zeros = np.zeros(TOKENS.shape, "int32")
        loss = np.full(TOKENS.shape, np.log(next(perplexities)))
        return {"loss": loss, "exit": zeros, "choice": zeros}

    monkeypatch.setattr(model, "measure_route", scripted, raising=False)
    early = keras.callbacks.EarlyStopping(
        "val_routed_loss",
        mode="min",
        patience=patience,
        restore_best_weights=True,
    )
    history = fit(model, RoutedEvaluation(TOKENS, TARGETS), early, epochs=20)
    found = history["val_routed_perplexity"]
    assert len(found) == stop and np.argmin(found) + 1 == best
    assert early.best_epoch + 1 == best


@pytest.mark.parametrize(
    "callback", [ExitHistogram(TOKENS), RoutedEvaluation(TOKENS, TARGETS)]
)
def test_models_without_exits_are_refused(callback):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="exits.*Sequential"):
        model.fit(
            np.ones((2, 2)), np.ones((2, 1)), callbacks=[callback], verbose=0
        )


@pytest.mark.parametrize(
    "callback", [ExitHistogram(TOKENS), RoutedEvaluation(TOKENS, TARGETS)]
)
def test_a_last_exit_alone_is_refused_before_training(callback):
    model = EarlyExitLM(31, dim=8, blocks=(2,), num_heads=2)
    model.compile("sgd")
    inputs = {"tokens": TOKENS, "targets": TARGETS}
    callback.on_epoch_begin = pytest.fail
    with pytest.raises(ValueError, match="blocks=\\(2,\\)"):
        model.fit(inputs, callbacks=[callback], verbose=0)


def test_bad_arguments():
    for name in ("bins", "every"):
        with pytest.raises(ValueError, match=name):
            ExitHistogram(TOKENS, **{name: 0})
