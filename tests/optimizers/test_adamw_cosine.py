import keras
import numpy as np
import pytest
from orrery.optimizers.adamw_cosine import adamw_cosine
from orrery.optimizers.guarded_optimizer import GuardedOptimizer


def rates(optimizer, steps):
    schedule = keras.optimizers.schedules.deserialize(
        optimizer.inner_optimizer.get_config()["learning_rate"]
    )
    return np.array([float(schedule(step)) for step in steps])


def test_rises_linearly_then_falls_along_half_a_cosine():
    optimizer = adamw_cosine(100, learning_rate=2e-3, warmup=0.1, final=0.1)
    np.testing.assert_allclose(
        rates(optimizer, [0, 10, 55, 100, 200]),
        [2e-4, 2e-3, 1.1e-3, 2e-4, 2e-4],
        rtol=1e-5,
    )
    warmup = rates(optimizer, range(11))
    np.testing.assert_allclose(np.diff(warmup), 1.8e-4, rtol=1e-3)


def test_needs_no_warmup():
    optimizer = adamw_cosine(3, learning_rate=1e-3)
    np.testing.assert_allclose(
        rates(optimizer, [0, 3]), [1e-3, 1e-4], rtol=1e-5
    )


def test_is_guarded_adamw_without_clipping_of_its_own():
    optimizer = adamw_cosine(10, weight_decay=0.05, clip_norm=0.7)
    assert isinstance(optimizer, GuardedOptimizer)
    inner = optimizer.inner_optimizer
    assert isinstance(inner, keras.optimizers.AdamW)
    assert (inner.beta_1, inner.beta_2, inner.weight_decay) == (
        0.9,
        0.999,
        0.05,
    )
    assert optimizer.clip_norm == 0.7
    assert optimizer.decay_matrices_only


@pytest.mark.parametrize(
    "argument, value",
    [("total_steps", 0), ("warmup", 1.0), ("final", 1.5)],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=argument):
        adamw_cosine(**{"total_steps": 10, argument: value})
