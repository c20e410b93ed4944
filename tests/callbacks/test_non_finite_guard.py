import json
import types

import keras
import numpy as np
import pytest
from keras import ops
from orrery.callbacks.koopman_schedule import KoopmanSchedule
from orrery.callbacks.non_finite_guard import NonFiniteGuard
from orrery.optimizers import GuardedOptimizer


class StandIn:
    """A model of one weight and one operator, trained by hand."""

    def __init__(self):
        self.koopman_weight = keras.Variable(0.05, trainable=False)
        self.weight = keras.Variable(np.ones(3), name="weight")
        self.kernel = keras.Variable(np.eye(2), name="kernel")
        self.operators = [types.SimpleNamespace(variables=[self.kernel])]
        self.variables = [self.koopman_weight, self.weight, self.kernel]
        self.optimizer = types.SimpleNamespace(skipped=0)

    def reset_koopman_totals(self):
        pass

    def koopman_measures(self):
        return {"linear": 0.1, "contribution": 0.0}


def begin(action):
    guard, model = NonFiniteGuard(action), StandIn()
    guard.set_model(model)
    guard.on_train_begin()
    return guard, model


def compiled():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(GuardedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    return model


def batches(bad):
    """Four batches of two; the first target of batch `bad` is NaN."""
    x, y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    if bad is not None:
        y[2 * bad] = np.nan
    return {"x": x, "y": y, "batch_size": 2, "shuffle": False, "verbose": 0}


def test_raises_on_an_injected_nan_and_says_what():
    with pytest.raises(FloatingPointError, match="loss nan, 1 batches skipped"):
        compiled().fit(**batches(bad=1), callbacks=[NonFiniteGuard()])


def test_counts_and_goes_on_if_asked_to(capsys):
    model = compiled()
    guard = NonFiniteGuard("disable")
    record = model.fit(**batches(bad=1), callbacks=[guard]).history
    assert record["non_finite_batches"] == [1]
    assert record["non_finite_events"] == [1]
    assert capsys.readouterr().out.count("not finite") == 1
    assert all(np.isfinite(w).all() for w in model.get_weights())
    record = model.fit(**batches(bad=None), callbacks=[guard]).history
    assert record["non_finite_batches"] == [0]
    assert record["non_finite_events"] == [0]
    assert capsys.readouterr().out == ""


def test_raises_on_a_variable_that_is_not_finite():
    guard, model = begin("raise")
    guard.on_epoch_begin(0)
    guard.on_epoch_end(0, {"loss": 1.0})
    guard.on_epoch_begin(1)
    model.kernel.assign(np.full((2, 2), np.inf))
    with pytest.raises(FloatingPointError, match="Epoch 2.*kernel"):
        guard.on_epoch_end(1, {"loss": 1.0})


def test_disabling_keeps_the_last_finite_operator_for_an_epoch(capsys):
    guard, model = begin("disable")
    schedule = KoopmanSchedule(0, 1, max_weight=0.05, verbose=0)
    schedule.set_model(model)
    kept = np.array([[1.0, 0.5], [0.0, 1.0]])
    model.kernel.assign(kept)
    weights = []
    for epoch in range(3):
        for callback in (schedule, guard):
            callback.on_epoch_begin(epoch)
        weights.append(float(model.koopman_weight))
        if epoch == 0:
            model.kernel.assign(kept * np.nan)
        logs = {"loss": 1.0}
        for callback in (schedule, guard):
            callback.on_epoch_end(epoch, logs)
        assert logs["non_finite_events"] == 1
        assert logs["koopman_effective_weight"] == weights[-1]
        np.testing.assert_array_equal(ops.convert_to_numpy(model.kernel), kept)
    np.testing.assert_allclose(weights, [0.05, 0.0, 0.05], rtol=1e-6)
    assert "Koopman weight 0 in the next epoch" in capsys.readouterr().out


def test_disabling_cannot_mend_a_weight():
    guard, model = begin("disable")
    guard.on_epoch_begin(0)
    model.weight.assign([1.0, np.nan, 1.0])
    with pytest.raises(FloatingPointError, match="weight"):
        guard.on_epoch_end(0, {"loss": 1.0})


def test_an_event_outlives_a_resume():
    guard, model = begin("disable")
    guard.on_epoch_begin(0)
    guard.on_epoch_end(0, {"loss": float("nan")})
    state = json.loads(json.dumps(guard.get_state()))
    resumed, model = begin("disable")
    resumed.set_state(state)
    resumed.on_epoch_begin(1)
    assert float(model.koopman_weight) == 0.0
    logs = {"loss": 1.0}
    resumed.on_epoch_end(1, logs)
    assert logs["non_finite_events"] == 1


def test_an_unknown_action_is_refused():
    with pytest.raises(ValueError, match="action"):
        NonFiniteGuard("ignore")
