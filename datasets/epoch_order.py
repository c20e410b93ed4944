"""An order of the examples that is a function of (seed, epoch) alone."""

import operator

import keras
import numpy as np


class EpochOrder(keras.utils.PyDataset):
    """The base of data sets that give the same batches after a resume.

    Epoch `e` visits the examples in the order
    `np.random.default_rng([seed, e]).permutation(n)`. Nothing is carried from
    one epoch to the next, so that a resumed run sees the batches that the
    uninterrupted run would have seen. Every batch has the same size: the last
    one is filled with examples from the start of the epoch's order, which a
    subclass gives a weight of 0.

    The epoch advances after every complete pass. To be right whatever else
    happens (`initial_epoch`, an interrupted epoch, an `evaluate` between two
    epochs), hand it to a `TrainingState`, or call `set_epoch`. Always call
    `fit(..., shuffle=False)`: left at its default, Keras permutes the batches
    by the global state of Python's `random`, which no resumed run can repeat.
    An epoch that does not begin with batch 0 is therefore an error.

    A pass over the examples that takes hours may be divided into `parts`, so
    that what happens at the end of an epoch happens more often: epoch e is
    then part `e mod parts` of pass `e div parts`. All parts have as many
    batches; for the last ones some examples are drawn once more.

    Args:
        num_examples: int > 0.
        batch_size: int, examples per batch. Defaults to `32`.
        shuffle: bool, whether to permute the examples; `False` to evaluate.
            Defaults to `True`.
        seed: int >= 0, first half of the order's key. Defaults to `0`.
        epoch: int >= 0, the first epoch. Defaults to `0`.
        parts: int, epochs that make up a pass. Defaults to `1`.

    Raises:
        ValueError: if `batch_size` or `parts` is below 1, or `seed` or `epoch`
            negative.
    """

    def __init__(
        self,
        num_examples,
        batch_size=32,
        shuffle=True,
        seed=0,
        epoch=0,
        parts=1,
    ):
        super().__init__()
        self.num_examples = num_examples
        self.batch_size = _at_least(1, batch_size, "batch_size")
        self.parts = _at_least(1, parts, "parts")
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
        order = np.arange(self.num_examples)
        passes, self._part = divmod(self.epoch, self.parts)
        if self.shuffle:
            key = [self.seed, passes]
            order = np.random.default_rng(key).permutation(len(order))
        # np.resize repeats the order from its start.
        self._order = np.resize(order, self.parts * len(self) * self.batch_size)

    def __len__(self):
        batches = -(-self.num_examples // self.batch_size)
        return -(-batches // self.parts)

    def rows(self, index):
        """The examples of a batch, and how many of them are not filling.

        Args:
            index: int, number of the batch.

        Returns:
            Int array `(batch_size,)` and int.

        Raises:
            IndexError: if there is no such batch.
            ValueError: if an epoch does not begin with batch 0.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} of {len(self)} batches.")
        if self._requested is not None:
            if self.shuffle and self._requested == 0 and index > 0:
                raise ValueError(
                    f"{type(self).__name__} shuffles by itself, by (seed, "
                    "epoch): call fit(..., shuffle=False), without "
                    "`steps_per_epoch`. Received: an epoch that begins with "
                    f"batch {index}"
                )
            self._requested += 1
        start = (self._part * len(self) + index) * self.batch_size
        rows = self._order[start : start + self.batch_size]
        missing = self.num_examples - start
        return rows, min(self.batch_size, missing) if missing > 0 else len(rows)

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


def _at_least(smallest, value, name):
    value = operator.index(value)
    if value < smallest:
        raise ValueError(
            f"`{name}` must be at least {smallest}. Received: {name}={value}"
        )
    return value
