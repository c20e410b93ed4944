"""The series that `kovae.py --task generate` imitates."""

import hashlib
import pathlib

import numpy as np
from orrery.datasets import SeriesBatches, read_series, sines, stock_windows
from orrery.datasets.corpus import file_sha256

# Each of two halves of them is judged, and a judge wants five.
FEWEST = 10
SMOKE = 128


class IrregularBatches(SeriesBatches):
    """Batches of what `drop_values` returns."""

    def __init__(self, given, batch_size, seed):
        super().__init__(given["values"], batch_size, seed)
        self.given = given

    def __getitem__(self, index):
        rows = self.rows(index)[0]
        return ({name: x[rows] for name, x in self.given.items()},)


def load(arguments):
    """Series to imitate, float32 `(N, length, features)`, and what they are.

    Returns:
        The series, and a JSON-plain dict: all that must not change when a run
        goes on, and the scale of what was a file.
    """
    length, seed = arguments.length, arguments.seed
    name = pathlib.Path(arguments.dataset).stem
    data = {"name": name, "length": length}
    if arguments.dataset == "sines":
        series = sines(length=length, seed=seed)
    elif arguments.dataset == "stocks":
        series = stock_windows(length, arguments.data_dir, seed)
        data["sha256"] = hashlib.sha256(series.tobytes()).hexdigest()
    else:
        series, told = table_windows(
            arguments.dataset, length, arguments.time, seed
        )
        data |= told
    if arguments.smoke:
        series = series[:SMOKE]
    return series, data


def table_windows(path, length, time=None, seed=0):
    """All windows of a table, in [0, 1] and shuffled; neighbours overlap."""
    table = read_series(path, time=time)
    rows = np.concatenate(
        [e.values for part in table.splits.values() for e in part]
    )
    count = len(rows) - length + 1
    if count < FEWEST:
        raise ValueError(
            f"{path} is too short: {len(rows)} rows make {max(0, count)} "
            f"windows of --length {length}, and {FEWEST} are needed."
        )
    low, high = rows.min(axis=0), rows.max(axis=0)
    scaled = (rows - low) / np.where(high > low, high - low, 1.0)
    starts = np.random.default_rng(seed).permutation(count)
    told = {
        "sha256": file_sha256(path),
        "rows": len(rows),
        "columns": list(table.observed),
        "low": low.tolist(),
        "high": high.tolist(),
    }
    windows = scaled[starts[:, None] + np.arange(length)]
    return windows.astype("float32"), told
