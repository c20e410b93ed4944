"""Recorded numbers: bit-exact where they were made, bounded elsewhere."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np


def environment():
    """What a recorded number depends on, as a plain dict."""
    backend = keras.backend.backend()
    return {
        "backend": backend,
        "backend_version": version(backend),
        "keras_version": keras.__version__,
        "numpy_version": np.__version__,
        "machine": platform.machine(),
    }


def write_golden(path, arrays):
    """Record arrays with their environment.

    Args:
        path: str, the `.npz` file to write.
        arrays: dict from names to NumPy arrays.

    Returns:
        The file's sha256, for the test to pin.
    """
    np.savez_compressed(path, **arrays, environment=json.dumps(environment()))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_golden(path, sha256, arrays, bounds):
    """Compare arrays with recorded ones in two tiers.

    On the recorded backend, versions and machine they must be equal bit for
    bit; elsewhere within the bound of each quantity.

    Args:
        path: str, the `.npz` file.
        sha256: str, the hash that the test pins.
        arrays: dict from names to NumPy arrays, the names that were recorded.
        bounds: dict from names to the largest absolute difference allowed.

    Returns:
        Dict from names to the differences found.

    Raises:
        AssertionError: the file changed, or a quantity is out of its bound.
    """
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert found == sha256, f"{path} has sha256 {found}, pinned is {sha256}"
    with np.load(path) as file:
        recorded = dict(file)
    same = json.loads(str(recorded.pop("environment"))) == environment()
    assert recorded.keys() == arrays.keys(), (
        f"recorded {sorted(recorded)}, computed {sorted(arrays)}"
    )
    differences = {}
    for name, expected in recorded.items():
        difference = np.abs(np.float64(arrays[name]) - expected).max(
            initial=0.0
        )
        bound = 0.0 if same else bounds[name]
        assert difference <= bound, (
            f"{name} differs by {difference:.3g}; allowed {bound:.3g} "
            f"({'same' if same else 'another'} environment)"
        )
        differences[name] = float(difference)
    return differences
