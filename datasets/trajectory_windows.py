"""Windows of trajectories for a loss over several steps."""

import numpy as np

from .._checks import check_integer, check_real
from .epoch_order import EpochOrder
from .time_grid import UNEVEN, off_grid, time_step


class TrajectoryWindows(EpochOrder):
    """Cuts trajectories into windows: a state, and the steps that follow it.

    The order of an epoch is that of `EpochOrder`: hand the data set to a
    `TrainingState`, or call `set_epoch`, and always call
    `fit(..., shuffle=False)`. What fills up the last batch has a
    `sample_weight` of 0.

    Args:
        data: dict of arrays `q`, `p` `(trajectories, points, n)`, perhaps `u`
            `(trajectories, points, m)`, `length` `(trajectories,)` and `t`
            `(trajectories, points)`, as `simulate` and `read_trajectories`
            give them. The step of `t` must be that of the model that learns
            from them: give `step_size`.
        num_steps: int, S >= 1, steps that follow the first state. Defaults to
            `10`.
        stride: int >= 1, points between the beginnings of two windows of a
            trajectory. Defaults to `1`.
        batch_size: int, windows per batch. Defaults to `32`.
        shuffle: bool, whether to permute the windows; `False` to evaluate.
            Defaults to `True`.
        seed: int >= 0, first half of the order's key. Defaults to `0`.
        epoch: int >= 0, the first epoch. Defaults to `0`.
        step_size: float, that of the model that learns from the windows, which
            `t` must have too (2 %); `None` to leave it unchecked. Defaults to
            `None`.

    Returns:
        Item `i` is `(inputs, states, sample_weight)` in float32: a dict with
        `"q"`, `"p"` `(batch_size, n)` and, with a control, `"controls"`
        `(batch_size, S, m)`; the states `(batch_size, S + 1, 2 n)`, q beside
        p, the first among them; and weights `(batch_size, S + 1)`.

    Raises:
        ValueError: if the shapes do not fit, a point is not finite, the times
            are not equally far apart or not by `step_size`, no trajectory has
            S + 1 points, or an integer is too small.

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
        step_size=None,
    ):
        for name, value in (("num_steps", num_steps), ("stride", stride)):
            check_integer(name, value, 1)
        lengths = check_trajectories(data)
        if step_size is not None:
            _check_step_size(step_size, data)
        self.states = np.concatenate([data["q"], data["p"]], axis=-1)
        self.controls = data.get("u")
        if self.controls is not None:
            self.controls = np.asarray(self.controls)
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
        ValueError: if the shapes do not fit, a point is not finite, or the
            times are not equally far apart.
    """
    for name in "qp":
        if name not in data:
            raise ValueError(
                f"`data` must hold the arrays q and p. Received: {list(data)}"
            )
    q, p = np.asarray(data["q"]), np.asarray(data["p"])
    if q.ndim != 3 or q.shape != p.shape or 0 in q.shape:
        raise ValueError(
            "`data` must hold q and p of one shape (trajectories, points, n). "
            f"Received: {q.shape} and {p.shape}"
        )
    lengths = np.asarray(data.get("length", np.full(len(q), q.shape[1])))
    if (
        lengths.shape != (len(q),)
        or not ((lengths > 0) & (lengths <= q.shape[1])).all()
    ):
        raise ValueError(
            f"`data` must hold a length from 1 to {q.shape[1]} for each of the "
            f"{len(q)} trajectories. Received: {lengths}"
        )
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
    if "t" in data and q.shape[1] > 1:
        _check_times(np.asarray(data["t"]), lengths, q.shape[:2])
    return lengths


def _check_step_size(step_size, data):
    check_real("step_size", step_size, "above 0", lambda size: size > 0)
    step = time_step(data) if "t" in data else step_size
    if abs(step - step_size) > UNEVEN * step_size:
        raise ValueError(
            f"`step_size` must be the step of the data, {step:g}. "
            f"Received: step_size={step_size!r}"
        )


def _check_times(t, lengths, shape):
    if t.shape != shape:
        raise ValueError(
            f"`data` must hold t of the shape {shape}. Received: {t.shape}"
        )
    step = time_step({"t": t, "length": lengths})
    for index, length in enumerate(lengths):
        wrong = off_grid(t[index, :length], step) if length > 1 else ""
        if wrong:
            raise ValueError(
                "`data` must hold rising times at equal steps, "
                f"{step:g} on average. Received: {wrong}, in trajectory {index}"
            )
