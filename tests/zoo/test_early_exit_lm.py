"""The early-exit language model: mathematics, exits, causality, routing."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.metrics import Perplexity
from orrery.zoo import EarlyExitLM

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 31, (3, 12)).astype("int32")
TARGETS = np.roll(TOKENS, -1, axis=1)


def small(blocks=(1, 2), confidence="max_prob", **kwargs):
    keras.utils.set_random_seed(1)
    model = EarlyExitLM(
        31,
        dim=16,
        blocks=blocks,
        num_heads=2,
        hidden_dim=24,
        confidence=confidence,
        embedding_stddev=0.5,
        **kwargs,
    )
    model.build()
    return model


def numpy(structure):
    return keras.tree.map_structure(ops.convert_to_numpy, structure)


def values(layer):
    """The weights of a layer in float64, by the last parts of their paths."""
    return {
        "/".join(w.path.split("/")[-2:]): ops.convert_to_numpy(w).astype(
            "float64"
        )
        for w in layer.weights
    }


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def attend(w, u, seen=None, heads=2):
    batch, length, width = u.shape
    shape = batch, length, heads, width // heads
    kernels = np.split(w["query_key_value/kernel"], 3, -1)
    sources = (u, *(2 * [u if seen is None else seen]))
    q, k, v = (
        (source @ kernel).reshape(shape)
        for source, kernel in zip(sources, kernels, strict=True)
    )
    half = shape[-1] // 2
    angle = np.arange(length)[:, None] * 10_000.0 ** (-np.arange(half) / half)

    def turn(x):
        z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[:, None]
        return np.concatenate([z.real, z.imag], -1)

    score = np.einsum("bthd,bshd->bhts", turn(q), turn(k)) / np.sqrt(2 * half)
    score = np.where(np.tril(np.ones((length, length), bool)), score, -np.inf)
    y = np.einsum("bhts,bshd->bthd", softmax(score), v)
    return y.reshape(u.shape) @ w["output/kernel"]


def feed(w, u):
    gate = u @ w["gate/kernel"]
    hidden = gate / (1 + np.exp(-gate)) * (u @ w["value/kernel"])
    return hidden @ w["output_projection/kernel"]


def reference_states(model, tokens):
    h = values(model.token_embedding)["token_embedding/embeddings"][tokens]
    states = [h]
    for layer in model.decoder_layers:
        w = values(layer)
        h = h + attend(w, rms(h, w["mixer_norm/scale"]))
        h = h + feed(w, rms(h, w["feedforward_norm/scale"]))
        states.append(h)
    return states


def reference_logits(model, state, exit):
    scale = values(model.exit_norms[exit])[f"exit_norm_{exit}/scale"]
    head = model.heads[exit if len(model.heads) > 1 else 0]
    w = values(head)
    if head.projection is None:
        kernel = values(model.token_embedding)["token_embedding/embeddings"].T
    else:
        kernel = w["projection/kernel"]
    return rms(state, scale) @ kernel + w[f"{head.name}/bias"]


@pytest.mark.parametrize("head", ["tied", "shared", "separate"])
def test_equals_the_formulas(head):
    model = small(head=head)
    states = reference_states(model, TOKENS)
    expected = reference_logits(model, states[-1], -1 % 2)
    np.testing.assert_allclose(numpy(model(TOKENS)), expected, atol=1e-5)
    out = numpy(model.forward_train(TOKENS))
    shallow = reference_logits(model, states[1], 0)
    np.testing.assert_allclose(out["shallow_logits"], shallow, atol=1e-5)
    np.testing.assert_allclose(out["deep_logits"], expected, atol=1e-5)
    np.testing.assert_allclose(
        out["confidence"], softmax(shallow).max(-1), atol=1e-5
    )
    assert out["shallow_ratio"] == 0
    model.set_threshold(0.4)
    ratio = numpy(model.forward_train(TOKENS))["shallow_ratio"]
    np.testing.assert_allclose(
        ratio, (softmax(shallow).max(-1) >= 0.4).mean(), rtol=1e-6
    )
    for depth, logits in enumerate(model.forward_all_layers(TOKENS), 1):
        np.testing.assert_allclose(
            numpy(logits),
            reference_logits(model, states[depth], int(depth > 1)),
            atol=1e-5,
        )
    hidden = model.forward_to_hidden(TOKENS)
    np.testing.assert_allclose(numpy(hidden), states[1], atol=1e-5)
    deep = numpy(model.forward_upper(hidden))
    np.testing.assert_allclose(deep, states[-1], atol=1e-5)


def test_similarity_is_that_of_the_states():
    """Whatever scale the norm of the exit has learned."""
    model = small(blocks=(2, 1), confidence="state_similarity")
    scale = RANDOM.uniform(0.2, 2.0, model.dim).astype("float32")
    model.exit_norms[0].scale.assign(scale)
    states = reference_states(model, TOKENS)
    before, after = states[1], states[2]
    cosine = (before * after).sum(-1)
    cosine /= np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    found = numpy(model.forward_train(TOKENS))["confidence"]
    np.testing.assert_allclose(found, (1 + cosine) / 2, atol=1e-5)


def test_loss_is_what_the_docstring_says():
    model = small(distillation=0.5, temperature=3.0, exit_weight=0.25)
    states = reference_states(model, TOKENS)
    weight = RANDOM.uniform(0.5, 1.5, TOKENS.shape)
    inputs = {"tokens": TOKENS, "targets": TARGETS, "sample_weight": weight}
    inputs["sample_weight"] = weight.astype("float32")
    z = [reference_logits(model, states[1], 0)]
    z.append(reference_logits(model, states[-1], 1))
    nll = [
        -np.take_along_axis(log_softmax(x), TARGETS[..., None], -1)[..., 0]
        for x in z
    ]
    student, teacher = (log_softmax(x / 3.0) for x in z)
    kl = (np.exp(teacher) * (teacher - student)).sum(-1)
    expected = (weight * (nll[1] + 0.25 * nll[0] + 0.5 * 9.0 * kl)).mean()
    np.testing.assert_allclose(
        numpy(model(inputs, training=True)), nll[1], atol=1e-5
    )
    np.testing.assert_allclose(
        sum(float(numpy(loss)) for loss in model.losses), expected, rtol=1e-5
    )
    model(inputs)
    np.testing.assert_allclose(
        sum(float(numpy(loss)) for loss in model.losses),
        (weight * nll[1]).mean(),
        rtol=1e-5,
    )


def test_who_left_by_chance_is_seen_as_it_was():
    model = small(random_exits=0.8, exit_weight=0.25, distillation=0.5)
    stays = RANDOM.random(TOKENS.shape) < 0.6
    model._by_chance = lambda *_: ops.convert_to_tensor(stays[..., None])
    nll = numpy(model({"tokens": TOKENS, "targets": TARGETS}, training=True))
    h = left = reference_states(model, TOKENS)[1]
    z = [reference_logits(model, h, 0)]
    for layer in model.decoder_layers[1:]:
        w = values(layer)
        seen = np.where(stays[..., None], h, left)
        u, others = (rms(x, w["mixer_norm/scale"]) for x in (h, seen))
        h = h + attend(w, u, others)
        h = h + feed(w, rms(h, w["feedforward_norm/scale"]))
    z.append(reference_logits(model, h, 1))
    first, last = (
        -np.take_along_axis(log_softmax(x), TARGETS[..., None], -1)[..., 0]
        for x in z
    )
    np.testing.assert_allclose(nll, last, atol=1e-5)
    student, teacher = (log_softmax(x / 2.0) for x in z)
    kl = (np.exp(teacher) * (teacher - student)).sum(-1)
    expected = (0.25 * first + last + 0.5 * 4.0 * kl).mean()
    np.testing.assert_allclose(
        sum(float(numpy(loss)) for loss in model.losses), expected, rtol=1e-5
    )
    model._by_chance = lambda *_: ops.ones((3, 12, 1), "bool")
    nll = model({"tokens": TOKENS, "targets": TARGETS}, training=True)
    plain = model({"tokens": TOKENS, "targets": TARGETS})
    np.testing.assert_allclose(numpy(nll), numpy(plain), atol=1e-5)


def test_shares_that_leave_by_chance_are_even():
    """Of a row U(0, r), and at the next exit as many of those that stay."""
    model = small(blocks=(1, 1, 1), random_exits=0.8)
    shape = 2000, 100
    one = numpy(model._by_chance(None, shape))
    shares = 1 - one.mean(axis=(1, 2))
    np.testing.assert_allclose(
        np.quantile(shares, [0.1, 0.5, 0.9]), [0.08, 0.4, 0.72], atol=0.04
    )
    two = numpy(model._by_chance(ops.convert_to_tensor(one), shape))
    assert not (two & ~one).any()
    np.testing.assert_allclose(two.mean(), 0.36, atol=0.02)


def test_weight_of_the_exits_rises_with_the_steps():
    model = small(exit_warmup=4, exit_weight=0.5)
    inputs = {"tokens": TOKENS, "targets": TARGETS}
    losses = []
    for _ in range(6):
        model(inputs, training=True)
        losses.append(sum(float(numpy(loss)) for loss in model.losses))
    model(inputs)
    deep = sum(float(numpy(loss)) for loss in model.losses)
    parts = (np.array(losses) - deep) / (losses[-1] - deep)
    np.testing.assert_allclose(parts, [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-4)


@pytest.mark.parametrize("policy", ["full", "both", "propagate", "rows"])
def test_later_tokens_change_nothing_earlier(policy):
    model = small(threshold=0.3)
    capacity = 0.5 if policy == "rows" else None

    def logits(tokens):
        if policy == "full":
            return numpy(model(tokens))
        return numpy(model.route(tokens, policy, capacity)["logits"])

    before = logits(TOKENS)
    changed = TOKENS.copy()
    changed[:, 7:] = (changed[:, 7:] + 1) % 31
    after = logits(changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max() > 0


def test_capacity_is_not_causal():
    model = small()
    before = numpy(model.route(TOKENS, "capacity", 0.5))["exit"]
    differs = False
    for seed in range(5):
        changed = TOKENS.copy()
        changed[:, 7:] = np.random.default_rng(seed).integers(0, 31, (3, 5))
        after = numpy(model.route(changed, "capacity", 0.5))["exit"]
        differs |= (before[:, :7] != after[:, :7]).any()
    assert differs


@pytest.mark.parametrize("policy", ["both", "propagate"])
def test_limits_of_the_threshold(policy):
    model = small()
    model.set_threshold(0.0)
    out = numpy(model.route(TOKENS, policy))
    assert (out["exit"] == 0).all()
    shallow = numpy(model.forward_train(TOKENS)["shallow_logits"])
    np.testing.assert_allclose(out["logits"], shallow, atol=1e-6)
    model.set_threshold(None)
    out = numpy(model.route(TOKENS, policy))
    assert (out["exit"] == 1).all()
    np.testing.assert_allclose(out["logits"], numpy(model(TOKENS)), atol=1e-6)


@pytest.mark.parametrize("policy", ["rows", "capacity"])
def test_full_capacity_is_full_depth(policy):
    model = small()
    out = numpy(model.route(TOKENS, policy, 1.0))
    assert (out["exit"] == 1).all()
    np.testing.assert_allclose(out["logits"], numpy(model(TOKENS)), atol=1e-5)


def test_capacity_sends_as_many_on_as_it_says():
    model = small()
    left = numpy(model.route(TOKENS, "capacity", 0.3))["exit"]
    np.testing.assert_array_equal((left == 1).sum(axis=1), 4)
    left = numpy(model.route(TOKENS, "rows", 0.5))["exit"]
    np.testing.assert_array_equal((left == 1).sum(axis=0), 2)
    chosen, confidence = left == 1, None
    confidence = numpy(model.route(TOKENS, "rows", 0.5))["confidence"]
    highest = np.where(chosen, confidence, -1).max(axis=0)
    lowest = np.where(chosen, 2, confidence).min(axis=0)
    assert (highest <= lowest).all()


def test_propagation_is_what_it_says():
    """In NumPy: whoever has left is seen by deeper layers as at the exit."""
    model = small(blocks=(1, 1, 2))
    first = model.forward_train(TOKENS)["confidence"]
    second = softmax(
        reference_logits(model, reference_states(model, TOKENS)[2], 1)
    )
    levels = [
        float(np.quantile(numpy(first), 0.59)),
        float(np.median(second.max(-1))),
    ]
    model.set_threshold(levels)
    out = numpy(model.route(TOKENS, "propagate"))
    h = reference_states(model, TOKENS)[0]
    gone = np.zeros(TOKENS.shape, bool)
    left, depth = np.full(TOKENS.shape, 2), 0
    logits = np.zeros((*TOKENS.shape, 31))
    for exit, size in enumerate(model.blocks):
        for layer in model.decoder_layers[depth : depth + size]:
            w = values(layer)
            new = h + attend(w, rms(h, w["mixer_norm/scale"]))
            new = new + feed(w, rms(new, w["feedforward_norm/scale"]))
            h = np.where(gone[..., None], h, new)
        depth += size
        z = reference_logits(model, h, exit)
        leaves = ~gone
        if exit < 2:
            leaves &= softmax(z).max(-1) >= levels[exit]
        logits = np.where(leaves[..., None], z, logits)
        left = np.where(leaves, exit, left)
        gone |= leaves
    assert len(set(left.ravel())) == 3
    np.testing.assert_array_equal(out["exit"], left)
    np.testing.assert_allclose(out["logits"], logits, atol=1e-5)
    both = numpy(model.route(TOKENS, "both"))["logits"]
    assert np.abs(both - logits).max() > 1e-3


def test_a_batch_runs_every_head():
    model = small(confidence="learned")
    _, stats = model.forward_inference(TOKENS, "rows", 0.5)
    share = stats["shallow_ratio"]
    assert share == pytest.approx(1 / 3)
    cost = model.compute_cost([share], "propagate", 6.5, every_head=True)
    assert stats["compute_cost_macs"] == cost["macs_with_head"]
    assert cost["macs_with_head"] > 1


def test_inference_says_what_it_costs():
    model = small(threshold=0.3)
    logits, stats = model.forward_inference(TOKENS)
    left = numpy(model.route(TOKENS, "both"))["exit"]
    share = (left == 0).mean()
    assert 0 < share < 1
    assert stats["shallow_ratio"] == pytest.approx(share)
    assert stats["compute_cost"] == pytest.approx(share / 3 + 1 - share)
    assert stats["compute_cost_executed"] > 1
    assert numpy(logits).shape == (3, 12, 31)


def test_streaming_equals_the_full_pass():
    model = small()
    expected = numpy(model(TOKENS))
    state = model.initial_state(3, 12)
    for start, end in ((0, 1), (1, 5), (5, 12)):
        tokens = ops.convert_to_tensor(TOKENS[:, start:end])
        logits, state = model.step(tokens, state, start)
        np.testing.assert_allclose(
            numpy(logits), expected[:, start:end], atol=1e-5
        )


@pytest.mark.parametrize(
    "options",
    [{}, {"distillation": 0.5, "head": "tied"}, {"random_exits": 0.5}],
)
def test_fit_learns_and_every_weight_moves(options):
    model = small(head="separate", exit_weight=0.5)
    if options:
        model = small(**options)
    before = [np.array(numpy(w.value)) for w in model.trainable_weights]
    model.compile(keras.optimizers.Adam(1e-2), weighted_metrics=[Perplexity()])
    inputs = {"tokens": TOKENS, "targets": TARGETS}
    history = model.fit(inputs, TARGETS, epochs=40, batch_size=3, verbose=0)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert (numpy(weight.value) != old).any(), weight.path


@pytest.mark.parametrize("head", ["tied", "shared", "separate"])
def test_extended_by_a_block(head):
    """What it said at its end, the new model says at its exit, for good."""
    model = small(blocks=(1, 1), head=head, threshold=0.3)
    deeper = model.extend(2)
    assert deeper.blocks == (1, 1, 2)
    assert deeper.thresholds == [pytest.approx(0.3), None]
    before = numpy(model(TOKENS))
    out = numpy(deeper.forward_train(TOKENS)["exit_logits"])
    np.testing.assert_array_equal(out[1], before)
    assert np.abs(out[2] - before).max() > 1e-3
    deeper.compile(keras.optimizers.AdamW(1e-2))
    inputs = {"tokens": TOKENS, "targets": TARGETS}
    old = [numpy(w).copy() for w in deeper.weights]
    deeper.fit(inputs, TARGETS, epochs=3, verbose=0)
    moved = {
        w.path
        for w, value in zip(deeper.weights, old, strict=True)
        if (numpy(w) != value).any()
    } - {deeper.training_steps.path}
    assert moved == {w.path for w in deeper.trainable_weights}
    assert any("layer_3" in path for path in moved)
    out = numpy(deeper.forward_train(TOKENS)["exit_logits"])
    np.testing.assert_array_equal(out[1], before)


def test_what_is_frozen():
    model = small(head="tied")
    count = len(model.trainable_weights)
    model.freeze_lower(1, embedding=False, head=False)
    kept = model.decoder_layers[0].weights + model.exit_norms[0].weights
    assert len(model.trainable_weights) == count - len(kept)
    model.freeze_lower(0, embedding=False, head=False)
    assert len(model.trainable_weights) == count
    for value in (-1, 4):
        with pytest.raises(ValueError, match="num_layers"):
            model.freeze_lower(value)
    with pytest.raises(ValueError, match="num_new_layers"):
        model.extend(0)


def test_saved_thresholds_and_risks_come_back(tmp_path):
    risks = {
        "kind": "disagree",
        "policy": "propagate",
        "tokens_per_window": 8,
        "weights": 1,
        "table": [{"alpha": 0.05, "threshold": 0.9}],
    }
    model = small(threshold=0.3, confidence="learned", risks=risks)
    model.set_threshold(0.7)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.thresholds == [pytest.approx(0.7)]
    assert again.risks == risks
    with pytest.raises(ValueError, match="other weights"):
        again.set_risk(0.05)
    with pytest.raises(ValueError, match="`risks` must be a table"):
        small(risks={"0.05": [0.9]})
    np.testing.assert_allclose(
        numpy(again(TOKENS)), numpy(model(TOKENS)), atol=1e-6
    )


def test_bad_arguments():
    for name, value in (
        ("vocabulary_size", 0),
        ("dim", 1.5),
        ("head", "own"),
        ("blocks", ()),
        ("blocks", 3),
        ("hidden_dim", 0),
        ("embedding_stddev", -1),
        ("blocks", (1, 0)),
        ("exit_weight", -1),
        ("exit_warmup", -1),
        ("temperature", 0),
        ("random_exits", 1.5),
        ("dropout", 1.0),
        ("threshold", 1.5),
        ("threshold", [0.5, 0.5]),
        ("confidence", "entropy"),
    ):
        with pytest.raises((ValueError, TypeError), match=name):
            EarlyExitLM(**{"dim": 16, "num_heads": 2, name: value})
    model = small()
    with pytest.raises(ValueError, match="policy"):
        model.route(TOKENS, "defer")
    with pytest.raises(ValueError, match="capacity"):
        model.route(TOKENS, "rows")
    with pytest.raises(ValueError, match="capacity"):
        model.route(TOKENS, "both", 0.5)
    hidden = model.forward_to_hidden(TOKENS)
    for depth in (-1, 4):
        with pytest.raises(ValueError, match="depth"):
            model.forward_to_hidden(TOKENS, depth)
        with pytest.raises(ValueError, match="depth"):
            model.forward_upper(hidden, depth=depth)
    with pytest.raises(ValueError, match="always go on"):
        model.route(TOKENS[:, :1], "capacity", 0.25)
    with pytest.raises(ValueError, match="blocks"):
        small(blocks=(3,)).route(TOKENS)
