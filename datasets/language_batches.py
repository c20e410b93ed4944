"""Batches of blocks in an order that is a function of (seed, epoch) alone."""

import numpy as np

from .epoch_order import EpochOrder
from .vocabulary import check_ids


class LanguageBatches(EpochOrder):
    """Feeds blocks of text to `fit` and `evaluate` of a language model.

    The order of an epoch is that of `EpochOrder`: hand the data set to a
    `TrainingState`, or call `set_epoch`, and always call
    `fit(..., shuffle=False)`. What fills up the last batch has a
    `sample_weight` of 0.

    Args:
        x: integer array `(n, length)`, the input tokens.
        y: integer array `(n, length)`, the next tokens.
        batch_size: int, examples per batch. Defaults to `32`.
        shuffle: bool, whether to permute the examples; `False` to evaluate.
            Defaults to `True`.
        seed: int >= 0, first half of the order's key. Defaults to `0`.
        epoch: int >= 0, the first epoch. Defaults to `0`.
        vocabulary_size: int, the ids allowed are `0 ... vocabulary_size - 1`.
            A model cannot complain of others: a gather takes them from the
            end of the table, or makes them NaN. Defaults to `None`, every id
            that is not negative.
        parts: int, epochs that make up a pass over the examples, see
            `EpochOrder`. Defaults to `1`.

    Returns:
        Item `i` is `(inputs, y, sample_weight)` where `inputs` is the dict
        `{"tokens": x, "targets": y, "sample_weight": sample_weight}`; tokens
        and targets are int32, weights float32, all `(batch_size, length)`.

    Raises:
        TypeError: if `x` or `y` are not integers.
        ValueError: if `x` and `y` are not both `(n, length)` with `n > 0`,
            `y[:, :-1] != x[:, 1:]`, an id is out of range, `batch_size` or
            `parts` is below 1, or `seed` or `epoch` is negative.

    Example:
    >>> x = np.arange(12).reshape(3, 4)
    >>> batches = LanguageBatches(x, x + 1, batch_size=2, shuffle=False)
    >>> len(batches)
    2
    >>> inputs, targets, sample_weight = batches[1]
    >>> inputs["tokens"].tolist()
    [[8, 9, 10, 11], [0, 1, 2, 3]]
    >>> sample_weight.tolist()
    [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        x,
        y,
        batch_size=32,
        shuffle=True,
        seed=0,
        epoch=0,
        vocabulary_size=None,
        parts=1,
    ):
        self.x = _int32(x, "x")
        self.y = _int32(y, "y")
        shape = self.x.shape
        if len(shape) != 2 or 0 in shape or shape != self.y.shape:
            raise ValueError(
                "`x` and `y` must both have the shape (n, length) with n > 0. "
                f"Received: {shape} and {self.y.shape}"
            )
        if not np.array_equal(self.y[:, :-1], self.x[:, 1:]):
            raise ValueError(
                "`y` must hold the next tokens of `x`: y[:, t] == x[:, t + 1]."
            )
        for ids in (self.x, self.y[:, -1]):
            check_ids(ids, vocabulary_size)
        super().__init__(len(self.x), batch_size, shuffle, seed, epoch, parts)

    def __getitem__(self, index):
        rows, genuine = self.rows(index)
        tokens, targets = self.x[rows], self.y[rows]
        weight = np.zeros(tokens.shape, "float32")
        weight[:genuine] = 1.0
        inputs = {"tokens": tokens, "targets": targets, "sample_weight": weight}
        return inputs, targets, weight


def _int32(array, name):
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"`{name}` must hold integers. Received: dtype={array.dtype}"
        )
    return array.astype("int32", copy=False)
