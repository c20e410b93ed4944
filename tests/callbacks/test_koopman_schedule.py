import json
import math

import keras
import numpy as np
import pytest
from orrery.callbacks.koopman_schedule import KoopmanSchedule
from orrery.datasets import LanguageBatches
from orrery.metrics import Perplexity
from orrery.zoo.koopman_lm import KoopmanLM


class StandIn:
    """A model whose operators' relative error is given for each epoch."""

    def __init__(self, linear):
        self.koopman_weight = keras.Variable(-1.0, trainable=False)
        self.linear = list(linear)
        self.resets = 0

    def reset_koopman_totals(self):
        self.resets += 1

    def koopman_measures(self):
        linear = self.linear[self.resets - 1]
        return {
            "linear": linear,
            "state": 0.2,
            "skill": 0.3,
            "contribution": 0.01,
        }


def history(schedule, linear, epochs=None, model=None):
    """What the callback logs over the epochs of a stand-in."""
    schedule.set_model(model or StandIn(linear))
    schedule.on_train_begin()
    return proceed(schedule, epochs or range(len(linear)))


def proceed(schedule, epochs):
    record = {}
    for epoch in epochs:
        logs = {"loss": 1.0}
        schedule.on_epoch_begin(epoch)
        schedule.on_epoch_end(epoch, logs)
        for name, value in logs.items():
            record.setdefault(name, []).append(value)
    return record


def test_warms_up_and_ramps():
    record = history(KoopmanSchedule(verbose=0), [0.1] * 8)
    expected = [0, 0, 0.0125, 0.025, 0.0375, 0.05, 0.05, 0.05]
    np.testing.assert_allclose(record["koopman_weight"], expected)
    np.testing.assert_allclose(
        record["koopman_effective_weight"], expected, rtol=1e-6
    )
    assert record["koopman_skill"] == [0.3] * 8
    assert record["koopman_contribution"] == [0.01] * 8
    assert record["koopman_fallback_fraction"] == [0.0] * 8


def test_fallback_enters_and_leaves_by_hysteresis():
    schedule = KoopmanSchedule(
        warmup=0,
        ramp=1,
        max_weight=1.0,
        enter=1.0,
        leave=0.5,
        patience=2,
        fallback_scale=0.25,
        verbose=0,
    )
    linear = [0.9, 1.1, 0.7, 0.4, 0.6, 0.4, 0.3, 0.9, math.nan, math.nan]
    record = history(schedule, linear)
    assert record["koopman_effective_weight"] == [
        1.0,
        1.0,  # 1.1 enters
        0.25,
        0.25,  # calm once
        0.25,  # 0.6: not calm, counting starts again
        0.25,
        0.25,  # calm twice: leaves
        1.0,  # 0.9 lies between the thresholds
        1.0,  # not finite: enters
        0.25,
    ]
    assert record["koopman_weight"] == [1.0] * 10
    assert record["koopman_fallback_fraction"][-1] == 6 / 10


def test_fallback_in_warm_up_does_not_count():
    schedule = KoopmanSchedule(warmup=2, ramp=1, verbose=0)
    record = history(schedule, [2.0, 2.0, 0.1, 0.1, 0.1])
    assert record["koopman_effective_weight"][2] == 0.0
    np.testing.assert_allclose(
        record["koopman_fallback_fraction"], [0, 0, 1, 1 / 2, 1 / 3]
    )


def test_resumes_in_mid_fallback():
    linear = [0.2, 1.5, 0.8, 0.3, 0.3, 0.2]
    options = {"warmup": 0, "ramp": 1, "patience": 2, "verbose": 0}
    whole = history(KoopmanSchedule(**options), linear)
    first = KoopmanSchedule(**options)
    history(first, linear, epochs=range(4))
    state = json.loads(json.dumps(first.get_state()))
    second = KoopmanSchedule(**options)
    second.set_model(StandIn(linear[4:]))
    second.on_train_begin()
    second.set_state(state)
    for name, values in proceed(second, range(4, 6)).items():
        assert values == whole[name][4:], name


@pytest.mark.parametrize("verbose", [0, 1])
def test_prints_exactly_one_line_per_epoch(capsys, verbose):
    history(KoopmanSchedule(verbose=verbose), [0.1, 2.0, 0.1])
    lines = capsys.readouterr().out.split()
    assert lines.count("Epoch") == 3 * verbose
    assert lines.count("next") == verbose


def test_logged_contribution_is_the_total_loss_less_the_models_own():
    keras.utils.set_random_seed(0)
    tokens = np.random.default_rng(0).integers(0, 11, size=(16, 9))
    batches = LanguageBatches(tokens[:, :-1], tokens[:, 1:], batch_size=8)
    model = KoopmanLM(11, 8, 2, 2, koopman={"lift_dim": 4, "sample_tokens": 32})
    model.build()
    model.compile("adam", weighted_metrics=[Perplexity()])
    schedule = KoopmanSchedule(1, 1, max_weight=0.5, enter=1e9, verbose=0)
    record = model.fit(
        batches, epochs=3, callbacks=[schedule], shuffle=False, verbose=0
    ).history
    own = np.log(record["perplexity"])
    np.testing.assert_allclose(
        record["koopman_contribution"],
        np.array(record["loss"]) - own,
        atol=1e-6,
    )
    assert record["koopman_contribution"][0] == 0.0
    assert min(record["koopman_contribution"][1:]) > 1e-4


@pytest.mark.parametrize(
    "arguments",
    [
        {"warmup": -1},
        {"ramp": 0},
        {"max_weight": -0.1},
        {"patience": 0},
        {"leave": 2.0},
        {"leave": 0.0},
        {"fallback_scale": 1.0},
    ],
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        KoopmanSchedule(**arguments)


def test_a_model_without_operators_is_refused():
    schedule = KoopmanSchedule()
    schedule.set_model(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(TypeError, match="koopman_weight"):
        schedule.on_train_begin()
