"""Batches of series that are to be imitated."""

from .epoch_order import EpochOrder


class SeriesBatches(EpochOrder):
    """Series in an order that a resumed run repeats; see `EpochOrder`.

    Args:
        series: float array `(N, length, features)`.
        batch_size: int > 0. Defaults to `64`.
        seed: int >= 0, first half of the order's key. Defaults to `0`.

    Returns:
        Item `i` is a float32 array `(batch_size, length, features)`; the last
        one is filled up with series that come twice.

    Example:
    >>> from orrery.datasets import sines
    >>> batches = SeriesBatches(sines(10), batch_size=4)
    >>> len(batches), batches[0].shape
    (3, (4, 24, 5))
    """

    def __init__(self, series, batch_size=64, seed=0):
        self.series = series
        super().__init__(len(series), batch_size, True, seed)

    def __getitem__(self, index):
        return self.series[self.rows(index)[0]].astype("float32")
