"""The endpoint layer: logits, fused loss, tied weights."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import LanguageHead

RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(3, 7, 8)).astype("float32")
TARGETS = RNG.integers(0, 20, (3, 7)).astype("int32")


def reference(layer, hidden):
    kernel, bias = layer.projection.kernel, layer.bias
    kernel, bias = (ops.convert_to_numpy(w) for w in (kernel, bias))
    return hidden @ kernel + bias


def added_loss(head):
    return float(ops.convert_to_numpy(head.losses[-1]))


def test_contract(contract):
    contract(lambda: LanguageHead(20), HIDDEN, reference=reference)


def test_loss_is_the_mean_of_the_nll_and_matches_the_logits():
    head = LanguageHead(20)
    logits = ops.convert_to_numpy(head(HIDDEN)).astype("float64")
    nll = ops.convert_to_numpy(head(HIDDEN, TARGETS, training=True))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    picked = np.take_along_axis(probabilities, TARGETS[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll, -np.log(picked), rtol=1e-5, atol=1e-5)
    assert added_loss(head) == pytest.approx(nll.mean(), rel=1e-6)


def test_zero_weight_rows_do_not_count():
    head = LanguageHead(20)
    weight = np.ones(TARGETS.shape, "float32")
    weight[2] = 0.0
    head(HIDDEN, TARGETS, weight)
    part = added_loss(head)
    head(HIDDEN[:2], TARGETS[:2])
    assert part == pytest.approx(added_loss(head) * 2 / 3, rel=1e-5)


def test_tied_head_shares_the_embedding():
    embedding = keras.layers.ReversibleEmbedding(20, 8)
    embedding.build((None, None))
    head = LanguageHead(20, embedding)
    head.build((None, None, 8))
    assert [w.shape for w in head.trainable_weights if "bias" in w.path] == [
        (20,)
    ]
    table = ops.convert_to_numpy(embedding.embeddings)
    np.testing.assert_allclose(
        ops.convert_to_numpy(head(HIDDEN)), HIDDEN @ table.T, atol=1e-5
    )


@pytest.mark.parametrize("tied", [False, True])
def test_logits_have_the_dtype_that_is_declared(tied):
    policy = {"dtype": "mixed_bfloat16"}
    embedding = keras.layers.ReversibleEmbedding(20, 8, **policy)
    embedding.build()
    head = LanguageHead(20, embedding if tied else None, **policy)
    declared = head.compute_output_spec(keras.KerasTensor((3, 7, 8)))
    found = keras.backend.standardize_dtype(head(HIDDEN).dtype)
    assert found == declared.dtype == "bfloat16"


@pytest.mark.parametrize("size", [1, 0, 2.5])
def test_bad_vocabulary_size(size):
    with pytest.raises(ValueError, match="vocabulary_size"):
        LanguageHead(size)


def test_embedding_of_another_size():
    with pytest.raises(ValueError, match="embedding"):
        LanguageHead(20, keras.layers.ReversibleEmbedding(21, 8))
