"""Series to forecast or to imitate: sines, stocks, and tables of your own."""

import os
import pathlib

import numpy as np

from .._checks import check_integer, check_real
from .corpus import file_sha256
from .csv_table import read_csv_table, read_numbered_table
from .series import Episode, SeriesData
from .time_grid import off_grid

# Hours in a unit of time.
UNITS = {"s": 1 / 3600, "min": 1 / 60, "h": 1.0, "d": 24.0}
STOCKS = "stocks/stock_data.csv"
SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}


def sines(num_series=10_000, length=24, features=5, seed=0):
    """Sines of random frequency and phase, scaled to [0, 1].

    `(sin(f t + p) + 1) / 2` with f and p uniform in [0, 0.1), each feature its
    own.

    Args:
        num_series: int > 0. Defaults to `10000`.
        length: int > 0, points of each. Defaults to `24`.
        features: int > 0. Defaults to `5`.
        seed: int >= 0. Defaults to `0`.

    Returns:
        A float32 array `(num_series, length, features)`.

    Example:
    >>> sines(3).shape
    (3, 24, 5)

    Reference:
        - Yoon, Jarrett, van der Schaar: Time-series generative adversarial
          networks, NeurIPS 2019.
    """
    for name, value in (
        ("num_series", num_series),
        ("length", length),
        ("features", features),
    ):
        check_integer(name, value, 1)
    generator = np.random.default_rng(seed)
    shape = (num_series, 1, features)
    frequency, phase = generator.uniform(0, 0.1, (2, *shape))
    waves = np.sin(frequency * np.arange(length)[:, None] + phase)
    return (0.5 * (waves + 1)).astype("float32")


def stock_windows(length=24, data_dir=None, seed=0):
    """Windows of daily prices and volumes of one stock, scaled to [0, 1].

    The table is reversed in time, as in TimeGAN, scaled by the smallest and the
    largest value of each column, cut into all windows, and these are shuffled.
    Neighbours overlap: a split of these windows is none in time.

    Args:
        length: int > 0, days of a window. Defaults to `24`.
        data_dir: string or path, the data folder with `stocks/stock_data.csv`.
            Defaults to `None`, the folder `ORRERY_DATA_DIR`.
        seed: int >= 0, of the order. Defaults to `0`.

    Returns:
        A float32 array `(windows, length, 6)`.

    Raises:
        FileNotFoundError: if the file is not there; says where it is looked
            for.
        ValueError: if it is not a table of numbers, or is too short.

    Reference:
        - Yoon, Jarrett, van der Schaar: Time-series generative adversarial
          networks, NeurIPS 2019.
    """
    check_integer("length", length, 1)
    folder = data_dir or os.environ.get("ORRERY_DATA_DIR")
    path = pathlib.Path(folder or ".").expanduser() / STOCKS
    if not folder or not path.is_file():
        raise FileNotFoundError(
            f"The stock data are not there: {STOCKS} is looked for in "
            f"`data_dir`, then in the folder ORRERY_DATA_DIR. Received: "
            f"{folder!r}"
        )
    _, table = read_csv_table(path)
    if len(table) < length:
        raise ValueError(
            f"`length` must be at most {len(table)}, the rows of {path}. "
            f"Received: length={length}"
        )
    table = table[::-1]
    low, high = table.min(axis=0), table.max(axis=0)
    table = (table - low) / np.where(high > low, high - low, 1.0)
    starts = np.arange(len(table) - length + 1)
    windows = table[starts[:, None] + np.arange(length)]
    order = np.random.default_rng(seed).permutation(len(windows))
    return windows[order].astype("float32")


def drop_values(series, share, seed=0):
    """Irregular sampling: rows of each series that nobody wrote down.

    Args:
        series: float array `(N, length, features)`.
        share: float in [0, 1), of the rows that are missing; at least one row
            of each series stays.
        seed: int >= 0. Defaults to `0`.

    Returns:
        A dict of float32 arrays: `values` `(N, length, features)`, the last
        value seen where there is none (the first to come, before it); `mask`
        `(N, length, 1)`, 1 where a row was written down; and `elapsed` `(N,
        length, 1)`, steps since the last one that was.

    Example:
    >>> kept = drop_values(sines(2), share=0.3)
    >>> kept["mask"].sum(axis=(1, 2))
    array([17., 17.], dtype=float32)
    """
    series = np.asarray(series, "float32")
    if series.ndim != 3:
        raise ValueError(
            "`series` must be of shape (N, length, features). Received: shape "
            f"{series.shape}"
        )
    check_real("share", share, "in [0, 1)", lambda x: 0 <= x < 1)
    count, length, _ = series.shape
    kept = max(1, round(length * (1 - share)))
    ranks = np.random.default_rng(seed).random((count, length)).argsort(axis=1)
    mask = ranks < kept
    place = np.where(mask, np.arange(length), -1)
    last = np.maximum.accumulate(place, axis=1)
    first = mask.argmax(axis=1)[:, None]
    seen = np.where(last < 0, first, last)
    elapsed = np.where(last < 0, 0, np.arange(length) - last)
    return {
        "values": np.take_along_axis(series, seen[..., None], axis=1),
        "mask": mask[..., None].astype("float32"),
        "elapsed": elapsed[..., None].astype("float32"),
    }


def read_series(path, controls=(), disturbances=(), time=None, unit="h"):
    """A process from a CSV file: any table of numbers, one row a step.

    The first 70 % of the rows are for training, 15 % each for validation and
    test, in the order of time.

    Args:
        path: string or path of the file.
        controls: names of the columns that somebody sets; each row acts until
            the next one.
        disturbances: names of the columns that act, but that nobody sets.
        time: name of the column of times. Defaults to `None`: rows are one
            unit apart.
        unit: of that column, `"s"`, `"min"`, `"h"` or `"d"`. Defaults to
            `"h"`.

    Returns:
        A `SeriesData`; what is neither time, control nor disturbance is
        observed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing or named twice, an entry is not a
            finite number, the times are not equally far apart, the unit is not
            known, or nothing is left to observe; names the file, the row and
            the column.
    """
    if unit not in UNITS:
        raise ValueError(
            f"`unit` must be one of {tuple(UNITS)}. Received: unit={unit!r}"
        )
    names, table, numbers = read_numbered_table(path)
    controls, disturbances = tuple(controls), tuple(disturbances)
    apart = (*controls, *disturbances, *(() if time is None else (time,)))
    for name in apart:
        if names.count(name) != 1 or apart.count(name) != 1:
            raise ValueError(
                f"{path}: time, controls and disturbances must each name a "
                f"column of its own. Received: {name!r}, of {names}"
            )
    observed = tuple(name for name in names if name not in apart)
    if not observed:
        raise ValueError(f"{path} leaves no column to observe: {names}")
    columns = dict(zip(names, table.T, strict=True))
    step = 1.0
    if time is not None:
        step = _step(path, time, columns[time], numbers)

    def stack(chosen, rows):
        part = [columns[name][rows] for name in chosen]
        return np.stack(part, axis=1) if part else np.zeros((len(rows), 0))

    splits, first = {}, 0
    for split, share in SHARES.items():
        last = (
            len(table) if split == "test" else first + int(share * len(table))
        )
        rows = np.arange(first, last)
        if len(rows) < 2:
            raise ValueError(
                f"{path} is too short: {len(table)} rows leave {len(rows)} for "
                f"{split!r}, which needs two."
            )
        splits[split] = [
            Episode(
                stack(observed, rows),
                stack(controls, rows[:-1]),
                stack(disturbances, rows[:-1]),
            )
        ]
        first = last
    return SeriesData(
        name=pathlib.Path(path).stem,
        observed=observed,
        controls=controls,
        disturbances=disturbances,
        step=step * UNITS[unit],
        splits=splits,
        metadata={
            "file": pathlib.Path(path).name,
            "sha256": file_sha256(path),
            "rows": len(table),
        },
    )


def _step(path, name, times, rows):
    step = (times[-1] - times[0]) / max(1, len(times) - 1)
    wrong = off_grid(times, step, rows) if len(times) > 1 else ""
    if wrong:
        raise ValueError(
            f"{path}, column {name!r}: times must rise at equal steps. "
            f"Received: {wrong}"
        )
    return step
