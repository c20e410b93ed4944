"""Windows of a measured process for training forecasts."""

from .epoch_order import EpochOrder
from .series import SeriesData


class ForecastWindows(EpochOrder):
    """Batches of windows: a past, what acts on it and behind it, the future.

    The order of an epoch is that of `EpochOrder`: hand the data set to a
    `TrainingState`, or call `set_epoch`, and always call
    `fit(..., shuffle=False)`. In training the last batch is filled up with
    windows that come twice; to evaluate (`shuffle=False`) it is smaller.

    Args:
        data: a `SeriesData`.
        split: name of a split. Defaults to `"train"`.
        history: int > 0, rows of the past. Defaults to `20`.
        horizon: int > 0, rows of the future. Defaults to `20`.
        stride: int > 0, rows between the beginnings of two windows. Defaults
            to `1`.
        batch_size: int > 0, windows per batch. Defaults to `256`.
        shuffle: bool, whether to permute the windows. Defaults to `True`.
        seed: int >= 0, first half of the order's key. Defaults to `0`.
        parts: int > 0, epochs that make up a pass. Defaults to `1`.

    Returns:
        Item `i` is a dict of float32 arrays: `past` `(batch, history, X)`,
        `future` `(batch, horizon, X)`, and, where the process has them,
        `controls` `(batch, history + horizon - 1, m)` and `disturbances`
        likewise.

    Raises:
        ValueError: if an argument is out of its range, or no episode of the
            split is long enough.

    Example:
    >>> from orrery.datasets import Episode, SeriesData
    >>> rows = np.arange(12.0)[:, None]
    >>> episode = Episode(rows, rows[1:], np.zeros((11, 0)))
    >>> splits = {"train": [episode]}
    >>> data = SeriesData("ramp", ("x",), ("u",), (), 1.0, splits)
    >>> windows = ForecastWindows(data, history=3, horizon=2, batch_size=4)
    >>> len(windows), sorted(windows[0])
    (2, ['controls', 'future', 'past'])
    """

    def __init__(
        self,
        data,
        split="train",
        history=20,
        horizon=20,
        stride=1,
        batch_size=256,
        shuffle=True,
        seed=0,
        parts=1,
    ):
        if not isinstance(data, SeriesData):
            raise ValueError(
                f"`data` must be a SeriesData. Received: {type(data)}"
            )
        self.data, self.split = data, split
        self.history, self.horizon = history, horizon
        self.starts = data.starts(split, history, horizon, stride)
        super().__init__(
            len(self.starts), batch_size, shuffle, seed, parts=parts
        )

    def __getitem__(self, index):
        rows, genuine = self.rows(index)
        if not self.shuffle:
            rows = rows[:genuine]
        windows = self.data.take(
            self.split, self.starts[rows], self.history, self.horizon
        )
        return {
            name: windows[name]
            for name in ("past", "future", "controls", "disturbances")
            if windows[name].shape[-1]
        }
