import keras
import numpy as np
import pytest
from keras import ops
from orrery.datasets.vocabulary import Vocabulary
from orrery.zoo.generation import generate
from orrery.zoo.koopman_lm import KoopmanLM

VOCABULARY_SIZE, LENGTH = 24, 10
OPERATORS = {"operator": "gradient", "delays": 2, "lift_dim": 8}
VOCABULARY = Vocabulary(
    ("<pad>", "<unk>", *(f"w{i}" for i in range(2, VOCABULARY_SIZE)))
)


def make_model(mixer="attention", replaced=(), **options):
    """A tiny model with logits that differ by more than rounding."""
    keras.utils.set_random_seed(7)
    model = KoopmanLM(
        VOCABULARY_SIZE,
        dim=16,
        num_layers=2,
        num_heads=2,
        mixer=mixer,
        koopman=OPERATORS,
        embedding_stddev=0.5,
        **options,
    )
    model.build()
    generator = np.random.default_rng(3)
    for operator in model.operators:
        # Far from the identity, so that the delays matter.
        noise = generator.normal(0, 0.1, operator.kernel.shape)
        operator.kernel.assign_add(noise.astype("float32"))
    model.set_replaced(replaced)
    return model


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("keras_hub")
    return make_model(["koopman", "attention"])


def full_logits(model, ids):
    return ops.convert_to_numpy(model(np.array(ids)[None].astype("int32")))[0]


def greedy(model, prompt, length, forbidden=(0, 1)):
    """The plain reference: the whole model again for every token."""
    ids = list(prompt)
    while len(ids) < length:
        logits = full_logits(model, ids)[-1]
        logits[list(forbidden)] = -np.inf
        ids.append(int(logits.argmax()))
    return ids


@pytest.mark.parametrize("mixer", ["attention", "koopman", "resolvent"])
@pytest.mark.parametrize("replaced", [(), (1,), (0, 1)])
def test_streaming_equals_the_full_pass(mixer, replaced):
    model = make_model(mixer, replaced)
    generator = np.random.default_rng(0)
    ids = generator.integers(0, VOCABULARY_SIZE, (3, LENGTH)).astype("int32")
    state, steps = model.initial_state(3, LENGTH), []
    for index in range(LENGTH):
        logits, state = model.step(ids[:, index : index + 1], state, index)
        steps.append(ops.convert_to_numpy(logits)[:, 0])
    expected = ops.convert_to_numpy(model(ids))
    largest = np.abs(expected).max()
    np.testing.assert_allclose(
        np.stack(steps, 1), expected, atol=1e-5 * largest
    )


@pytest.mark.parametrize("replaced", [(), (0,)])
def test_greedy_equals_the_argmax_of_the_full_pass(model, replaced):
    model.set_replaced(replaced)
    result = generate(model, [5, 7, 3], LENGTH, sampler="greedy")
    assert result.dtype == "int32"
    assert result.tolist() == greedy(model, [5, 7, 3], LENGTH)
    model.set_replaced(())


def test_a_batch_of_different_lengths_equals_single_runs(model):
    prompts = [[5], [7, 3, 9, 11], np.array([4, 4])]
    together = generate(model, prompts, LENGTH, sampler="greedy")
    for prompt, result in zip(prompts, together, strict=True):
        alone = generate(model, prompt, LENGTH, sampler="greedy")
        np.testing.assert_array_equal(result, alone)
        np.testing.assert_array_equal(result[: len(prompt)], prompt)


@pytest.mark.parametrize("sampler", ["top_k", "top_p"])
def test_the_seed_decides(model, sampler):
    def run(seed):
        options = {"sampler": sampler, "temperature": 2.0}
        rows = generate(model, [[5], [5]], 32, seed=seed, **options)
        return np.stack(rows)

    first = run(1)
    np.testing.assert_array_equal(first, run(1))
    assert (first != run(2)).any()
    assert (run(None) != run(None)).any()
    assert (first[0] != first[1]).any()
    assert (first[:, 1:] > 1).all()


def test_limits_of_one_candidate_are_greedy(model):
    expected = greedy(model, [5], LENGTH)
    for options in ({"sampler": "top_k", "top_k": 1}, {"top_p": 1e-6}):
        assert generate(model, [5], LENGTH, **options).tolist() == expected


def test_forbidden_ids_never_come(model):
    # All but two: the samplers must choose among those.
    forbidden = range(VOCABULARY_SIZE - 2)
    result = generate(model, [5], 40, forbidden=forbidden)
    assert set(result[1:]) <= {VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1}


def test_a_row_ends_with_its_first_stop_token(model):
    prompts = [[5], [7, 3]]
    whole = [greedy(model, prompt, LENGTH) for prompt in prompts]
    # A token of the prompt does not stop: only what is generated counts.
    stop = (whole[0][4], 5)
    for result, row, prompt in zip(
        generate(model, prompts, LENGTH, sampler="greedy", stop_tokens=stop),
        whole,
        prompts,
        strict=True,
    ):
        ends = [i for i in range(len(prompt), LENGTH) if row[i] in stop]
        assert result.tolist() == row[: ends[0] + 1 if ends else LENGTH]


def test_text(model):
    options = {"sampler": "greedy", "vocabulary": VOCABULARY}
    ids = generate(model, [5, 7], LENGTH, sampler="greedy")
    text = generate(model, "w5 w7", LENGTH, **options)
    assert text == VOCABULARY.decode(ids)
    assert generate(model, ["w5 w7", "w5"], LENGTH, **options)[0] == text
    last = text.split()[4]
    stopped = generate(model, "w5 w7", LENGTH, stop_tokens=[last], **options)
    assert text.startswith(stopped) and stopped.endswith(last)


def test_the_loop_is_compiled_once(model):
    generate(model, [5], LENGTH, sampler="greedy")
    traces, step = [], model.step
    model.step = lambda *args: traces.append(0) or step(*args)
    for prompt in ([7], [7, 9, 3]):
        generate(model, prompt, LENGTH, sampler="greedy")
    del model.step
    # PyTorch is eager: there, every step is a call.
    assert len(traces) == (18 if keras.backend.backend() == "torch" else 0)


def test_a_keras_hub_sampler(model):
    samplers = pytest.importorskip("keras_hub").samplers
    for sampler in (samplers.GreedySampler(), samplers.BeamSampler(1)):
        result = generate(model, [5], LENGTH, sampler=sampler)
        assert result.tolist() == greedy(model, [5], LENGTH)
    random = samplers.RandomSampler(seed=0)
    first, second = (generate(model, [5], 32, sampler=random) for _ in "ab")
    assert (first != second).any()
    with pytest.raises(ValueError, match="`seed` go with the name"):
        generate(model, [5], LENGTH, sampler=random, seed=3)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "at least one token"),
        ("", {"vocabulary": VOCABULARY}, "at least one token"),
        ([[5], []], {}, "at least one token"),
        ([5, 24], {}, "ids from 0 to 23. Received: 24"),
        ([5, -1], {}, "ids from 0 to 23. Received: -1"),
        ([[[5]]], {}, r"sequence of ids. Received: shape \(1, 1\)"),
        ("w5", {}, "needs a `vocabulary`"),
        ([5], {"vocabulary": Vocabulary(("<pad>", "<unk>"))}, "2 tokens for"),
        ([5] * 12, {}, "max_length=10, a prompt of 12"),
        ([5], {"sampler": "best"}, "`sampler` must be one of .*'best'"),
        ([5], {"temperature": 0.0}, "`temperature` must be at least 1e-06"),
        ([5], {"top_k": 25}, "`top_k` must be an integer from 1 to .*25"),
        ([5], {"top_p": 1.5}, r"`top_p` must be in \(0, 1\]"),
        ([5], {"forbidden": range(24)}, "must leave a token"),
        ([5], {"stop_tokens": [1]}, "must not be `forbidden`"),
        ([5], {"stop_tokens": ["w5"]}, "need a `vocabulary`"),
        (
            [5],
            {"stop_tokens": ["w5 w6"], "vocabulary": VOCABULARY},
            "one token each. Received: 'w5 w6', which is 2",
        ),
    ],
)
def test_bad_arguments(model, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        generate(model, prompt, LENGTH, **options)


def test_ids_must_be_integers(model):
    with pytest.raises(TypeError, match="dtype float64"):
        generate(model, [5.0], LENGTH)
