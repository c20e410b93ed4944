"""Trajectories in a CSV file: measured ones, or what `simulate` made."""

import csv
import re

import numpy as np

from .csv_table import finite_number, read_csv_rows
from .time_grid import off_grid


def read_trajectories(path):
    """Reads trajectories, measured at equal steps of time, from a CSV file.

    The first line names the columns: `trajectory` (any label), `t`, positions
    `q0 ... q<n-1>`, momenta `p0 ... p<n-1>` and, where there is a control,
    `u0 ... u<m-1>`, held from each row to the next. Other columns are ignored.
    The rows of a trajectory stand in the order of time.

    Args:
        path: string or path of the file, UTF-8, separated by commas.

    Returns:
        A dict of float64 arrays: `q`, `p` `(trajectories, points, n)`, `t`
        `(trajectories, points)` and, where there is a control, `u`
        `(trajectories, points, m)`. A trajectory with fewer points than the
        longest is filled up with NaN; `length`, int `(trajectories,)`, says
        how many points are its own.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, an entry is not a finite number, a
            trajectory has one point only, or the steps of time are not all
            equal (within 2 %); names the file, the row and the column.

    Example:

    ```python
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_trajectories(f"{folder}/swings.csv", pendulum(3, 5))
        data = read_trajectories(f"{folder}/swings.csv")
    assert data["q"].shape == (3, 5, 1)
    ```
    """
    header, rows = read_csv_rows(path)
    columns = _columns(header, path)
    label = header.index("trajectory")
    trajectories = {}
    for number, row in rows:
        values = [
            finite_number(row[i], path, number, header[i]) for i in columns
        ]
        trajectories.setdefault(row[label].strip(), []).append(values)
    if not trajectories:
        raise ValueError(f"{path} has a header but no rows.")
    _check_time(trajectories, path)
    return _arrays(trajectories, [header[i] for i in columns])


def write_trajectories(path, data):
    """Writes trajectories as `read_trajectories` reads them.

    Args:
        path: string or path of the file.
        data: dict with the arrays `q`, `p`, `t` and perhaps `u` and `length`,
            as `simulate` and `read_trajectories` give them.

    Example:

    ```python
    import tempfile

    data = {"q": np.ones((1, 2, 1)), "p": np.zeros((1, 2, 1))}
    data["t"] = np.array([[0.0, 0.1]])
    with tempfile.TemporaryDirectory() as folder:
        write_trajectories(f"{folder}/rest.csv", data)
        with open(f"{folder}/rest.csv") as file:
            assert file.readline().strip() == "trajectory,t,q0,p0"
    ```
    """
    names = [name for name in "qpu" if name in data]
    header = ["trajectory", "t"]
    header += [
        f"{name}{i}" for name in names for i in range(_width(data[name]))
    ]
    lengths = data.get("length", np.full(len(data["q"]), data["q"].shape[1]))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for index, length in enumerate(lengths):
            for k in range(length):
                row = [data["t"][index, k]]
                row += [x for name in names for x in data[name][index, k]]
                writer.writerow([index, *(repr(float(x)) for x in row)])


def _width(array):
    return array.shape[-1]


def _columns(header, path):
    """Indices of `t`, q, p and u, each in the order of its number."""
    counts = {
        kind: sum(bool(re.fullmatch(rf"{kind}\d+", name)) for name in header)
        for kind in "qpu"
    }
    size = max(1, counts["q"], counts["p"])
    wanted = ["trajectory", "t", *(f"q{i}" for i in range(size))]
    wanted += [f"p{i}" for i in range(size)]
    wanted += [f"u{i}" for i in range(counts["u"])]
    for name in wanted:
        if header.count(name) != 1:
            problem = "misses" if name not in header else "has twice"
            raise ValueError(
                f"{path} {problem} the column {name!r}: it needs trajectory, "
                "t, q0 ..., as many p0 ... and, for a control, u0 ... "
                f"Received: {header}"
            )
    return [header.index(name) for name in wanted[1:]]


def _check_time(trajectories, path):
    """The points of every trajectory lie on a grid, all of one step."""
    for name, values in trajectories.items():
        if len(values) < 2:
            raise ValueError(
                f"{path}, trajectory {name!r} has one row only; it needs two "
                "points at least."
            )
    times = {
        name: np.array([value[0] for value in values])
        for name, values in trajectories.items()
    }
    longest = max(times.values(), key=len)
    step = (longest[-1] - longest[0]) / (len(longest) - 1)
    for name, t in times.items():
        wrong = off_grid(t, step)
        if wrong:
            raise ValueError(
                f"{path}, column 't': trajectory {name!r} must have rising "
                f"times at equal steps, {step:g} as in the longest one. "
                f"Received: {wrong}"
            )


def _arrays(trajectories, names):
    lengths = np.array([len(values) for values in trajectories.values()])
    shape = (len(lengths), lengths.max(), len(names))
    table = np.full(shape, np.nan)
    for index, values in enumerate(trajectories.values()):
        table[index, : len(values)] = values
    data = {"t": table[..., 0], "length": lengths}
    for kind in "qpu":
        chosen = [i for i, name in enumerate(names) if name[0] == kind]
        if chosen:
            data[kind] = table[..., chosen]
    return data
