"""Numbers from a CSV file; what is wrong is named by file, row and column."""

import csv
import math
import pathlib

import numpy as np


def read_csv_table(path, columns=None):
    r"""Reads columns of numbers from a CSV file with a line of names.

    Args:
        path: string or path of the file, UTF-8, separated by commas.
        columns: names of the columns wanted, in the order wanted. Defaults to
            `None`, all there are.

    Returns:
        The names, a list, and a float64 array `(rows, columns)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is empty, a column is missing or there twice,
            a row is of another length, or an entry is not a finite number;
            names the file, the row (the names are row 1) and the column.

    Example:

    ```python
    import pathlib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "table.csv")
        path.write_text("t,x\n0,1.5\n1,2.5\n")
        names, table = read_csv_table(path, ["x"])
    assert names == ["x"] and table.tolist() == [[1.5], [2.5]]
    ```
    """
    names, table, _ = read_numbered_table(path, columns)
    return names, table


def read_numbered_table(path, columns=None):
    """What `read_csv_table` returns, and the number of each row in the file.

    The names are row 1, and empty lines are counted.
    """
    header, rows = read_csv_rows(path)
    names = list(header if columns is None else columns)
    for name in names:
        if header.count(name) != 1:
            problem = "misses" if name not in header else "has twice"
            raise ValueError(
                f"{path} {problem} the column {name!r}. It has: {header}"
            )
    places = [header.index(name) for name in names]
    if not rows:
        raise ValueError(f"{path} has a header but no rows.")
    table = [
        [finite_number(row[i], path, number, header[i]) for i in places]
        for number, row in rows
    ]
    numbers = [number for number, _ in rows]
    return names, np.array(table, "float64"), numbers


def read_csv_rows(path):
    """The names of a CSV file, and pairs of a row's number and its entries.

    Empty lines are left out; every row has as many entries as there are names.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            rows = list(csv.reader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is not a CSV file: {error}") from error
    if not rows:
        raise ValueError(f"{path} is empty.")
    header = [name.strip() for name in rows[0]]
    numbered = [(k, row) for k, row in enumerate(rows[1:], start=2) if row]
    for number, row in numbered:
        if len(row) != len(header):
            raise ValueError(
                f"{path}, row {number} has {len(row)} entries; the header "
                f"names {len(header)} columns."
            )
    return header, numbered


def finite_number(text, path, row, column):
    """The number an entry says; raises a ValueError that names its place."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{path}, row {row}, column {column!r}: must be a finite number. "
            f"Received: {text!r}"
        )
    return value
