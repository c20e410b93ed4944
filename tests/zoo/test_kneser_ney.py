import collections
import doctest

import numpy as np
import pytest
from orrery.datasets.blocks import blocks
from orrery.datasets.text import load_text
from orrery.zoo import kneser_ney
from orrery.zoo.kneser_ney import KneserNey

SIZE = 12


def stream(count=4000, size=SIZE, seed=0):
    """Words that depend on the two before them, with rare ones."""
    generator = np.random.default_rng(seed)
    table = generator.dirichlet(np.full(size - 1, 0.15), (size, size))
    ids = [1, 2]
    for _ in range(count - 2):
        step = generator.choice(size - 1, p=table[ids[-2], ids[-1]])
        ids.append(int(step) + 1)
    return np.array(ids)


class Reference:
    """The formulas of Chen and Goodman, word by word, in dictionaries."""

    def __init__(self, ids, size):
        self.ids, self.size = tuple(int(i) for i in ids), size

    def counts(self, n, occurrences):
        grams = [self.ids[i : i + n] for i in range(len(self.ids) - n + 1)]
        if occurrences:
            return collections.Counter(grams)
        longer = {self.ids[i : i + n + 1] for i in range(len(self.ids) - n)}
        return collections.Counter(gram[1:] for gram in longer)

    def probability(self, word, history, occurrences=True):
        counts = self.counts(len(history) + 1, occurrences)
        n = collections.Counter(counts.values())
        discounts = [0, 0.5, 1.0, 1.5]
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            estimates = [i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3)]
            if all(0 < d <= i for i, d in enumerate(estimates, 1)):
                discounts = [0, *estimates]
        after = [c for gram, c in counts.items() if gram[:-1] == history]
        lower = 1 / self.size
        if history:
            lower = self.probability(word, history[1:], occurrences=False)
        if not after:
            return lower
        own = counts[history + (word,)]
        gamma = sum(discounts[min(c, 3)] for c in after) / sum(after)
        return (own - discounts[min(own, 3)]) / sum(after) + gamma * lower


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_against_the_formulas(order):
    ids = stream(600)
    reference = Reference(ids, SIZE)
    model = KneserNey(ids, SIZE, order)
    x, y = blocks(np.random.default_rng(1).integers(0, SIZE, 3 * 8), 7)
    measured = np.exp(model.log_probabilities(x, y))
    for row, t in np.ndindex(x.shape):
        history = tuple(x[row, : t + 1].tolist())
        history = history[max(len(history) - order + 1, 0) :]
        history = history if order > 1 else ()
        assert measured[row, t] == pytest.approx(
            reference.probability(int(y[row, t]), history), rel=1e-12
        )


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize(
    "context", [[3], [1, 2], [0, 0, 0], [4, 3, 2, 1, 5, 6]]
)
def test_probabilities_sum_to_one(order, context):
    probabilities = KneserNey(stream(), SIZE, order).probabilities(context)
    assert probabilities.shape == (SIZE,)
    assert probabilities.min() > 0
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)


def test_a_target_sees_nothing_but_the_left_of_its_block():
    model = KneserNey(stream(), SIZE)
    x, y = blocks(stream(200, seed=3), 19)
    before = model.log_probabilities(x, y)
    changed = x.copy()
    changed[0] = 1  # Another block.
    changed[1:, 10:] = 1  # Later words.
    after = model.log_probabilities(changed, y)
    np.testing.assert_array_equal(after[1:, :10], before[1:, :10])
    np.testing.assert_array_equal(
        model.log_probabilities(x[4:5, :6], y[4:5, :6]), before[4:5, :6]
    )


def test_a_longer_history_helps_where_it_matters():
    train, x_y = stream(20_000), blocks(stream(4000, seed=0)[2000:], 128)
    perplexities = [
        KneserNey(train, SIZE, order).perplexity(*x_y)["perplexity"]
        for order in (1, 2, 3)
    ]
    assert perplexities[0] > perplexities[1] > perplexities[2]


def test_perplexity_with_and_without_unknown_words():
    model = KneserNey(stream(), SIZE)
    x, y = blocks(stream(500, seed=0), 49)
    nll = -model.log_probabilities(x, y)
    measured = model.perplexity(x, y, unknown_id=3)
    assert measured["perplexity"] == pytest.approx(np.exp(nll.mean()))
    assert measured["perplexity_without_unknown"] == pytest.approx(
        np.exp(nll[y != 3].mean())
    )


def test_keys_of_long_n_grams_do_not_overflow():
    ids = np.random.default_rng(0).integers(0, 2**20, 50_000)
    model = KneserNey(ids, 2**20, order=5)
    x, y = blocks(ids, 128)
    assert np.exp(model.log_probabilities(x, y)[:, 4:]).min() > 0.01


def test_bad_arguments():
    with pytest.raises(ValueError, match="`order` must be at least 1"):
        KneserNey(stream(), SIZE, order=0)
    with pytest.raises(ValueError, match="more than 5 tokens"):
        KneserNey([1, 2, 3], SIZE)
    with pytest.raises(ValueError, match="between 0 and 5"):
        KneserNey(stream(), 6)
    model = KneserNey(stream(), SIZE)
    with pytest.raises(ValueError, match="between 0 and 11"):
        model.log_probabilities([[12]], [[1]])
    with pytest.raises(ValueError, match=r"\(1, 1\) and \(1, 2\)"):
        model.log_probabilities([[1]], [[1, 2]])


def test_example():
    result = doctest.testmod(kneser_ney)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.slow
def test_wikitext2(data_dir):
    data = load_text("wikitext2", data_dir=data_dir)
    model = KneserNey(data.splits["train"], len(data.vocabulary))
    x, y = data.blocks("valid")
    measured = model.perplexity(x, y)
    assert measured["perplexity"] == pytest.approx(239.6, abs=1.5)
    assert measured["perplexity_without_unknown"] == pytest.approx(
        275.8, abs=1.5
    )
    for context in (x[0, :4], x[7, :9], x[3, :1], [1, 1, 1, 1]):
        total = model.probabilities(context).sum()
        assert total == pytest.approx(1, abs=1e-10)
