"""Dual ascent on the drift of energy."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.callbacks import LagrangeMultiplier, TrainingState
from orrery.layers import EnergyAccount, HamiltonianBlock, MLPPotential

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


def make(energy_tokens=64, step_size=0.5, energy_weight=0.0):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    h = inputs
    for index in range(2):
        h = HamiltonianBlock(
            MLPPotential(16),
            step_size=step_size,
            energy_tokens=energy_tokens,
            energy_weight=energy_weight,
            name=f"block_{index}",
        )(h)
    model = keras.Model(inputs, h)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    return model


def fit(model, multiplier, epochs=3, callbacks=(), **arguments):
    return model.fit(
        X,
        X[::-1],
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[multiplier, *callbacks],
        **arguments,
    ).history


def accounts(model):
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, EnergyAccount)
    ]


def test_a_constant_drift_moves_lambda_by_the_rule():
    multiplier = LagrangeMultiplier(target=0.02, rate=0.5, maximum=1.2)
    for expected in (0.5, 1.0, 1.2, 1.2):  # (0.04 - 0.02) / 0.02 = 1
        multiplier.ascend(0.04)
        assert multiplier.multiplier == pytest.approx(expected)
    multiplier = LagrangeMultiplier(target=0.02, rate=0.5, initial=0.6)
    for expected in (0.35, 0.1, 0.0, 0.0):  # (0.01 - 0.02) / 0.02 = -1/2
        multiplier.ascend(0.01)
        assert multiplier.multiplier == pytest.approx(expected)


def test_the_moving_average():
    multiplier = LagrangeMultiplier(target=1.0, rate=1.0, smoothing=0.75)
    multiplier.ascend(2.0)
    multiplier.ascend(4.0)
    assert multiplier.mean_drift == pytest.approx(2.5)
    assert multiplier.multiplier == pytest.approx(1.0 + 1.5)


def test_history_and_what_is_in_force():
    model = make()
    multiplier = LagrangeMultiplier(target=1e-4, rate=0.01, maximum=0.5)
    history = fit(model, multiplier)
    assert history["energy_multiplier"][0] == 0.0
    assert history["energy_multiplier"][1] > 0.0
    assert history["energy_contribution"][0] == 0.0
    assert history["energy_contribution"][2] > 0.0
    assert all(0 < d < 1 for d in history["energy_drift"])
    assert all(0 < r for r in history["energy_spread_ratio"])
    weights = [float(a.weight) for a in accounts(model)]
    assert weights == [pytest.approx(multiplier.multiplier / 2)] * 2


def test_the_penalty_lowers_the_drift():
    drifts = {}
    for weight in (0.0, 5e3):
        keras.utils.set_random_seed(0)
        multiplier = LagrangeMultiplier(rate=0.0, initial=weight, maximum=1e4)
        model = make()
        model.optimizer.learning_rate = 1e-2
        history = fit(model, multiplier, epochs=10)
        drifts[weight] = history["energy_drift"][-1]
    assert drifts[5e3] < 0.5 * drifts[0.0]


def test_warm_up():
    multiplier = LagrangeMultiplier(target=1e-4, initial=1.0, warmup=2)
    history = fit(make(), multiplier, epochs=3)
    assert history["energy_multiplier"] == [0.0, 0.0, 1.0]


def test_the_optimizer_never_sees_it():
    model = make()
    fit(model, LagrangeMultiplier(initial=1.0), epochs=1)
    for account in accounts(model):
        assert not account.trainable_weights
        assert all(v is not account.weight for v in model.optimizer.variables)
    trained = {id(v) for v in model.trainable_variables}
    assert not trained & {id(v) for a in accounts(model) for v in a.weights}


def test_with_lambda_zero_the_callback_changes_no_weight():
    without, beside = make(), make()
    for model, callbacks in (
        (without, []),
        (beside, [LagrangeMultiplier(target=1e3)]),
    ):
        keras.utils.set_random_seed(1)
        model.fit(
            X,
            X[::-1],
            batch_size=16,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
    for a, b in zip(
        without.trainable_weights, beside.trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        )


def test_evaluation_changes_no_account():
    model = make()
    fit(model, LagrangeMultiplier(), epochs=1)
    before = [account.get_weights() for account in accounts(model)]
    model.evaluate(X, X, verbose=0)
    model.predict(X, verbose=0)
    for account, values in zip(accounts(model), before, strict=True):
        for a, b in zip(account.get_weights(), values, strict=True):
            np.testing.assert_array_equal(a, b)


def test_saved_with_the_model(tmp_path):
    model = make()
    multiplier = LagrangeMultiplier(initial=1.5)
    fit(model, multiplier, epochs=1)
    assert multiplier.multiplier != 1.5
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    held = [float(a.weight) for a in accounts(loaded)]
    assert held == [pytest.approx(multiplier.multiplier / 2)] * 2
    for old, new in zip(accounts(model), accounts(loaded), strict=True):
        assert float(old.first_spread) == float(new.first_spread) > 0


def test_a_further_fit_goes_on_with_what_the_model_holds():
    model = make()
    multiplier = LagrangeMultiplier(initial=1.5)
    fit(model, multiplier, epochs=1)
    history = fit(model, LagrangeMultiplier(), epochs=1)
    assert history["energy_multiplier"] == [
        pytest.approx(multiplier.multiplier)
    ]
    assert multiplier.multiplier != 1.5
    # Lambda given as a number, at first.
    model = make(energy_weight=0.25)
    history = fit(model, LagrangeMultiplier(rate=0.0), epochs=1)
    assert history["energy_multiplier"] == [0.5]
    assert history["energy_contribution"][0] > 0


def test_resumes_with_its_state(tmp_path):
    def run(path, stops):
        for epochs in stops:
            model = make()
            multiplier = LagrangeMultiplier(target=1e-3)
            state = TrainingState(path, callbacks=[multiplier])
            history = fit(
                model,
                multiplier,
                epochs,
                [state],
                initial_epoch=state.initial_epoch,
            )
        return history

    whole = run(tmp_path / "whole.npz", [4])
    assert run(tmp_path / "parts.npz", [2, 4]) == whole


def test_state_is_plain():
    multiplier = LagrangeMultiplier(initial=0.5)
    multiplier.ascend(0.03)
    other = LagrangeMultiplier()
    other.set_state(json.loads(json.dumps(multiplier.get_state())))
    assert other.get_state() == multiplier.get_state()


def test_a_batch_that_is_not_finite_leaves_no_trace():
    model = make()
    broken = X.copy()
    broken[16:] = np.nan
    multiplier = LagrangeMultiplier()
    model.fit(
        broken,
        X,
        batch_size=16,
        shuffle=False,
        verbose=0,
        callbacks=[multiplier],
    )
    assert np.isfinite(multiplier.mean_drift)
    for account in accounts(model):
        assert np.isfinite(account.measures()["drift"])


def test_the_ascent_goes_on_where_one_block_collapses(capsys):
    """Its energies are all alike from a point on, and it has no drift."""
    model = make()
    fit(model, LagrangeMultiplier(rate=0.0), epochs=1)
    assert "spread" not in capsys.readouterr().out
    first, second = accounts(model)
    second.first_spread.assign(1e6 * second.first_spread)
    multiplier = LagrangeMultiplier(target=1e-4, rate=0.01)
    history = fit(model, multiplier, epochs=2)
    assert np.isnan(second.measures()["drift"])
    drift = first.measures()["drift"]
    assert history["energy_drift"][1] == pytest.approx(drift)
    assert multiplier.multiplier > 0
    assert history["energy_spread_ratio"][1] < 1e-5
    said = capsys.readouterr().out
    assert "block 1" not in said
    for epoch in (1, 2):
        assert said.count(f"Epoch {epoch}: the spread") == 1
    assert "block 2: " in said and "floor 0.5" in said


def test_a_block_that_measures_nothing_is_named(capsys):
    model = make()
    multiplier = LagrangeMultiplier(initial=1.0)
    history = model.fit(
        np.full_like(X, np.nan), X, verbose=0, callbacks=[multiplier]
    ).history
    assert np.isnan(history["energy_drift"][0])
    assert np.isnan(history["energy_spread_ratio"][0])
    assert multiplier.multiplier == 1.0
    assert "block 1: nan" in capsys.readouterr().out


def test_the_model_needs_an_account():
    with pytest.raises(TypeError, match="EnergyAccount"):
        fit(make(energy_tokens=0), LagrangeMultiplier(), epochs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": -0.1}, "target"),
        ({"target": 0.0}, "target"),
        ({"rate": -1.0}, "rate"),
        ({"maximum": -1.0}, "maximum"),
        ({"initial": -1.0}, "initial"),
        ({"initial": 20.0}, "initial"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"warmup": -1}, "warmup"),
        ({"warmup": 1.5}, "warmup"),
        ({"target": np.inf}, "target"),
        ({"target": None}, "target"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        LagrangeMultiplier(**change)


def test_a_larger_weight_than_the_maximum_is_not_cut_in_silence():
    with pytest.raises(ValueError, match="`maximum` must be at least 58"):
        fit(make(energy_weight=29.0), LagrangeMultiplier(), epochs=1)
