"""Interpolated Kneser-Ney n-grams: the control without a network."""

import operator

import numpy as np

from ..datasets.vocabulary import check_ids

# Where a text is too small to estimate them; the values of KenLM.
_FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


class KneserNey:
    """A modified interpolated Kneser-Ney model of a stream of ids.

    With `h'` the history `h` without its first word, the probability of `w` is

        p(w | h) = (c(h w) - D) / c(h) + gamma(h) p(w | h')

    where `D` is one of three discounts, for a count of 1, 2 or more, estimated
    from the counts of counts, and `gamma(h)` hands the discounted mass to the
    lower order. `c` counts occurrences in the longest n-gram that is in sight
    and, below it, the distinct words that come before `h w`. The unigrams are
    interpolated with the uniform distribution over the vocabulary.

    The model is scored exactly as a language model is: a target sees the words
    to its left in its own block and nothing else.

    Args:
        ids: integer array `(n,)`, the training stream.
        vocabulary_size: int, number of words; every id lies below it.
        order: int >= 1, words in the longest n-gram. Defaults to `5`.

    Raises:
        TypeError: if `ids` are not integers.
        ValueError: if `order` is below 1, `ids` is not one stream of more than
            `order` tokens, or an id is out of range.

    Example:
    >>> model = KneserNey(np.tile([2, 3, 4], 50), vocabulary_size=5, order=3)
    >>> int(np.argmax(model.probabilities([2, 3])))
    4

    Reference:
        Chen and Goodman, An Empirical Study of Smoothing Techniques for
        Language Modeling, Harvard TR-10-98 (1998).
    """

    def __init__(self, ids, vocabulary_size, order=5):
        self.order = operator.index(order)
        self.vocabulary_size = size = operator.index(vocabulary_size)
        if self.order < 1:
            raise ValueError(f"`order` must be at least 1. Received: {order}")
        ids = check_ids(ids, size).astype("int64")
        if ids.ndim != 1 or len(ids) <= self.order:
            raise ValueError(
                f"`ids` must be one stream of more than {self.order} tokens. "
                f"Received: shape {ids.shape}"
            )
        # The key of an n-gram is (name of its first n - 1 words) * size + last
        # word; its name is the rank of its key, so no key outgrows int64.
        # `names[i]` is the name of the n-gram that begins at position i.
        self._occurrences, self._continuations = [], []
        names, keys, histories = ids, np.arange(size), 1
        counts = np.bincount(ids, minlength=size)
        for n in range(1, self.order + 1):
            self._occurrences.append(_Table(keys, counts, size, histories))
            if n == self.order:
                break
            longer_keys, first, longer_names, counts = np.unique(
                names[:-1] * size + ids[n:],
                return_index=True,
                return_inverse=True,
                return_counts=True,
            )
            # Each distinct longer n-gram is one distinct word before this one.
            before = np.bincount(names[first + 1], minlength=len(keys))
            self._continuations.append(_Table(keys, before, size, histories))
            names, keys, histories = longer_names, longer_keys, len(keys)

    def log_probabilities(self, x, y):
        """Natural logarithms of the probabilities of targets in blocks.

        Args:
            x: integer array `(n, length)`, the inputs.
            y: integer array `(n, length)`; `y[k, t]` is predicted from
                `x[k, : t + 1]`.

        Returns:
            float64 array `(n, length)`.

        Raises:
            ValueError: if an id is out of range, or `x` and `y` are not both
                `(n, length)`.
        """
        x = check_ids(x, self.vocabulary_size).astype("int64")
        y = check_ids(y, self.vocabulary_size).astype("int64")
        if x.ndim != 2 or x.shape != y.shape:
            raise ValueError(
                "`x` and `y` must both have the shape (n, length). Received: "
                f"{x.shape} and {y.shape}"
            )
        # The name of the n - 1 words up to each input; -1 if they are not in
        # the training stream or begin before the block. No words have name 0.
        history = np.zeros_like(x)
        lower = np.full(x.shape, 1.0 / self.vocabulary_size)
        result = np.empty(x.shape)
        for n in range(1, self.order + 1):
            occurrences = self._occurrences[n - 1]
            # The targets for which this is the longest n-gram in sight.
            end = None if n == self.order else n - 1
            longest = np.s_[:, max(n - 2, 0) : end]
            result[longest] = occurrences.interpolate(
                history[longest], y[longest], lower[longest]
            )
            if n < self.order:
                lower = self._continuations[n - 1].interpolate(
                    history, y, lower
                )
                before = np.pad(
                    history[:, :-1],
                    ((0, 0), (1, 0)),
                    constant_values=0 if n == 1 else -1,
                )
                history = occurrences.find(before, x)
        return np.log(result)

    def perplexity(self, x, y, unknown_id=1):
        """Perplexity of the targets of blocks, over tokens.

        Args:
            x: integer array `(n, length)`, the inputs.
            y: integer array `(n, length)`, the targets.
            unknown_id: int, id of `<unk>`. Defaults to `1`.

        Returns:
            Dict of floats: `"perplexity"` over all targets and
            `"perplexity_without_unknown"` over those that are not `<unk>`.
        """
        nll = -self.log_probabilities(x, y)
        return {
            "perplexity": float(np.exp(nll.mean())),
            "perplexity_without_unknown": float(
                np.exp(nll[np.asarray(y) != unknown_id].mean())
            ),
        }

    def probabilities(self, context):
        """The distribution of the word that follows a context.

        Args:
            context: non-empty sequence of ids, of which the last `order - 1`
                count.

        Returns:
            float64 array `(vocabulary_size,)` that sums to 1.
        """
        words = np.arange(self.vocabulary_size)
        context = np.asarray(context)[-max(self.order - 1, 1) :]
        x = np.tile(context, (len(words), 1))
        y = np.column_stack([x[:, 1:], words])
        return np.exp(self.log_probabilities(x, y)[:, -1])


class _Table:
    """Counts of the n-grams of one order, with their discounts.

    Args:
        keys: sorted int64 array `(m,)`, `history * size + word`.
        counts: integer array `(m,)`.
        size: int, number of words.
        histories: int, number of names of histories.
    """

    def __init__(self, keys, counts, size, histories):
        self.keys, self.counts, self.size = keys, counts, size
        self.discounts = np.array((0.0, *_discounts(counts)))
        history = keys // size
        self.totals = np.bincount(history, counts, histories)
        freed = np.bincount(
            history, self.discounts[np.minimum(counts, 3)], histories
        )
        self.gamma = freed / np.maximum(self.totals, 1)

    def find(self, history, words):
        """Names of n-grams, -1 for those that are not in the table."""
        keys = history * self.size + words
        names = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found = (history >= 0) & (self.keys[names] == keys)
        return np.where(found, names, -1)

    def interpolate(self, history, words, lower):
        """Probabilities of words; `lower` after an unknown history."""
        names = self.find(history, words)
        counts = np.where(names < 0, 0, self.counts[names])
        totals = self.totals[history]
        own = counts - self.discounts[np.minimum(counts, 3)]
        mixed = own / np.maximum(totals, 1) + self.gamma[history] * lower
        return np.where((history >= 0) & (totals > 0), mixed, lower)


def _discounts(counts):
    """Chen and Goodman's discounts for counts of 1, 2 and 3 or more."""
    n1, n2, n3, n4 = (int(np.sum(counts == count)) for count in range(1, 5))
    if min(n1, n2, n3) == 0:
        return _FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if any(not 0 < value <= i for i, value in enumerate(discounts, 1)):
        return _FALLBACK_DISCOUNTS
    return discounts
