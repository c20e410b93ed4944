"""What flows into a wastewater plant: recorded weather, or generated."""

import os
import pathlib

import numpy as np

from .asm1 import COMPONENTS, SND, SNH, SS, XBH, XI, XND, XS
from .bsm1 import CONSTANT_INFLUENT
from .csv_table import read_numbered_table
from .time_grid import off_grid

WEATHERS = ("dry", "rain", "storm")
# Rows of a day: one every 15 minutes.
PER_DAY = 96
FLOW = len(COMPONENTS)
# Of the mean: cosines and sines of one, two and three periods a day, and what
# is missing at weekends; two digits of a fit to the benchmark's dry weather.
_ORGANICS = (-0.07, -0.14, 0.26, -0.10, -0.11, 0.09), 0.0
_SOLIDS = (-0.02, -0.25, 0.20, 0.10, -0.05, -0.04), 0.18
PATTERNS = {
    FLOW: ((-0.10, -0.18, 0.22, -0.07, -0.07, 0.02), 0.16),
    SS: _ORGANICS,
    SND: _ORGANICS,
    SNH: ((0.00, -0.07, 0.22, -0.07, -0.09, 0.12), 0.0),
    XI: ((-0.13, -0.34, 0.37, 0.02, -0.11, -0.05), 0.32),
    XS: _SOLIDS,
    XBH: _SOLIDS,
    XND: _SOLIDS,
}


def load_influent(weather, data_dir=None):
    """Reads an influent of 15 minutes a row: the benchmark's, or your own.

    Args:
        weather: `"dry"`, `"rain"` or `"storm"`, the benchmark's two weeks,
            read from `bsm1/influent_<weather>.csv` in the data folder; or the
            path of a CSV file with the columns `t` (d), the thirteen
            components of ASM1 (g/m3; `SALK` mol/m3) and `Q` (m3/d).
        data_dir: string or path, the data folder. Defaults to `None`, the
            folder `ORRERY_DATA_DIR`.

    Returns:
        A float64 array `(rows, 14)`: the components, then the flow.

    Raises:
        FileNotFoundError: if the file is not there; says what to do.
        ValueError: if a column is missing, an entry is not a finite number or
            is negative, a flow is 0, or the times are not 15 minutes apart;
            names the file, the row and the column.

    Reference:
        - [Alex et al., 2018](https://github.com/wwtmodels/Benchmark-Simulation-Models)
    """
    path = _find(weather, data_dir)
    names, table, rows = read_numbered_table(path, ["t", *COMPONENTS, "Q"])
    if len(table) < 2:
        raise ValueError(f"{path} has one row only; it needs two at least.")
    wrong = off_grid(table[:, 0], 1 / PER_DAY, rows)
    if wrong:
        raise ValueError(
            f"{path}, column 't': must be days, 15 minutes (1/96) apart. "
            f"Received: {wrong}"
        )
    for k, column in np.argwhere(table[:, 1:] < 0):
        raise ValueError(
            f"{path}, row {rows[k]}, column {names[column + 1]!r}: must not be "
            f"negative. Received: {table[k, column + 1]:g}"
        )
    for k in np.flatnonzero(table[:, -1] == 0):
        raise ValueError(
            f"{path}, row {rows[k]}, column 'Q': must be above 0. Received: 0"
        )
    return table[:, 1:]


def generated_influent(days=14, start=0.0):
    """Dry weather by formula: daily and weekly rhythms, no file needed.

    Flow and concentrations follow three harmonics of a day and a weekend of
    their own; over whole weeks the mean flow and the flow-weighted means of the
    concentrations are those of the benchmark's dry weather.

    Args:
        days: number > 0. Defaults to `14`.
        start: number, day of the week at the first row, 0 Monday morning.
            Defaults to `0.0`.

    Returns:
        A float64 array `(96 days + 1, 14)`: components (g/m3; SALK mol/m3),
        then the flow (m3/d).

    Example:
    >>> week = generated_influent(days=7)[:-1]
    >>> load = (week[:, SNH] * week[:, FLOW]).sum() / week[:, FLOW].sum()
    >>> round(float(load), 2)
    31.56
    """
    week = _rhythms(np.arange(7 * PER_DAY) / PER_DAY)
    time = start + np.arange(round(PER_DAY * days) + 1) / PER_DAY
    influent = _rhythms(time)
    influent[:, FLOW] /= week[:, FLOW].mean()
    weights = week[:, FLOW] / week[:, FLOW].sum()
    influent[:, :FLOW] /= weights @ week[:, :FLOW]
    return influent * CONSTANT_INFLUENT


def _rhythms(time):
    """Factors `(len(time), 14)` around 1."""
    factors = np.ones((len(time), FLOW + 1))
    angles = 2 * np.pi * time[:, None] * np.arange(1, 4)
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    weekend = time % 7 >= 5
    for column, (amplitudes, missing) in PATTERNS.items():
        daily = 1 + waves.reshape(len(time), -1) @ np.array(amplitudes)
        factors[:, column] = daily * (1 - missing * weekend)
    return factors


def _find(weather, data_dir):
    if str(weather) not in WEATHERS:
        return pathlib.Path(weather).expanduser()
    folder = data_dir or os.environ.get("ORRERY_DATA_DIR")
    name = f"bsm1/influent_{weather}.csv"
    if folder and (pathlib.Path(folder).expanduser() / name).is_file():
        return pathlib.Path(folder).expanduser() / name
    raise FileNotFoundError(
        f"The benchmark's {weather} weather is not there: {name} is looked for "
        "in `data_dir`, then in the folder ORRERY_DATA_DIR. Received: "
        f"{folder!r}. `generated_influent` needs no file."
    )
