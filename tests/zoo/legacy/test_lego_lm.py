"""The original early-exit network: mathematics, sizes, exit, draws."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from orrery.testing import compare_backends
from orrery.zoo.legacy.ashem import published_optimizer
from orrery.zoo.legacy.lego_lm import LegoLM
from orrery.zoo.legacy.torch_draws import TorchDraws, draw_as_published

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 31, (3, 12)).astype("int32")
TARGETS = np.roll(TOKENS, -1, axis=1)


def small(num_layers=3, exit_layer=1, **kwargs):
    keras.utils.set_random_seed(1)
    return LegoLM(31, 16, num_layers, exit_layer, 2, 24, **kwargs)


def numpy(structure):
    return keras.tree.map_structure(ops.convert_to_numpy, structure)


def rms(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(joint, output, x, heads=2):
    batch, length, width = x.shape
    shape = batch, length, heads, width // heads
    half = shape[-1] // 2
    angle = np.arange(length)[:, None] * 10_000.0 ** (-np.arange(half) / half)

    def turn(x):
        z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[:, None]
        return np.concatenate([z.real, z.imag], -1)

    q, k, v = (part.reshape(shape) for part in np.split(x @ joint, 3, -1))
    score = np.einsum("bthd,bshd->bhts", turn(q), turn(k)) / np.sqrt(2 * half)
    score = np.where(np.tril(np.ones((length, length), bool)), score, -np.inf)
    y = np.einsum("bhts,bshd->bthd", softmax(score), v)
    return y.reshape(x.shape) @ output


def reference_states(model, tokens):
    """`x <- N(x + A(x)); x <- N(x + F(x))`, in float64."""
    x = model.token_embedding.get_weights()[0].astype("float64")[tokens]
    states = [x]
    for layer in model.decoder_layers:
        joint, output = layer.mixer.get_weights()
        gate, value, back = layer.feedforward.get_weights()
        x = rms(x + attend(joint, output, x))
        hidden = x @ gate
        hidden = hidden / (1 + np.exp(-hidden)) * (x @ value)
        x = rms(x + hidden @ back)
        states.append(x)
    return states


def kernel(model):
    return model.head.get_weights()[0].astype("float64")


def test_equals_the_formulas():
    model = small()
    states = reference_states(model, TOKENS)
    shallow, deep = (states[i] @ kernel(model) for i in (1, -1))
    np.testing.assert_allclose(numpy(model(TOKENS)), deep, atol=1e-5)
    out = numpy(model.forward_train(TOKENS))
    np.testing.assert_allclose(out["shallow_logits"], shallow, atol=1e-5)
    np.testing.assert_allclose(out["deep_logits"], deep, atol=1e-5)
    confidence = softmax(shallow).max(-1)
    np.testing.assert_allclose(out["confidence"], confidence, atol=1e-6)
    assert out["shallow_ratio"] == 0
    for logits, state in zip(
        model.forward_all_layers(TOKENS), states[1:], strict=True
    ):
        np.testing.assert_allclose(
            numpy(logits), state @ kernel(model), atol=1e-5
        )
    nll = numpy(model({"tokens": TOKENS, "targets": TARGETS}))
    log_p = np.log(softmax(deep))
    expected = -np.take_along_axis(log_p, TARGETS[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll, expected, atol=1e-5)
    np.testing.assert_allclose(
        numpy(model.losses[0]), expected.mean(), rtol=1e-5
    )


def test_both_paths_are_computed_and_one_is_chosen():
    model = small()
    out = numpy(model.forward_train(TOKENS))
    level = float(np.median(out["confidence"]))
    model.set_threshold(level)
    routed = numpy(model.route(TOKENS))
    leaves = routed["confidence"] >= np.float32(level)
    assert 0 < leaves.mean() < 1
    np.testing.assert_array_equal(routed["exit"], np.where(leaves, 0, 1))
    expected = np.where(
        leaves[..., None], out["shallow_logits"], out["deep_logits"]
    )
    np.testing.assert_allclose(routed["logits"], expected, atol=1e-5)
    stats = model.forward_inference(TOKENS)[1]
    share = leaves.mean()
    assert stats["shallow_ratio"] == pytest.approx(share)
    assert stats["compute_cost"] == pytest.approx((share + 3 * (1 - share)) / 3)
    assert stats["mean_confidence"] == pytest.approx(
        routed["confidence"].mean(), rel=1e-5
    )


def test_limits_of_the_threshold():
    model = small()
    out = numpy(model.forward_train(TOKENS))
    for level, name, exit in (
        (0.0, "shallow_logits", 0),
        (None, "deep_logits", 1),
    ):
        model.set_threshold(level)
        routed = numpy(model.route(TOKENS))
        assert (routed["exit"] == exit).all()
        np.testing.assert_allclose(routed["logits"], out[name], atol=1e-5)
    # At the threshold a token leaves.
    model.set_threshold(float(routed["confidence"][1, 2]))
    assert numpy(model.route(TOKENS))["exit"][1, 2] == 0


@pytest.mark.parametrize("routed", [False, True])
def test_later_tokens_change_nothing_earlier(routed):
    model = small(threshold=0.1)

    def logits(tokens):
        return numpy(model.route(tokens)["logits"] if routed else model(tokens))

    before = logits(TOKENS)
    changed = TOKENS.copy()
    changed[:, 7:] = (changed[:, 7:] + 1) % 31
    after = logits(changed)
    np.testing.assert_allclose(before[:, :7], after[:, :7], atol=1e-6)
    assert np.abs(before[:, 7:] - after[:, 7:]).max() > 1e-3


def test_initial_weights_are_normal():
    model = LegoLM(3000, 64, 2, None)
    table = model.token_embedding.get_weights()[0]
    assert table.std() == pytest.approx(0.02, rel=0.01)
    for layer in (*model.decoder_layers, model.head):
        for weight in layer.weights:
            value = numpy(weight.value)
            if weight.path.endswith("kernel"):
                assert value.std() == pytest.approx(0.125, rel=0.03)
                assert np.abs(value).max() > 0.3
            else:
                np.testing.assert_array_equal(value, 1.0)
    first, second = (
        layer.mixer.get_weights()[0] for layer in model.layers[1:3]
    )
    assert np.abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_extension_keeps_what_was_learned():
    model = small(2, None)
    deep = model.extend(1, threshold=0.2)
    assert deep.blocks == (2, 1)
    assert deep.thresholds == [pytest.approx(0.2)]
    np.testing.assert_array_equal(
        numpy(deep.forward_train(TOKENS)["shallow_logits"]),
        numpy(model(TOKENS)),
    )
    trained = {w.path.split("/")[1] for w in deep.trainable_weights}
    assert trained == {"layer_2", "head"}
    free = model.extend(1, freeze=False)
    assert len(free.trainable_weights) == 1 + 3 * 7 + 1
    assert free.thresholds == [None]


def test_training_reaches_every_weight():
    model = small(2, None)
    before = [np.array(w) for w in model.get_weights()]
    model.compile(published_optimizer(1e-2))
    inputs = {"tokens": TOKENS, "targets": TARGETS}
    loss = model.fit(inputs, TARGETS, epochs=40, verbose=0).history["loss"]
    assert loss[-1] < 0.5 * loss[0]
    for weight, old in zip(model.weights, before, strict=True):
        assert (numpy(weight.value) != old).any(), weight.path


def test_streaming_equals_the_full_pass():
    model = small(1, None)
    expected = numpy(model(TOKENS))
    state = model.initial_state(3, 12)
    for start, end in ((0, 1), (1, 5), (5, 12)):
        tokens = ops.convert_to_tensor(TOKENS[:, start:end])
        logits, state = model.step(tokens, state, start)
        np.testing.assert_allclose(
            numpy(logits), expected[:, start:end], atol=1e-5
        )


def test_a_saved_model_is_the_same(tmp_path):
    model = small(threshold=0.3)
    model.set_threshold(0.6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        numpy(again(TOKENS)), numpy(model(TOKENS)), atol=1e-6
    )
    assert again.thresholds == [pytest.approx(0.6)]
    assert again.get_config() == model.get_config()
    symbolic = model(keras.Input((12,), dtype="int32"))
    assert symbolic.shape == (None, 12, 31)


def test_bad_arguments():
    for name, value in (
        ("vocabulary_size", 0),
        ("num_layers", 0),
        ("exit_layer", 5),
        ("exit_layer", 0),
        ("threshold", 1.5),
        ("hidden_dim", 1.5),
    ):
        with pytest.raises(ValueError, match=name):
            LegoLM(**{"vocabulary_size": 31, "dim": 16, name: value})
    with pytest.raises(ValueError, match="policy"):
        small().route(TOKENS, "propagate")
    with pytest.raises(ValueError, match="blocks"):
        small(2, None).route(TOKENS)
    with pytest.raises(ValueError, match="num_new_layers"):
        small().extend(0)


# The draws


def test_draws_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    draws, generator = TorchDraws(7), torch.Generator("cpu").manual_seed(7)

    def tensor(*shape):
        return torch.empty(*shape)

    np.testing.assert_array_equal(
        draws.integers(100, (8, 16)),
        torch.randint(0, 100, (8, 16), generator=generator),
    )
    tensor(5, 16).normal_(generator=generator)
    draws.skip(80)
    tensor(3, 16).uniform_(-0.1, 0.1, generator=generator)
    draws.skip(48)
    np.testing.assert_array_equal(
        draws.permutation(300), torch.randperm(300, generator=generator)
    )
    np.testing.assert_array_equal(
        draws.uniform((5, 7)), torch.rand(5, 7, generator=generator)
    )
    for stddev in (0.02, 0.5, 2.0):
        edge = math.erf(2 / stddev / math.sqrt(2))
        expected = tensor(40, 16).uniform_(-edge, edge, generator=generator)
        expected = expected.erfinv_().mul_(stddev * math.sqrt(2)).clamp_(-2, 2)
        got = draws.truncated_normal((40, 16), stddev)
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_drawn_weights_are_in_the_order_of_the_original():
    model = small(2, None)
    draws = TorchDraws(3)
    draw_as_published(model, draws)
    matrices = [(31, 16)]
    matrices += [*[(16, 16)] * 4, (24, 16), (16, 24), (24, 16)] * 2
    matrices += [(31, 16)]
    again = TorchDraws(3)
    for shape in matrices:
        again.skip(math.prod(shape))
    table, *rest = (
        again.truncated_normal(shape, 0.25 if i else 0.02)
        for i, shape in enumerate(matrices)
    )
    np.testing.assert_array_equal(model.token_embedding.get_weights()[0], table)
    np.testing.assert_array_equal(model.head.get_weights()[0], rest[-1].T)
    q, k, v, o, gate, back, value = rest[7:14]
    layer = model.decoder_layers[1]
    joint, output = layer.mixer.get_weights()
    np.testing.assert_array_equal(joint, np.concatenate([q.T, k.T, v.T], 1))
    np.testing.assert_array_equal(output, o.T)
    for got, wanted in zip(
        layer.feedforward.get_weights(), (gate, value, back), strict=True
    ):
        np.testing.assert_array_equal(got, wanted.T)
    np.testing.assert_array_equal(draws.raw(3), again.raw(3))


# Across backends

REPEATED = {"tokens": TOKENS % 3, "targets": TARGETS % 3}


def build(path):
    small(threshold=0.1).save(path)


def run(path):
    """Logits, and weights after steps with repeated tokens and clipping."""
    model = keras.saving.load_model(path)
    arrays = {"logits": numpy(model(TOKENS))}
    arrays["routed"] = numpy(model.route(TOKENS)["logits"])
    model.compile(published_optimizer(1e-3))
    model.fit(REPEATED, TARGETS, epochs=3, shuffle=False, verbose=0)
    for i, weight in enumerate(model.get_weights()):
        arrays[f"weight_{i}"] = weight
    return arrays


def test_gradients_there_are_clipped():
    model = small(threshold=0.1)
    before = [numpy(w).copy() for w in model.trainable_weights]
    model.compile(keras.optimizers.SGD(1.0))
    model.fit(REPEATED, TARGETS, epochs=1, shuffle=False, verbose=0)
    moved = [
        ((numpy(w) - old) ** 2).sum()
        for w, old in zip(model.trainable_weights, before, strict=True)
    ]
    assert np.sqrt(sum(moved)) > published_optimizer(1e-3).global_clipnorm


@pytest.mark.cross_backend
def test_backends_agree(tmp_path):
    differences = compare_backends(__file__, tmp_path)
    assert differences["logits"].absolute < 1e-5
    assert differences["routed"].absolute < 1e-5
    trained = [d for name, d in differences.items() if "weight" in name]
    assert max(d.absolute for d in trained) < 1e-5


def test_costs_of_the_original():
    """64.82 % published; 126.0 %, 288.9 % and 1.028 by the same sizes."""
    model = LegoLM()
    costs = model.published_costs(0.7036)
    assert costs["layers_only"] == pytest.approx(0.6482, abs=5e-5)
    assert costs["skipped"] == pytest.approx(1.260, abs=5e-4)
    assert costs["executed"] == pytest.approx(2.889, abs=5e-4)
    assert costs["ceiling"] == pytest.approx(1.028, abs=5e-4)
