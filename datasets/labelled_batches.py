"""Batches of labelled examples, in an order of (seed, epoch) alone."""

import numpy as np

from .epoch_order import EpochOrder


class LabelledBatches(EpochOrder):
    """Feeds examples with one label each to `fit` and `evaluate`.

    The order of an epoch is that of `EpochOrder`: hand the data set to a
    `TrainingState`, or call `set_epoch`, and always call
    `fit(..., shuffle=False)`. What fills up the last batch has a
    `sample_weight` of 0.

    Args:
        x: float array `(n, width)`.
        y: integer array `(n,)`, the labels.
        batch_size: int, examples per batch. Defaults to `32`.
        shuffle: bool, whether to permute the examples; `False` to evaluate.
            Defaults to `True`.
        seed: int >= 0, first half of the order's key. Defaults to `0`.
        epoch: int >= 0, the first epoch. Defaults to `0`.

    Returns:
        Item `i` is `(x, y, sample_weight)`: float32 `(batch_size, width)`,
        int32 and float32 `(batch_size,)`.

    Raises:
        TypeError: if `y` does not hold integers.
        ValueError: if the shapes do not fit, an example is not finite, or an
            integer, or a label, is too small.

    Example:
    >>> batches = LabelledBatches(np.eye(3), np.arange(3), 2, shuffle=False)
    >>> x, y, sample_weight = batches[1]
    >>> y.tolist(), sample_weight.tolist()
    ([2, 0], [1.0, 0.0])
    """

    def __init__(self, x, y, batch_size=32, shuffle=True, seed=0, epoch=0):
        x, y = np.asarray(x), np.asarray(y)
        if x.ndim != 2 or y.shape != x.shape[:1] or not len(x):
            raise ValueError(
                "`x` and `y` must have the shapes (n, width) and (n,) with "
                f"n > 0. Received: {x.shape} and {y.shape}"
            )
        if not np.issubdtype(y.dtype, np.integer):
            raise TypeError(
                f"`y` must hold integers. Received: dtype={y.dtype}"
            )
        if y.min() < 0:
            raise ValueError(
                f"`y` must not be negative. Received: {y.min()} as example "
                f"{int(np.argmin(y))}"
            )
        if not np.isfinite(x).all():
            row = int(np.argwhere(~np.isfinite(x))[0, 0])
            raise ValueError(
                f"`x` must be finite. Received: {x[row]} as example {row}"
            )
        self.x, self.y = x.astype("float32"), y.astype("int32")
        super().__init__(len(x), batch_size, shuffle, seed, epoch)

    def __getitem__(self, index):
        rows, genuine = self.rows(index)
        weight = np.zeros(len(rows), "float32")
        weight[:genuine] = 1.0
        return self.x[rows], self.y[rows], weight
