"""Step by step with exits: the same as whole texts, and really skipping."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery._backend import compile_function
from orrery.zoo import EarlyExitLM
from orrery.zoo.exit_decoding import ExitDecoder
from orrery.zoo.generation import generate
from orrery.zoo.step_scores import score_steps

TOKENS = np.random.default_rng(0).integers(0, 31, (8, 12)).astype("int32")


def numpy(structure):
    return keras.tree.map_structure(ops.convert_to_numpy, structure)


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


def half_leave(model, tokens=TOKENS):
    """Thresholds with which about half of the tokens leave at each exit."""
    h, depth, levels = model.token_embedding(tokens), 0, []
    for exit, size in enumerate(model.blocks[:-1]):
        for layer in model.decoder_layers[depth : depth + size]:
            previous, h = h, layer(h)
        depth += size
        confidence = numpy(model.compute_confidence(h, previous, exit))
        middle = np.sort(confidence.ravel())[confidence.size // 2 :][:2]
        levels.append(float(middle.mean()))
    model.set_threshold(levels)


def decode(decoder, tokens):
    """Logits and exits of a decoder that is given the tokens."""
    state = decoder.initial_state(*tokens.shape)
    step = compile_function(decoder.step, decoder.model.variables)
    logits, exits = [], []
    for t in range(tokens.shape[1]):
        token = ops.convert_to_tensor(tokens[:, t : t + 1])
        z, state = step(token, state, ops.convert_to_tensor(t, "int32"))
        logits.append(numpy(z)[:, 0])
        exits.append(numpy(state["exit"]))
    return np.stack(logits, axis=1), np.stack(exits, axis=1)


@pytest.mark.parametrize(
    "confidence, rows, blocks",
    [
        ("max_prob", 1, (1, 2)),
        ("margin", 3, (1, 2)),
        ("max_prob", 8, (1, 2)),
        ("state_similarity", 3, (1, 1, 2)),
        ("learned", 1, (1, 1, 2)),
    ],
)
def test_propagation_step_by_step(confidence, rows, blocks):
    tokens = TOKENS[:rows]
    model = small(blocks, confidence)
    half_leave(model)
    logits, exits = decode(ExitDecoder(model), tokens)
    whole = numpy(model.route(tokens, "propagate"))
    assert len(np.unique(exits)) > 1
    np.testing.assert_array_equal(exits, whole["exit"])
    np.testing.assert_allclose(logits, whole["logits"], atol=1e-5)


@pytest.mark.parametrize(
    "rows, window", [(1, 3), (1, 8), (1, 50), (3, 1), (3, 3)]
)
def test_deferring_is_exact(rows, window):
    tokens = TOKENS[:rows]
    model = small()
    half_leave(model)
    logits, exits = decode(ExitDecoder(model, "defer", window=window), tokens)
    whole = numpy(model.route(tokens, "both"))
    assert len(np.unique(exits)) > 1
    np.testing.assert_array_equal(exits, whole["exit"])
    np.testing.assert_allclose(logits, whole["logits"], atol=1e-5)


@pytest.mark.parametrize("capacity", [0.3, 0.5, 1.0])
def test_rows_step_by_step(capacity):
    model = small()
    logits, exits = decode(ExitDecoder(model, capacity=capacity), TOKENS)
    whole = numpy(model.route(TOKENS, "rows", capacity))
    np.testing.assert_array_equal(exits, whole["exit"])
    np.testing.assert_allclose(logits, whole["logits"], atol=1e-5)


def test_every_number_of_rows_that_go_on():
    """Each branch is taken, and what rows of a batch get is their own."""
    model = small()
    decoder = ExitDecoder(model)
    tokens = np.stack([np.arange(8), np.arange(8, 16)], 1).astype("int32")
    confidence = numpy(model.route(tokens)["confidence"])[:, 0]
    for staying in range(9):
        levels = [0.0, *np.sort(confidence), 1.0]
        model.set_threshold(float(np.mean(levels[staying : staying + 2])))
        logits, exits = decode(decoder, tokens)
        assert (exits[:, 0] == 1).sum() == staying
        whole = numpy(model.route(tokens))
        np.testing.assert_allclose(logits, whole["logits"], atol=1e-5)


# Keras turns the scales of an embedding, a vector, around.
@pytest.mark.filterwarnings("ignore:.*use of `x.T`:UserWarning")
def test_score_after_quantization():
    model = small()
    half_leave(model)
    decoder = ExitDecoder(model)
    loss, _ = score_steps(decoder, TOKENS)
    model.quantize("int8")
    after, _ = score_steps(decoder, TOKENS)
    fresh, _ = score_steps(ExitDecoder(model), TOKENS)
    np.testing.assert_array_equal(after, fresh)
    assert not np.array_equal(after, loss)


@pytest.mark.parametrize("policy", ["propagate", "defer"])
def test_without_a_threshold_it_is_the_model(policy):
    model = small()
    logits, exits = decode(ExitDecoder(model, policy), TOKENS)
    assert (exits == 1).all()
    np.testing.assert_allclose(logits, numpy(model(TOKENS)), atol=1e-5)


@pytest.mark.parametrize("policy", ["propagate", "defer"])
def test_prompts_are_read_at_full_depth(policy):
    model = small()
    half_leave(model)
    decoder = ExitDecoder(model, policy)
    state = decoder.initial_state(*TOKENS.shape)
    for t in range(6):
        token = ops.convert_to_tensor(TOKENS[:, t : t + 1])
        z, state = decoder.read(token, state, t)
        np.testing.assert_allclose(
            numpy(z)[:, 0], numpy(model(TOKENS))[:, t], atol=1e-5
        )
    full = model.initial_state(*TOKENS.shape)
    _, full = model.step(ops.convert_to_tensor(TOKENS[:, :6]), full, 0)
    for one, two in zip(
        keras.tree.flatten(state["caches"]),
        keras.tree.flatten(full),
        strict=True,
    ):
        np.testing.assert_allclose(numpy(one), numpy(two), atol=1e-5)
    # The next one leaves or goes on, seeing a prompt of full depth.
    token = ops.convert_to_tensor(TOKENS[:, 6:7])
    z, after = decoder.step(token, state, 6)
    out = model.forward_train(TOKENS[:, :7])
    gone = numpy(after["exit"]) == 0
    expected = np.where(
        gone[:, None],
        numpy(out["shallow_logits"])[:, -1],
        numpy(out["deep_logits"])[:, -1],
    )
    np.testing.assert_allclose(numpy(z)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"policy": "defer"}, {"capacity": 0.5}]
)
def test_generation_goes_through_the_exits(options):
    """The greedy text, token for token, of compiled and of single steps."""
    model = small()
    half_leave(model)
    decoder = ExitDecoder(model, **options)
    prompts = TOKENS[:, :11]  # Ten to be read: eight at a time, then two.
    texts = generate(decoder, prompts, 17, sampler="greedy", forbidden=())
    state = decoder.initial_state(8, 17)
    ids = np.zeros((8, 17), "int32")
    ids[:, :11] = prompts
    exits = set()
    for t in range(16):
        token = ops.convert_to_tensor(ids[:, t : t + 1])
        step = decoder.read if t < 10 else decoder.step
        z, state = step(token, state, t)
        if t >= 10:
            ids[:, t + 1] = numpy(z)[:, 0].argmax(-1)
            exits |= set(numpy(state["exit"]).tolist())
    assert exits == {0, 1}
    np.testing.assert_array_equal(np.stack(texts), ids)


@pytest.mark.parametrize("policy", ["propagate", "defer"])
@pytest.mark.parametrize("blocks", [(1, 2), (1, 1, 1)])
def test_prompts_of_any_length_are_read_whole(policy, blocks):
    """The rows of a batch are continued as each would be alone."""
    if policy == "defer" and len(blocks) > 2:
        pytest.skip("two blocks only")
    model = small(blocks)
    half_leave(model)
    decoder = ExitDecoder(model, policy)
    prompts = [row[: 3 + 3 * (k % 4)] for k, row in enumerate(TOKENS)]
    options = {"sampler": "greedy", "forbidden": ()}
    together = generate(decoder, prompts, 17, **options)
    for row, prompt in zip(together, prompts, strict=True):
        alone = generate(decoder, prompt, 17, **options)
        np.testing.assert_array_equal(row, alone)


@pytest.mark.parametrize(
    "options", [{}, {"policy": "defer"}, {"capacity": 0.5}]
)
def test_score_is_that_of_the_steps(options):
    model = small()
    half_leave(model)
    decoder = ExitDecoder(model, **options)
    loss, exits = score_steps(decoder, TOKENS)
    logits, left = decode(decoder, TOKENS)
    logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(logits[:, :-1], TOKENS[:, 1:, None], -1)
    np.testing.assert_array_equal(exits, left[:, :-1])
    np.testing.assert_allclose(loss, -expected[..., 0], atol=1e-5)
    full, exits = score_steps(decoder, TOKENS, full_depth=True)
    assert (exits == 1).all()
    logits = numpy(model(TOKENS)).astype("float64")
    logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(logits[:, :-1], TOKENS[:, 1:, None], -1)
    np.testing.assert_allclose(full, -expected[..., 0], atol=1e-5)
    plain, exits = score_steps(model, TOKENS)
    assert (exits == 1).all()
    np.testing.assert_allclose(plain, full, atol=1e-5)
    model.set_threshold(None)
    loss, exits = score_steps(decoder, TOKENS)
    if "capacity" not in options:
        assert (exits == 1).all()
        np.testing.assert_allclose(loss, full, atol=1e-5)
    with pytest.raises(ValueError, match="tokens"):
        score_steps(decoder, TOKENS[:, :1])


def test_bad_arguments():
    model = small()
    for name, value in (
        ("policy", "recompute"),
        ("capacity", 0.0),
        ("window", 0),
    ):
        with pytest.raises(ValueError, match=name):
            ExitDecoder(model, **{name: value})
    with pytest.raises(ValueError, match="defer"):
        ExitDecoder(model, "defer", capacity=0.5)
    with pytest.raises(ValueError, match="defer"):
        ExitDecoder(small((1, 1, 1)), "defer")
    with pytest.raises(ValueError, match="blocks"):
        ExitDecoder(small((3,)))
