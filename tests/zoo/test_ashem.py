"""Hard tokens, where they stand: mining, training and scoring in context."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from orrery.datasets import LanguageBatches
from orrery.zoo import EarlyExitLM
from orrery.zoo.ashem import (
    ASHEMConfig,
    StageConfig,
    TrainingConfig,
    collect_hard_examples,
    compute_confidence,
    compute_confidence_threshold,
    create_deep_supervision_config,
    create_hard_example_loader,
    create_standard_config,
    evaluate_on_hard_examples,
    map_tokens,
    train_upper_layers,
)
from orrery.zoo.staged_training import StagedTraining, compute_loss

RANDOM = np.random.default_rng(0)
TEXT = RANDOM.integers(0, 31, (12, 11)).astype("int32")
TOKENS, TARGETS = TEXT[:, :-1], TEXT[:, 1:]
BATCHES = [(TOKENS[i : i + 4], TARGETS[i : i + 4]) for i in (0, 4, 8)]


def small(blocks=(1, 2), head="separate", **kwargs):
    keras.utils.set_random_seed(1)
    model = EarlyExitLM(
        31,
        dim=16,
        blocks=blocks,
        num_heads=2,
        hidden_dim=24,
        confidence="max_prob",
        head=head,
        embedding_stddev=0.5,
        **kwargs,
    )
    model.build()
    return model


def numpy(structure):
    return keras.tree.map_structure(ops.convert_to_numpy, structure)


def log_softmax(x):
    x = x.astype("float64")
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def losses(logits, targets):
    picked = np.take_along_axis(log_softmax(logits), targets[..., None], -1)
    return -picked[..., 0]


def confidences(model):
    shallow = numpy(model.exit_logits(model.forward_to_hidden(TOKENS), 0))
    return np.exp(log_softmax(shallow)).max(-1)


@functools.cache
def mined(blocks=(1, 2), head="separate"):
    """Threshold and hard tokens of the untrained model."""
    model = small(blocks, head)
    level = compute_confidence_threshold(model, BATCHES, 0.5)
    return level, collect_hard_examples(model, BATCHES, level)


def copies(weights):
    return [np.array(numpy(weight.value)) for weight in weights]


# Confidence


@pytest.mark.parametrize("rows, length", [(2, 5), (3, 43), (1, 300)])
def test_tokens_are_mapped_in_chunks_of_any_number(rows, length):
    x = RANDOM.normal(size=(rows, length, 4)).astype("float32")
    y = RANDOM.integers(0, 4, (rows, length)).astype("int32")
    got = numpy(
        map_tokens(
            lambda a, b: (ops.sum(a, axis=-1), ops.square(b)),
            ops.convert_to_tensor(x),
            ops.convert_to_tensor(y),
        )
    )
    np.testing.assert_allclose(got[0], x.sum(-1), atol=1e-6)
    np.testing.assert_array_equal(got[1], y**2)


@pytest.mark.parametrize("blocks", [(2,), (1, 1, 1)])
def test_confidence_is_the_largest_probability(blocks):
    model = small(blocks)
    hidden = model.forward_to_hidden(TOKENS)
    got = numpy(compute_confidence(model, hidden))
    np.testing.assert_allclose(got, confidences(model), rtol=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_threshold_is_the_linear_quantile(ratio):
    model = small()
    got = compute_confidence_threshold(model, BATCHES, ratio)
    expected = np.quantile(confidences(model), ratio)
    assert got == pytest.approx(expected, rel=1e-5)


# Mining


def test_hard_tokens_keep_their_windows():
    model = small()
    level, found = mined()
    hard = confidences(model) < level
    assert hard.sum() == TOKENS.size // 2
    states = numpy(model.forward_to_hidden(TOKENS))
    kept = hard.any(axis=1)
    expected = {
        "inputs": TOKENS[hard],
        "hidden_states": states[hard],
        "targets": TARGETS[hard],
        "confidences": confidences(model)[hard],
        "window_states": states[kept],
        "window_targets": TARGETS[kept],
        "weights": hard[kept].astype("float32"),
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_windows_without_a_hard_token_are_left_out():
    model = small()
    confidence = confidences(model)
    # Between two windows, whatever rounding does to either.
    level = float(np.sort(confidence.min(axis=1))[1:3].mean())
    found = collect_hard_examples(model, BATCHES, level)
    assert len(found["weights"]) == (confidence < level).any(1).sum() < 12


def test_language_batches_count_without_their_filling():
    model = small()
    batches = LanguageBatches(TOKENS, TARGETS, batch_size=5, shuffle=False)
    level = compute_confidence_threshold(model, batches, 0.5)
    assert level == compute_confidence_threshold(model, BATCHES, 0.5)
    found = collect_hard_examples(model, batches, level)
    np.testing.assert_array_equal(found["inputs"], mined()[1]["inputs"])


def test_no_hard_token_says_what_to_change():
    with pytest.raises(ValueError, match="`threshold` must be above 0.*"):
        collect_hard_examples(small(), BATCHES, 0.0)
    with pytest.raises(ValueError, match="threshold"):
        collect_hard_examples(small(), BATCHES, 1.5)
    with pytest.raises(ValueError, match="target_ratio"):
        compute_confidence_threshold(small(), BATCHES, -0.1)
    with pytest.raises(ValueError, match="batches"):
        compute_confidence_threshold(small(), [], 0.5)


# The loader


def test_loader_is_a_function_of_seed_and_epoch():
    found = mined()[1]
    first, second = (create_hard_example_loader(found, 10, 3) for _ in "ab")
    other = create_hard_example_loader(found, 10, 4)
    one, two, three = (b[0][0]["states"] for b in (first, second, other))
    np.testing.assert_array_equal(one, two)
    assert (one != three).any()
    second.set_epoch(1)
    assert (one != second[0][0]["states"]).any()


def test_a_batch_holds_so_many_hard_tokens_on_average():
    found = mined()[1]
    mean = found["weights"].sum() / len(found["weights"])
    batches = create_hard_example_loader(found, 20, 0)
    assert batches.batch_size == round(20 / mean)
    assert create_hard_example_loader(found, 1, 0).batch_size == 1
    weights = [batches[i][2] for i in range(len(batches))]
    assert len({w.shape for w in weights}) == 1
    assert sum(w.sum() for w in weights) == found["weights"].sum()
    with pytest.raises(ValueError, match="batch_size"):
        create_hard_example_loader(found, 0)


# Training


def test_loss_is_the_mean_over_the_hard_tokens_in_context():
    model = small()
    level, found = mined()
    batches = create_hard_example_loader(found, int(found["weights"].sum()), 0)
    assert len(batches) == 1
    got = train_upper_layers(model, batches, keras.optimizers.SGD(0.0))
    # What the whole network says of the whole text, at the hard tokens alone.
    hard = confidences(model) < level
    expected = losses(numpy(model(TOKENS)), TARGETS)[hard].mean()
    assert got == pytest.approx(expected, rel=1e-5)
    ppl = evaluate_on_hard_examples(model, found)
    assert ppl == pytest.approx(np.exp(expected), rel=1e-5)


@pytest.mark.parametrize("head", ["tied", "separate"])
def test_whatever_is_below_stays_bit_for_bit(head):
    model = small(head=head)
    found = mined(head=head)[1]
    batches = create_hard_example_loader(found, 20, 0)
    upper = [*model.decoder_layers[1:], model.exit_norms[-1]]
    upper += [model.heads[-1]] if head == "separate" else []
    moving = {id(w) for layer in upper for w in layer.trainable_weights}
    fixed = [w for w in model.weights if id(w) not in moving]
    shallow = numpy(model.forward_train(TOKENS)["shallow_logits"])
    before, others = copies(fixed), copies(model.trainable_weights)
    flags = [w.trainable for w in model.weights]
    ppl = evaluate_on_hard_examples(model, found)
    optimizer = keras.optimizers.AdamW(3e-3, weight_decay=0.1)
    train_upper_layers(model, batches, optimizer, epochs=5)
    for weight, old in zip(fixed, before, strict=True):
        np.testing.assert_array_equal(numpy(weight.value), old, weight.path)
    for weight, old in zip(model.trainable_weights, others, strict=True):
        if id(weight) in moving:
            assert (numpy(weight.value) != old).any(), weight.path
    assert flags == [w.trainable for w in model.weights]
    np.testing.assert_array_equal(
        numpy(model.forward_train(TOKENS)["shallow_logits"]), shallow
    )
    assert evaluate_on_hard_examples(model, found) < ppl


def test_queries_and_keys_learn_in_context():
    model = small()
    batches = create_hard_example_loader(mined()[1], 20, 0)
    kernel = model.decoder_layers[-1].mixer.query_key_value.kernel
    before = np.array(numpy(kernel.value))
    train_upper_layers(model, batches, keras.optimizers.SGD(0.1))
    moved = np.abs(numpy(kernel.value) - before)
    for part in np.split(moved, 3, axis=1):
        assert (part > 0).mean() > 0.9


def test_what_is_trained_can_be_left_to_the_caller():
    model = small()
    batches = create_hard_example_loader(mined()[1], 20, 0)
    below = model.token_embedding, model.exit_norms[0], model.heads[0]
    for layer in (*below, *model.decoder_layers):
        layer.trainable = False
    before = copies(model.decoder_layers[-1].weights)
    head = np.array(numpy(model.head.bias.value))
    train_upper_layers(model, batches, keras.optimizers.SGD(0.1), freeze=False)
    after = copies(model.decoder_layers[-1].weights)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert (numpy(model.head.bias.value) != head).any()


def test_two_epochs_are_one_and_one_more_bit_for_bit():
    weights = []
    for calls in ((1, 1), (2,)):
        model = small()
        batches = create_hard_example_loader(mined()[1], 20, 0)
        optimizer = keras.optimizers.AdamW(1e-3)
        for epochs in calls:
            train_upper_layers(model, batches, optimizer, epochs=epochs)
        weights.append(copies(model.trainable_weights))
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_upper_layers_are_needed_to_train_them():
    model = small((2,))
    level, found = mined((2,))
    batches = create_hard_example_loader(found, 20, 0)
    with pytest.raises(ValueError, match="blocks"):
        train_upper_layers(model, batches, keras.optimizers.SGD(0.1))
    hard = confidences(model) < level
    expected = losses(numpy(model(TOKENS)), TARGETS)[hard].mean()
    ppl = evaluate_on_hard_examples(model, found)
    assert ppl == pytest.approx(np.exp(expected), rel=1e-5)


# Where the losses are


@pytest.mark.parametrize("head", ["tied", "separate"])
def test_losses_are_where_the_stages_are(head):
    model = small((1, 2), head=head)
    config = TrainingConfig([StageConfig((3, 3), 0.5), StageConfig((1, 2), 2)])
    each = [
        losses(numpy(logits), TARGETS).mean()
        for logits in model.forward_all_layers(TOKENS)
    ]
    expected = 2 * each[0] + 2 * each[1] + 0.5 * each[2]
    got = float(numpy(compute_loss(model, TOKENS, TARGETS, config)))
    assert got == pytest.approx(expected, rel=1e-5)
    # Who leaves is another matter.
    model.set_threshold(0.1)
    assert got == float(numpy(compute_loss(model, TOKENS, TARGETS, config)))


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_layers_above_the_last_loss_are_not_touched():
    model = small((2, 2))
    before = copies(model.weights)
    config = TrainingConfig([StageConfig((2, 2))], exit_layer=2)
    staged = StagedTraining(model, config)
    # All is trainable, and nothing decays: what moves has a gradient.
    staged.compile(keras.optimizers.Adam(1e-2))
    inputs = {"tokens": TOKENS, "targets": TARGETS}
    loss = staged.fit(inputs, TARGETS, epochs=8, verbose=0).history["loss"]
    assert loss[-1] < 0.9 * loss[0]
    above = {id(w) for x in model.decoder_layers[2:] for w in x.weights}
    above |= {id(w) for w in model.head.weights + model.exit_norms[-1].weights}
    for weight, old in zip(model.weights, before, strict=True):
        changed = (numpy(weight.value) != old).any()
        if id(weight) in above:
            assert not changed, weight.path
        elif weight.trainable:
            assert changed, weight.path


def test_sample_weights_weigh_the_losses_of_the_stages():
    model = small()
    weight = RANDOM.uniform(0, 2, TOKENS.shape).astype("float32")
    nowhere = TrainingConfig([StageConfig((3, 3))], 0.5, exit_layer=2)
    with pytest.raises(ValueError, match=r"one of the model's exits, \(1,\)"):
        StagedTraining(model, nowhere)
    staged = StagedTraining(model, create_deep_supervision_config(3))
    inputs = {"tokens": TOKENS, "targets": TARGETS, "sample_weight": weight}
    nll = numpy(staged(inputs))
    got = sum(float(numpy(loss)) for loss in staged.losses)
    last = losses(numpy(model(TOKENS)), TARGETS)
    np.testing.assert_allclose(nll, last, atol=1e-5)
    expected = np.mean(
        [
            (weight * losses(numpy(logits), TARGETS)).mean()
            for logits in model.forward_all_layers(TOKENS)
        ]
    )
    assert got == pytest.approx(expected, rel=1e-5)


# Configurations


def test_configurations_say_what_they_are():
    assert create_standard_config(2).describe() == "Stages: [L2-2:1.00]"
    config = create_deep_supervision_config(3)
    assert config.layer_weights(3) == [1 / 3] * 3
    assert not config.has_routing
    routed = TrainingConfig([StageConfig((1, 2), 0.5)], 0.0, exit_layer=2)
    assert routed.has_routing
    assert routed.layer_weights(3) == [0.5, 0.5, 0.0]
    assert routed.describe().endswith(", Early Exit: threshold=0.0")


@pytest.mark.parametrize(
    "name, make",
    [
        ("stages", lambda: TrainingConfig([])),
        (
            "overlap",
            lambda: TrainingConfig([StageConfig((1, 3)), StageConfig((3, 4))]),
        ),
        ("empty", lambda: StageConfig((3, 2))),
        ("layers", lambda: StageConfig((0, 2))),
        ("layers", lambda: StageConfig(2)),
        ("loss_weight", lambda: StageConfig((1, 2), 0.0)),
        (
            "routing_threshold",
            lambda: TrainingConfig([StageConfig((1, 1))], 1.5),
        ),
        ("exit_layer", lambda: TrainingConfig([StageConfig((1, 1))], 0.5, 0)),
        (
            "exit_layer",
            lambda: TrainingConfig([StageConfig((1, 1))], 0.5, 4).layer_weights(
                3
            ),
        ),
        ("stages", lambda: create_standard_config(4).layer_weights(3)),
        ("phase2_layers", lambda: ASHEMConfig(phase2_layers=2)),
        ("phase1_layers", lambda: ASHEMConfig(phase1_layers=0)),
        ("phase1_lr", lambda: ASHEMConfig(phase1_lr=0)),
        ("hard_example_ratio", lambda: ASHEMConfig(hard_example_ratio=1.0)),
        ("num_layers", lambda: create_deep_supervision_config(0)),
    ],
)
def test_bad_configurations_are_named(name, make):
    with pytest.raises(ValueError, match=name):
        make()
