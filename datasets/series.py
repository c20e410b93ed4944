"""Measured processes in episodes: what is seen, what is set, what disturbs."""

import dataclasses

import numpy as np

from .._checks import check_integer


@dataclasses.dataclass(frozen=True)
class Episode:
    """A stretch of time without gaps, rows equally far apart.

    Args:
        values: float array `(n + 1, X)`, what is observed.
        controls: float array `(n, m)`; row t acts from t to t + 1.
        disturbances: float array `(n, p)`, likewise.
        event: bool array `(n + 1,)`, rows of a special interest (a storm), or
            `None`.
    """

    values: np.ndarray
    controls: np.ndarray
    disturbances: np.ndarray
    event: np.ndarray = None

    def __len__(self):
        return len(self.values)


@dataclasses.dataclass(frozen=True)
class SeriesData:
    """Episodes of one process, in splits that share none of them.

    Args:
        name: string.
        observed, controls, disturbances: tuples of names, X, m and p of them.
        step: float, hours between two rows.
        splits: dict from a split's name to its list of `Episode`; there must be
            `"train"`.
        metadata: JSON-plain dict, where the data come from.

    Example:
    >>> rows = np.arange(12.0)[:, None]
    >>> episode = Episode(rows, rows[1:], np.zeros((11, 0)))
    >>> splits = {"train": [episode]}
    >>> data = SeriesData("ramp", ("x",), ("u",), (), 1.0, splits)
    >>> windows = data.windows("train", history=3, horizon=2)
    >>> windows["past"].shape, windows["controls"].shape
    ((8, 3, 1), (8, 4, 1))
    """

    name: str
    observed: tuple
    controls: tuple
    disturbances: tuple
    step: float
    splits: dict
    metadata: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.splits.get("train"):
            raise ValueError(
                f"`splits` must have episodes to train on. Received: "
                f"{ {name: len(part) for name, part in self.splits.items()} }"
            )
        widths = len(self.observed), len(self.controls), len(self.disturbances)
        for split, episodes in self.splits.items():
            for number, episode in enumerate(episodes):
                _check(
                    f"{self.name}, {split} episode {number}", episode, widths
                )

    def scales(self):
        """Mean and standard deviation of the training episodes.

        Returns:
            A dict from `"observed"`, `"controls"` and `"disturbances"` to a
            pair of arrays; what does not vary has the standard deviation 1.
        """
        scales = {}
        for name, rows in self._training_rows().items():
            deviation = rows.std(axis=0)
            still = deviation < 1e-6 * np.maximum(1.0, np.abs(rows).max(axis=0))
            scales[name] = rows.mean(axis=0), np.where(still, 1.0, deviation)
        return scales

    def ranges(self):
        """Smallest and largest values of the training episodes, as `scales`."""
        return {
            name: (rows.min(axis=0), rows.max(axis=0))
            for name, rows in self._training_rows().items()
        }

    def _training_rows(self):
        parts = "values", "controls", "disturbances"
        return {
            name: np.concatenate([getattr(e, p) for e in self.splits["train"]])
            for name, p in zip(
                ("observed", "controls", "disturbances"), parts, strict=True
            )
        }

    def log(self, split):
        """Rows of each episode as a plant would log them.

        Args:
            split: name of a split.

        Returns:
            A list of float arrays `(n, X + m + p)`: what was observed, what was
            set and what disturbed from then on.
        """
        return [
            np.concatenate([e.values[:-1], e.controls, e.disturbances], axis=1)
            for e in self.splits[split]
        ]

    def varying(self):
        """Which of the observed vary, bool `(X,)`; scores skip the rest."""
        rows = self._training_rows()["observed"]
        return rows.std(axis=0) >= 1e-6 * np.maximum(1.0, np.abs(rows).max(0))

    def starts(self, split, history, horizon, stride=1):
        """Of each window: its episode, and its first row; int `(N, 2)`.

        Raises:
            ValueError: if no episode is long enough, or a number is below 1.
        """
        for name, value in (
            ("history", history),
            ("horizon", horizon),
            ("stride", stride),
        ):
            check_integer(name, value, 1)
        if split not in self.splits:
            raise ValueError(
                f"`split` must be one of {sorted(self.splits)}. Received: "
                f"split={split!r}"
            )
        starts = [
            (number, first)
            for number, episode in enumerate(self.splits[split])
            for first in range(0, len(episode) - history - horizon + 1, stride)
        ]
        if not starts:
            longest = max(map(len, self.splits[split]), default=0)
            raise ValueError(
                f"`history` + `horizon` must be at most {longest}, the rows of "
                f"the longest episode of {split!r}. Received: {history} + "
                f"{horizon}"
            )
        return np.array(starts)

    def windows(self, split, history, horizon, stride=1):
        """All windows of a split, each within one episode.

        Returns:
            A dict of arrays: `past` `(N, history, X)`, `future` `(N, horizon,
            X)`, `controls` `(N, history + horizon - 1, m)`, `disturbances`
            likewise with p, float32; `episode` `(N,)`; and `event` `(N,)`,
            whether a row of the future is one.
        """
        starts = self.starts(split, history, horizon, stride)
        return self.take(split, starts, history, horizon)

    def take(self, split, starts, history, horizon):
        """The windows at these starts; see `windows`."""
        episodes = self.splits[split]
        rows = starts[:, 1:] + np.arange(history + horizon)

        def gather(part, rows):
            width = getattr(episodes[0], part).shape[1]
            out = np.empty((*rows.shape, width), "float32")
            for number in np.unique(starts[:, 0]):
                mine = starts[:, 0] == number
                out[mine] = getattr(episodes[number], part)[rows[mine]]
            return out

        values = gather("values", rows)
        event = np.zeros(len(starts), bool)
        for number in np.unique(starts[:, 0]):
            mine = starts[:, 0] == number
            if episodes[number].event is not None:
                ahead = episodes[number].event[rows[mine, history:]]
                event[mine] = ahead.any(axis=1)
        return {
            "past": values[:, :history],
            "future": values[:, history:],
            "controls": gather("controls", rows[:, :-1]),
            "disturbances": gather("disturbances", rows[:, :-1]),
            "episode": starts[:, 0],
            "event": event,
        }


def _check(what, episode, widths):
    steps = len(episode) - 1
    arrays = episode.values, episode.controls, episode.disturbances
    names = "values", "controls", "disturbances"
    for name, array, rows, width in zip(
        names, arrays, (steps + 1, steps, steps), widths, strict=True
    ):
        if array.shape != (rows, width):
            raise ValueError(
                f"{what}: `{name}` must be of shape {(rows, width)}. Received: "
                f"{array.shape}"
            )
        wrong = np.argwhere(~np.isfinite(array))
        if len(wrong):
            row, column = map(int, wrong[0])
            raise ValueError(
                f"{what}: `{name}` must be finite. Received: "
                f"{array[row, column]} in row {row}, column {column}"
            )
    if episode.event is not None and episode.event.shape != (steps + 1,):
        raise ValueError(
            f"{what}: `event` must be of shape {(steps + 1,)}. Received: "
            f"{episode.event.shape}"
        )
