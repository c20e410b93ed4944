import keras
import numpy as np
import pytest
from orrery.callbacks import ExpertUsage
from orrery.layers import MixtureOfExperts

X = np.repeat(np.eye(4, dtype="float32"), 4, axis=0)


def logged(*layers, x=X):
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    history = model.fit(
        x, x, batch_size=len(x), callbacks=[ExpertUsage()], verbose=0
    )
    return history.history.get("expert_usage")


def experts(scale):
    """Row i of the identity goes to expert i; of 0 rows, all to the first."""
    layer = MixtureOfExperts(4, 8, dropout=0.0)
    layer.build((None, 4))
    layer.router.kernel.assign(scale * np.eye(4))
    return layer


def test_one_where_all_are_used_alike_and_zero_where_one_is():
    assert logged(experts(20.0)) == [pytest.approx(1.0, rel=1e-5)]
    assert logged(experts(20.0), x=X[:4]) == [pytest.approx(0.0, abs=1e-6)]


def test_the_mean_over_layers():
    both = experts(20.0), experts(0.0)
    assert logged(*both) == [pytest.approx(0.5, rel=1e-5)]


def test_models_without_experts_log_nothing():
    assert logged(keras.layers.Dense(4)) is None
    assert logged(MixtureOfExperts(1, 8)) is None
