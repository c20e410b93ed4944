"""Batches of blocks in an order that is a function of (seed, epoch) alone."""

import operator

import keras
import numpy as np

from .vocabulary import check_ids


class LanguageBatches(keras.utils.PyDataset):
    """Feeds blocks of text to `fit` and `evaluate` of a language model.

    Epoch `e` visits the examples in the order
    `np.random.default_rng([seed, e]).permutation(n)`. Nothing is carried from
    one epoch to the next, so that a resumed run sees the batches that the
    uninterrupted run would have seen. Every batch has the same shape: the last
    one is filled with examples from the start of the epoch's order whose
    `sample_weight` is 0.

    The epoch advances after every complete pass. To be right whatever else
    happens (`initial_epoch`, an interrupted epoch, an `evaluate` between two
    epochs), hand it to a `TrainingState`, or call `set_epoch`. Always call
    `fit(..., shuffle=False)`: left at its default, Keras permutes the batches
    by the global state of Python's `random`, which no resumed run can repeat.
    An epoch that does not begin with batch 0 is therefore an error.

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

    Returns:
        Item `i` is `(inputs, y, sample_weight)` where `inputs` is the dict
        `{"tokens": x, "targets": y, "sample_weight": sample_weight}`; tokens
        and targets are int32, weights float32, all `(batch_size, length)`.

    Raises:
        TypeError: if `x` or `y` are not integers.
        ValueError: if `x` and `y` are not both `(n, length)` with `n > 0`,
            `y[:, :-1] != x[:, 1:]`, an id is out of range, `batch_size` is
            below 1, or `seed` or `epoch` is negative.

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
    ):
        super().__init__()
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
        self.batch_size = _at_least(1, batch_size, "batch_size")
        self.shuffle = bool(shuffle)
        self.seed = _at_least(0, seed, "seed")
        self._requested = None
        self.set_epoch(epoch)

    def set_epoch(self, epoch):
        """Takes the order of an epoch, whatever was visited before.

        Args:
            epoch: int >= 0, number of the epoch.
        """
        self.epoch = _at_least(0, epoch, "epoch")
        order = np.arange(len(self.x))
        if self.shuffle:
            key = [self.seed, self.epoch]
            order = np.random.default_rng(key).permutation(len(order))
        # np.resize repeats the order from its start.
        self._order = np.resize(order, len(self) * self.batch_size)

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} of {len(self)} batches.")
        if self._requested is not None:
            if self.shuffle and self._requested == 0 and index > 0:
                raise ValueError(
                    "LanguageBatches shuffles by itself, by (seed, epoch): "
                    "call fit(..., shuffle=False), without `steps_per_epoch`. "
                    f"Received: an epoch that begins with batch {index}"
                )
            self._requested += 1
        start = index * self.batch_size
        rows = self._order[start : start + self.batch_size]
        tokens, targets = self.x[rows], self.y[rows]
        weight = np.zeros(tokens.shape, "float32")
        weight[: len(self.x) - start] = 1.0
        inputs = {"tokens": tokens, "targets": targets, "sample_weight": weight}
        return inputs, targets, weight

    def on_epoch_begin(self):
        """Keras calls this before it asks for the batches of an epoch."""
        self._requested = 0

    def on_epoch_end(self):
        """Advances the epoch after a complete pass.

        Keras also calls this before the first epoch and after it has drawn one
        batch to build a model: neither is a pass.
        """
        if self._requested is not None and self._requested >= len(self):
            self.set_epoch(self.epoch + 1)
        self._requested = None


def _int32(array, name):
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"`{name}` must hold integers. Received: dtype={array.dtype}"
        )
    return array.astype("int32", copy=False)


def _at_least(smallest, value, name):
    value = operator.index(value)
    if value < smallest:
        raise ValueError(
            f"`{name}` must be at least {smallest}. Received: {name}={value}"
        )
    return value
