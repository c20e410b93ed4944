"""Windows of trajectories for a loss over several steps."""

import numpy as np

from .epoch_order import EpochOrder


class TrajectoryWindows(EpochOrder):
    """Cuts trajectories into windows: a state, and the steps that follow it.

    The order of an epoch is that of `EpochOrder`: hand the data set to a
    `TrainingState`, or call `set_epoch`, and always call
    `fit(..., shuffle=False)`. What fills up the last batch has a
    `sample_weight` of 0.

    Args:
        data: dict of arrays `q`, `p` `(trajectories, points, n)`, perhaps `u`
            `(trajectories, points, m)` and `length` `(trajectories,)`, as
            `simulate` and `read_trajectories` give them.
        num_steps: int, S >= 1, steps that follow the first state. Defaults to
            `10`.
        stride: int >= 1, points between the beginnings of two windows of a
            trajectory. Defaults to `1`.
        batch_size: int, windows per batch. Defaults to `32`.
        shuffle: bool, whether to permute the windows; `False` to evaluate.
            Defaults to `True`.
        seed: int >= 0, first half of the order's key. Defaults to `0`.
        epoch: int >= 0, the first epoch. Defaults to `0`.

    Returns:
        Item `i` is `(inputs, states, sample_weight)` in float32: a dict with
        `"q"`, `"p"` `(batch_size, n)` and, with a control, `"controls"`
        `(batch_size, S, m)`; the states `(batch_size, S + 1, 2 n)`, q beside
        p, the first among them; and weights `(batch_size, S + 1)`.

    Raises:
        ValueError: if the shapes do not fit, a point is not finite, no
            trajectory has S + 1 points, or an integer is too small.

    Example:
    >>> from orrery.datasets import pendulum
    >>> windows = TrajectoryWindows(pendulum(3, 12), num_steps=5, batch_size=4)
    >>> len(windows)  # 3 trajectories with 7 windows each
    6
    >>> inputs, states, sample_weight = windows[0]
    >>> inputs["q"].shape, states.shape
    ((4, 1), (4, 6, 2))
    """

    def __init__(
        self,
        data,
        num_steps=10,
        stride=1,
        batch_size=32,
        shuffle=True,
        seed=0,
        epoch=0,
    ):
        for name, value in (("num_steps", num_steps), ("stride", stride)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive integer. "
                    f"Received: {name}={value!r}"
                )
        lengths = check_trajectories(data)
        self.states = np.concatenate([data["q"], data["p"]], axis=-1)
        self.controls = data.get("u")
        self.num_steps = num_steps
        self.starts = np.array(
            [
                (trajectory, first)
                for trajectory, length in enumerate(lengths)
                for first in range(0, length - num_steps, stride)
            ]
        )
        if not len(self.starts):
            raise ValueError(
                f"`num_steps` must be below {lengths.max()}, the points of the "
                f"longest trajectory. Received: num_steps={num_steps}"
            )
        super().__init__(len(self.starts), batch_size, shuffle, seed, epoch)

    def __getitem__(self, index):
        rows, genuine = self.rows(index)
        trajectories, first = self.starts[rows].T[..., None]
        points = first + np.arange(self.num_steps + 1)
        states = self.states[trajectories, points].astype("float32")
        q, p = np.split(states[:, 0], 2, axis=-1)
        inputs = {"q": q, "p": p}
        if self.controls is not None:
            controls = self.controls[trajectories, points[:, :-1]]
            inputs["controls"] = controls.astype("float32")
        weight = np.zeros(states.shape[:2], "float32")
        weight[:genuine] = 1.0
        return inputs, states, weight


def check_trajectories(data):
    """The number of points of each trajectory.

    Args:
        data: dict of arrays as for `TrajectoryWindows`.

    Returns:
        Int array `(trajectories,)`.

    Raises:
        ValueError: if the shapes do not fit or a point is not finite.
    """
    q, p = np.asarray(data["q"]), np.asarray(data["p"])
    if q.ndim != 3 or q.shape != p.shape or 0 in q.shape:
        raise ValueError(
            "`data` must hold q and p of one shape (trajectories, points, n). "
            f"Received: {q.shape} and {p.shape}"
        )
    lengths = np.asarray(data.get("length", np.full(len(q), q.shape[1])))
    names = [name for name in "qpu" if name in data]
    for name in names:
        array = np.asarray(data[name])
        if array.shape[:2] != q.shape[:2]:
            raise ValueError(
                f"`data` must hold {name} of the shape {q.shape[:2]} and its "
                f"width. Received: {array.shape}"
            )
        inside = np.arange(q.shape[1]) < lengths[:, None]
        wrong = ~np.isfinite(array).all(axis=-1) & inside
        if wrong.any():
            trajectory, point = np.argwhere(wrong)[0]
            raise ValueError(
                f"`data` must be finite. Received: {name} of trajectory "
                f"{trajectory} is {array[trajectory, point]} at point {point}"
            )
    return lengths
