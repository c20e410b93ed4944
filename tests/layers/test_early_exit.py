"""Who leaves, who goes on, and that nobody is lost on the way."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import EarlyExitRouter
from orrery.layers.early_exit import (
    gather_tokens,
    least_confident,
    part_of,
    scatter_tokens,
)

RANDOM = np.random.default_rng(0)
HIDDEN = RANDOM.normal(size=(3, 7, 8)).astype("float32")
PREVIOUS = RANDOM.normal(size=(3, 7, 8)).astype("float32")
LOGITS = (2 * RANDOM.normal(size=(3, 7, 11))).astype("float32")


def numpy(structure):
    return keras.tree.map_structure(ops.convert_to_numpy, structure)


def softmax(x):
    e = np.exp(x.astype("float64") - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(name, layer):
    ranked = np.sort(softmax(LOGITS), axis=-1)
    if name == "max_prob":
        return ranked[..., -1]
    if name == "margin":
        return ranked[..., -1] - ranked[..., -2]
    if name == "state_similarity":
        dot = (HIDDEN * PREVIOUS).sum(-1)
        size = np.linalg.norm(HIDDEN, axis=-1) * np.linalg.norm(
            PREVIOUS, axis=-1
        )
        return (1 + dot / size) / 2
    hidden, cost = ([numpy(w) for w in a.weights] for a in layer.exit_head)
    u = HIDDEN @ hidden[0] + hidden[1]
    k = (u / (1 + np.exp(-u)) @ cost[0] + cost[1])[..., 0]
    return 1 / (1 + np.exp(k))


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("learned", {}),
        ("max_prob", {"logits": LOGITS}),
        ("margin", {"logits": LOGITS}),
        ("state_similarity", {"previous": PREVIOUS}),
    ],
)
def test_contract(contract, name, arguments):
    def expected(layer, inputs):
        confidence = reference(name, layer)
        leaves = confidence >= 0.5
        # The order in which a dict is flattened: by its keys.
        return [confidence, leaves, leaves.mean(axis=1)]

    contract(
        lambda: EarlyExitRouter(name, threshold=0.5),
        HIDDEN,
        call_kwargs=arguments,
        reference=expected,
        variable_length=not arguments,
        # What is made of the logits has no gradient in the state.
        trainable_gradients="logits" not in arguments,
        bfloat16_tolerance=None,
    )


def test_contract_of_capacity(contract):
    contract(
        lambda: EarlyExitRouter("learned", capacity=0.4),
        HIDDEN,
        variable_length=False,
        bfloat16_tolerance=None,
    )


def test_threshold_is_inclusive_and_none_keeps_everybody():
    router = EarlyExitRouter("max_prob")
    certain = np.full((1, 2, 3), -1e4, "float32")
    certain[..., 0] = 0
    out = numpy(router(HIDDEN[:1, :2], logits=certain))
    assert (out["confidence"] == 1).all()
    assert router.threshold is None and not out["exit_mask"].any()
    for threshold, leaves in ((1.0, True), (0.0, True), (None, False)):
        router.set_threshold(threshold)
        assert router.threshold == threshold
        out = numpy(router(HIDDEN[:1, :2], logits=certain))
        assert (out["exit_mask"] == leaves).all()
        assert (out["shallow_ratio"] == leaves).all()


def test_threshold_is_read_by_what_was_compiled_before():
    model = keras.Sequential([EarlyExitRouter("learned")])
    model.build(HIDDEN.shape)
    router = model.layers[0]
    assert not model.predict(HIDDEN, verbose=0)["exit_mask"].any()
    router.set_threshold(0.0)
    assert model.predict(HIDDEN, verbose=0)["exit_mask"].all()


def test_masked_tokens_do_not_count():
    mask = np.arange(7) < np.array([7, 4, 1])[:, None]
    router = EarlyExitRouter("max_prob", threshold=0.5)
    out = numpy(
        router(HIDDEN, logits=LOGITS, valid=ops.convert_to_tensor(mask))
    )
    leaves = reference("max_prob", None) >= 0.5
    expected = (leaves * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(out["shallow_ratio"], expected, rtol=1e-6)
    router = EarlyExitRouter("max_prob", capacity=0.5)
    out = numpy(
        router(HIDDEN, logits=LOGITS, valid=ops.convert_to_tensor(mask))
    )
    assert out["indices"].shape == (3, 4)
    np.testing.assert_array_equal(out["indices"][1], [0, 1, 2, 3])
    assert 0 in out["indices"][2]


def test_capacity_takes_the_least_confident():
    router = EarlyExitRouter("max_prob", threshold=0.0, capacity=0.4)
    out = numpy(router(HIDDEN, logits=LOGITS))
    confidence = reference("max_prob", None)
    for row in range(3):
        expected = np.sort(np.argsort(confidence[row])[:3])
        np.testing.assert_array_equal(out["indices"][row], expected)
        assert not out["exit_mask"][row][expected].any()
        assert out["exit_mask"][row].sum() == 4
    np.testing.assert_allclose(out["shallow_ratio"], 4 / 7, rtol=1e-6)


def test_ties_go_to_the_earlier():
    confidence = np.array([[0.5] * 40, [0.5] * 20 + [0.25] * 20], "float32")
    indices, rank, chosen = numpy(least_confident(confidence, 5))
    np.testing.assert_array_equal(indices[0], np.arange(5))
    np.testing.assert_array_equal(indices[1], np.arange(20, 25))
    assert chosen.sum() == 10
    np.testing.assert_array_equal(rank[1, 20:25], np.arange(5))
    assert rank.min() == 0 and rank.max() == 4


@pytest.mark.parametrize("count", [1, 3, 7])
def test_scattering_what_was_gathered_changes_nothing(count):
    confidence = RANDOM.uniform(size=(3, 7)).astype("float32")
    indices, rank, chosen = least_confident(confidence, count)
    deep = gather_tokens(ops.convert_to_tensor(HIDDEN), indices)
    assert deep.shape == (3, count, 8)
    back = numpy(scatter_tokens(deep, HIDDEN, rank, chosen))
    np.testing.assert_array_equal(back, HIDDEN)
    back = numpy(scatter_tokens(deep + 1, HIDDEN, rank, chosen))
    changed = (back != HIDDEN).all(-1)
    np.testing.assert_array_equal(changed, ops.convert_to_numpy(chosen))


def test_only_chosen_tokens_get_a_gradient():
    class Deeper(keras.layers.Layer):
        def build(self, shape):
            self.x = self.add_weight(shape=HIDDEN.shape, initializer="zeros")

        def call(self, confidence):
            indices, rank, chosen = least_confident(confidence, 3)
            deep = gather_tokens(ops.convert_to_tensor(self.x), indices)
            out = scatter_tokens(
                5.0 * deep, ops.zeros(HIDDEN.shape), rank, chosen
            )
            self.add_loss(ops.sum(out))
            return confidence

    confidence = RANDOM.uniform(size=(3, 7)).astype("float32")
    model = keras.Sequential([Deeper()])
    model.compile(keras.optimizers.SGD(1.0))
    model.fit(confidence, batch_size=3, shuffle=False, verbose=0)
    gradient = -numpy(model.layers[0].x.value)
    chosen = numpy(least_confident(confidence, 3)[2])
    np.testing.assert_array_equal(gradient[chosen], 5.0)
    np.testing.assert_array_equal(gradient[~chosen], 0.0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="confidence.*margin"):
        EarlyExitRouter("entropy")
    for threshold in (-0.1, 1.1, float("nan"), "high"):
        with pytest.raises((ValueError, TypeError), match="threshold"):
            EarlyExitRouter(threshold=threshold)
    router = EarlyExitRouter()
    router.build(HIDDEN.shape)
    with pytest.raises(ValueError, match="threshold"):
        router.set_threshold(2.0)
    for capacity in (0, 1.5):
        with pytest.raises(ValueError, match="capacity"):
            EarlyExitRouter(capacity=capacity)
    with pytest.raises(ValueError, match="logits"):
        EarlyExitRouter("margin")(HIDDEN)
    with pytest.raises(ValueError, match="previous"):
        EarlyExitRouter("state_similarity")(HIDDEN)
    with pytest.raises(ValueError, match="length 1"):
        EarlyExitRouter(capacity=0.5)(HIDDEN[:, :1])


@pytest.mark.parametrize(
    ("count", "share", "part"),
    [(10, 0.3, 3), (30, 0.1, 3), (8, 0.26, 3), (8, 1.0, 8), (8, 1e-6, 1)],
)
def test_part_of_a_number_and_of_a_tensor(count, share, part):
    assert part_of(count, share) == part
    tensor = ops.convert_to_tensor(count, "int32")
    assert int(ops.convert_to_numpy(part_of(tensor, share))) == part
