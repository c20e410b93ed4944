"""Simulated runs in a file that tells whether it is whole."""

import hashlib
import zipfile
import zlib

import numpy as np

from .corpus import replacing

PARTS = ("states", "controls", "influent")
# What NumPy raises, by way of zipfile, for files that are cut or changed.
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def digest(*arrays):
    """The SHA-256 of shapes and float64 numbers, hexadecimal."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(str(array.shape).encode())
        found.update(np.ascontiguousarray(array, "<f8").tobytes())
    return found.hexdigest()


def write_runs(path, runs):
    """All runs and a hash of them; the file appears when it is complete.

    Args:
        path: `pathlib.Path` of the file.
        runs: list of dicts of arrays, as `simulate_plant` returns them.
    """
    arrays = {
        f"{name}_{k}": run[name] for k, run in enumerate(runs) for name in PARTS
    }
    arrays["sha256"] = np.array(digest(*arrays.values()))
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_runs(path):
    """The runs that `write_runs` wrote.

    Raises:
        ValueError: if the file does not hold what was written.
    """
    with open(path, "rb") as stream:
        try:
            with np.load(stream) as file:
                arrays = {name: file[name] for name in file.files}
            expected = str(arrays.pop("sha256"))
            whole = expected == digest(*arrays.values())
        except DAMAGED:
            whole = False
    if not whole:
        raise ValueError(
            f"{path} is damaged: it does not hold what was written. Delete it, "
            "and it is made anew."
        )
    return [
        {name: arrays[f"{name}_{k}"] for name in PARTS}
        for k in range(len(arrays) // len(PARTS))
    ]
