import warnings

import keras
import numpy as np
import pytest
from orrery.metrics.perplexity import Perplexity
from orrery.testing import run_metric_contract

VOCABULARY = 11


def negative_log_likelihood(y_true, y_pred):
    y_pred = np.asarray(y_pred, "float64")
    if y_pred.ndim == y_true.ndim:
        return y_pred
    log_sum = np.log(np.exp(y_pred).sum(-1))
    return (
        log_sum - np.take_along_axis(y_pred, y_true[..., None], axis=-1)[..., 0]
    )


def perplexity(y_true, y_pred, sample_weight=None):
    nll = negative_log_likelihood(y_true, y_pred)
    weight = np.ones(nll.shape) if sample_weight is None else sample_weight
    return np.exp((nll * weight).sum() / weight.sum())


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    targets = generator.integers(VOCABULARY, size=(5, 4))
    logits = generator.normal(size=(5, 4, VOCABULARY))
    weight = generator.integers(0, 2, size=(5, 4)).astype("float32")
    return targets, logits, weight


def test_contract_on_logits_with_a_weight_per_sequence(batch):
    targets, logits, _ = batch
    run_metric_contract(
        Perplexity,
        targets,
        logits,
        np.arange(1.0, 6.0),
        reference=lambda y, p, w: perplexity(y, p, w[:, None].repeat(4, 1)),
    )


def test_contract_on_negative_log_likelihoods(batch):
    targets, logits, _ = batch
    run_metric_contract(
        Perplexity,
        targets,
        negative_log_likelihood(targets, logits),
        reference=perplexity,
    )


def test_weight_per_token(batch):
    targets, logits, weight = batch
    metric = Perplexity()
    metric.update_state(targets, logits, weight)
    assert float(metric.result()) == pytest.approx(
        perplexity(targets, logits, weight), rel=1e-5
    )


def test_unequal_batches_count_by_their_tokens():
    metric = Perplexity()
    metric.update_state(np.zeros((1, 1), "int32"), np.full((1, 1), 1.0))
    metric.update_state(np.zeros((3, 1), "int32"), np.full((3, 1), 2.0))
    assert float(metric.result()) == pytest.approx(np.exp(7 / 4), rel=1e-6)


def test_masked_targets_have_no_weight(batch):
    targets, logits, weight = batch
    targets[0, 0] = 3
    metric = Perplexity(mask_token_id=3)
    metric.update_state(targets, logits, weight)
    weight = weight * (targets != 3)
    assert float(metric.result()) == pytest.approx(
        perplexity(targets, logits, weight), rel=1e-5
    )
    rebuilt = Perplexity.from_config(metric.get_config())
    assert rebuilt.mask_token_id == 3


def test_is_zero_before_any_token_and_rejects_other_ranks():
    metric = Perplexity()
    assert float(metric.result()) == 0.0
    with pytest.raises(ValueError, match="one more axis"):
        metric.update_state(np.zeros((2, 3), "int32"), np.zeros((2,)))


@pytest.mark.parametrize("mask_token_id", [None, 3])
def test_equals_keras_hub(batch, mask_token_id):
    targets, logits, weight = batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras_hub = pytest.importorskip("keras_hub")
    ours = Perplexity(mask_token_id=mask_token_id)
    theirs = keras_hub.metrics.Perplexity(
        from_logits=True, mask_token_id=mask_token_id
    )
    for rows in (slice(0, 2), slice(2, 5)):
        for metric in (ours, theirs):
            metric.update_state(targets[rows], logits[rows], weight[rows])
    assert float(ours.result()) == pytest.approx(
        float(theirs.result()), rel=1e-5
    )


def test_counts_every_epoch_afresh_beside_an_added_loss():
    class Head(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(keras.ops.mean(inputs))
            return inputs

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Head()(inputs))
    model.compile("sgd", weighted_metrics=[Perplexity()])
    nll = np.random.default_rng(0).uniform(size=(6, 4)).astype("float32")
    weight = np.ones_like(nll)
    weight[4:] = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model does not have any train")
        history = model.fit(
            nll,
            np.zeros((6, 4), "int32"),
            sample_weight=weight,
            batch_size=2,
            epochs=2,
            verbose=0,
        )
    np.testing.assert_allclose(
        history.history["perplexity"], np.exp(nll[:4].mean()), rtol=1e-5
    )
