"""The contracts of losses and metrics accept Keras's own, reject broken."""

import keras
import numpy as np
import pytest
from orrery.testing import run_loss_contract, run_metric_contract

RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(5, 4))
PREDICTED = RNG.normal(size=(5, 4))


def test_accepts_mean_squared_error():
    run_loss_contract(
        keras.losses.MeanSquaredError,
        (TRUE, PREDICTED),
        gradients=(True, True),
        reference=lambda a, b: np.mean((a - b) ** 2),
    )


def test_accepts_sparse_crossentropy():
    run_loss_contract(
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        (np.arange(5) % 4, PREDICTED),
    )


@keras.saving.register_keras_serializable(package="orrery_test")
class Detached(keras.losses.Loss):
    """Mean squared error whose target is a constant."""

    def call(self, y_true, y_pred):
        y_true = keras.ops.stop_gradient(y_true)
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


def test_tells_detached_arguments():
    run_loss_contract(Detached, (TRUE, PREDICTED))
    with pytest.raises(AssertionError, match="argument 0: receives no"):
        run_loss_contract(Detached, (TRUE, PREDICTED), gradients=(True, True))


def test_accepts_metric():
    weight = np.array([1.0, 0.0, 2.0, 0.5, 1.0])
    run_metric_contract(
        keras.metrics.MeanSquaredError,
        TRUE,
        PREDICTED,
        weight,
        reference=lambda a, b, w: np.average(
            (a - b) ** 2 @ np.full(4, 0.25), weights=w
        ),
    )


@keras.saving.register_keras_serializable(package="orrery_test")
class BatchMean(keras.metrics.Mean):
    """Weights every batch alike, however few samples it has."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = keras.ops.mean(keras.ops.square(y_true - y_pred))
        super().update_state(error)


def test_rejects_batch_mean():
    with pytest.raises(AssertionError, match="uneven batches"):
        run_metric_contract(BatchMean, TRUE, PREDICTED)
