"""Drafts change the time a text takes, and not the text."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.zoo import EarlyExitLM
from orrery.zoo.generation import generate
from orrery.zoo.self_speculation import _Speculation, speculate

RANDOM = np.random.default_rng(0)
PROMPTS = RANDOM.integers(2, 31, (3, 4)).astype("int32")


def small(size=31, blocks=(1, 2), **kwargs):
    keras.utils.set_random_seed(1)
    model = EarlyExitLM(
        size,
        dim=16,
        blocks=blocks,
        num_heads=2,
        hidden_dim=24,
        confidence="max_prob",
        embedding_stddev=0.5,
        **kwargs,
    )
    model.build()
    return model


@pytest.mark.parametrize("draft_length", [1, 2, 3, 4, 5, 6])
def test_greedy_text_is_that_of_the_whole_network(draft_length):
    model = small(blocks=(1, 1, 1))
    expected = generate(model, PROMPTS[0], 20, sampler="greedy")
    text, stats = speculate(
        model, PROMPTS[0], 20, draft_length, return_stats=True
    )
    np.testing.assert_array_equal(text, expected)
    assert 0 <= stats["acceptance_rate"] <= 1
    assert stats["passes"] * (draft_length + 1) >= 16
    assert stats["tokens_per_pass"] == pytest.approx(16 / stats["passes"])


def test_a_perfect_draft_is_kept_whole():
    """Deeper layers that add nothing: every draft is the last word."""
    model = small(blocks=(2, 1))
    for layer in (model.decoder_layers[2],):
        for part in (layer.mixer, layer.feedforward):
            kernel = part.output_projection.kernel
            kernel.assign(np.zeros(kernel.shape))
    expected = generate(model, PROMPTS[0], 19, sampler="greedy")
    text, stats = speculate(model, PROMPTS[0], 19, 4, return_stats=True)
    np.testing.assert_array_equal(text, expected)
    assert stats == {
        "acceptance_rate": 1.0,
        "tokens_per_pass": 5.0,
        "passes": 3,
    }


def test_rows_advance_together():
    model = small()
    expected = generate(model, PROMPTS, 15, sampler="greedy")
    text = speculate(model, PROMPTS, 15)
    np.testing.assert_array_equal(np.stack(text), np.stack(expected))


@pytest.mark.parametrize("rows", [1, 3])
def test_sampled_text_has_the_distribution_of_the_whole_network(rows):
    """Pearson's test of the first two tokens, all pairs, at p = 1e-4."""
    stats = pytest.importorskip("scipy.stats")
    model = small(size=5, blocks=(1, 1))
    for norm in model.exit_norms:
        norm.scale.assign(0.4 * np.ones(norm.scale.shape))
    trials, seen = 1200 // rows, np.zeros((5, 5))
    prompt = np.full((rows, 2), 3)
    for seed in range(trials):
        texts = speculate(
            model, prompt, 4, 2, temperature=2.0, seed=seed, forbidden=()
        )
        for text in texts:
            seen[text[2], text[3]] += 1

    def probability(tokens):
        z = ops.convert_to_numpy(model(np.array([tokens])))[0, -1] / 2.0
        return np.exp(z - z.max()) / np.exp(z - z.max()).sum()

    first = probability([3, 3])
    pairs = first[:, None] * np.stack(
        [probability([3, 3, a]) for a in range(5)]
    )
    expected = pairs * seen.sum()
    statistic = ((seen - expected) ** 2 / expected).sum()
    assert expected.min() > 4
    assert stats.chi2.sf(statistic, 24) > 1e-4
    # The exit alone would be told apart.
    h = model.forward_to_hidden(np.array([[3, 3]]))
    z = ops.convert_to_numpy(model.exit_logits(h))[0, -1] / 2.0
    shallow = np.exp(z) / np.exp(z).sum() * seen.sum()
    statistic = ((seen.sum(1) - shallow) ** 2 / shallow).sum()
    assert stats.chi2.sf(statistic, 4) < 1e-4


def test_same_seed_same_text():
    model = small()
    texts = [
        speculate(model, PROMPTS, 16, temperature=1.0, seed=seed)
        for seed in (5, 5, 6)
    ]
    np.testing.assert_array_equal(texts[0], texts[1])
    assert (np.stack(texts[0]) != np.stack(texts[2])).any()


def test_what_is_forbidden_is_never_drawn():
    """Not where nothing is left over either, and the smallest chance falls."""
    loop = _Speculation(small(), 1, 1.0, (0, 1))
    logits = np.full((1, 2, 31), -1e9, "float32")
    logits[..., 5:] = RANDOM.normal(size=26)
    drafts = np.full((1, 1), 7, "int32")
    same = ops.convert_to_tensor(logits)
    _, instead = loop._judge(
        ops.convert_to_tensor(drafts), same[:, :1], same, ops.zeros((1, 3))
    )
    assert ops.convert_to_numpy(instead).min() > 1


def test_bad_arguments():
    model = small()
    for options, name in (
        ({"draft_length": 0}, "draft_length"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1e-36}, "temperature"),
        ({"forbidden": range(31)}, "forbidden"),
        ({"max_length": 4}, "max_length"),
    ):
        with pytest.raises(ValueError, match=name):
            speculate(model, PROMPTS[0], **{"max_length": 9, **options})
    with pytest.raises(ValueError, match="`vocabulary`.*vocabulary_size=31"):
        speculate(model, PROMPTS[0], 9, vocabulary=range(30))
    with pytest.raises(ValueError, match="one length"):
        speculate(model, [[3, 4], [5]], 9)
    with pytest.raises(ValueError, match="blocks"):
        speculate(small(blocks=(2,)), PROMPTS[0], 9)
