"""The same weights on every installed backend, each in its own process."""

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

BACKENDS = ("jax", "torch", "tensorflow")


class Difference(NamedTuple):
    """Largest difference of one array between any two backends.

    Attributes:
        absolute: float, `max |a - b|`.
        relative: float, the same over `max |a|`, the array's largest value.
    """

    absolute: float
    relative: float


def installed_backends():
    """The backends of Keras that this Python can import, as a tuple."""
    return tuple(name for name in BACKENDS if find_spec(name) is not None)


def compare_backends(
    script,
    workdir,
    backends=None,
    *,
    build="build",
    run="run",
    timeout=600,
):
    """Run one script on every backend and compare what it returns.

    The script defines two functions. `build(path)` runs once, on the first
    backend, and saves a model at `path`; `run(path)` runs on each backend and
    returns a dict of arrays. TF32 is off, so that a GPU rounds as a CPU does.
    Dropout and sampling are the script's to switch off: random streams differ
    by backend.

    Args:
        script: path of a Python file, often the test's own `__file__`.
        workdir: existing folder for `model.keras` and `<backend>.npz`.
        backends: tuple of names. Default: every installed backend.
        build: str, name of the function that saves the model; or the path of
            a model that exists already.
        run: str, name of the function that returns the arrays.
        timeout: float, seconds for each process.

    Returns:
        Dict from the name of each array to its `Difference`.

    Raises:
        ValueError: fewer than two backends, or one that is not installed.
        RuntimeError: a process failed; its last lines are in the message.
        AssertionError: arrays are missing, of another shape, or not finite.

    Example:
    ```python
    def build(path):
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)

    def run(path):
        model = keras.saving.load_model(path)
        return {"logits": model.predict(np.ones((4, 3)), verbose=0)}

    def test_agreement(tmp_path):
        differences = compare_backends(__file__, tmp_path)
        assert differences["logits"].absolute < 1e-6
    ```
    """
    installed = installed_backends()
    backends = installed if backends is None else tuple(backends)
    if missing := set(backends) - set(installed):
        raise ValueError(
            f"`backends` names {sorted(missing)}, which are not installed; "
            f"installed: {list(installed)}"
        )
    if len(backends) < 2:
        raise ValueError(
            f"`backends` must hold at least two names, received {backends}"
        )
    workdir = Path(workdir).resolve()
    model = workdir / "model.keras"
    if Path(build).is_file():
        model = Path(build).resolve()
    else:
        run_in_process(backends[0], script, build, model, timeout=timeout)
    arrays = {}
    for backend in backends:
        outputs = workdir / f"{backend}.npz"
        run_in_process(backend, script, run, model, outputs, timeout)
        with np.load(outputs) as file:
            arrays[backend] = dict(file)
    return _differences(arrays)


def run_in_process(backend, script, function, model, outputs=None, timeout=600):
    """Call `function(model)` of a script on a backend, in a fresh process.

    Args:
        backend: str, an installed backend.
        script: path of a Python file, or the name of a module.
        function: str, its name; returns a dict of arrays.
        model: path handed to the function.
        outputs: path of the `.npz` file that receives the arrays, or `None`.
        timeout: float, seconds.

    Raises:
        RuntimeError: the process failed; its last lines are in the message.
    """
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "NVIDIA_TF32_OVERRIDE": "0",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-m", "orrery.testing._worker"]
    command += [str(script), function, str(model)]
    command += [str(outputs)] if outputs else []
    process = subprocess.run(
        command,
        env=environment,
        timeout=timeout,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if process.returncode:
        raise RuntimeError(
            f"{function}() of {script} failed on {backend} "
            f"(exit status {process.returncode}):\n{process.stderr[-4000:]}"
        )


def _differences(arrays):
    """Largest difference per array over all pairs of backends."""
    result = {}
    for (first, a), (second, b) in itertools.combinations(arrays.items(), 2):
        assert a.keys() == b.keys(), (
            f"{first} returns {sorted(a)}, {second} returns {sorted(b)}"
        )
        for name in a:
            x, y = (
                np.asarray(a[name], "float64"),
                np.asarray(b[name], "float64"),
            )
            assert x.shape == y.shape, (
                f"{name}: {x.shape} on {first}, {y.shape} on {second}"
            )
            assert np.isfinite(x).all() and np.isfinite(y).all(), (
                f"{name} is not finite on {first} or {second}"
            )
            absolute = float(np.abs(x - y).max(initial=0.0))
            scale = float(np.abs(x).max(initial=0.0)) or 1.0
            old = result.get(name, Difference(0.0, 0.0))
            result[name] = Difference(
                max(old.absolute, absolute), max(old.relative, absolute / scale)
            )
    return result


def updated_weights(model, optimizer, x, y=None, *, steps=5, **compile_kwargs):
    """The weights after a few training steps on one batch.

    Args:
        model: a `keras.Model`, just loaded.
        optimizer: a Keras optimizer; 1e-3 is a rate at which several steps
            move the weights and rounding does not grow.
        x: inputs of one batch, as `fit` takes them.
        y: targets, or `None` where the model adds its own loss.
        steps: int, number of steps.
        **compile_kwargs: for `model.compile`, such as `loss`.

    Returns:
        Dict with `losses`, one per step, and one array per trainable weight.

    Raises:
        AssertionError: a trainable weight did not move.
    """
    model.compile(optimizer=optimizer, **compile_kwargs)
    weights = model.trainable_weights
    before = [np.array(keras.ops.convert_to_numpy(w.value)) for w in weights]
    size = len(keras.tree.flatten(x)[0])
    history = model.fit(
        x, y, batch_size=size, epochs=steps, shuffle=False, verbose=0
    )
    arrays = {"losses": np.asarray(history.history["loss"])}
    for index, (weight, old) in enumerate(zip(weights, before, strict=True)):
        new = np.array(keras.ops.convert_to_numpy(weight.value))
        assert np.any(new != old), f"{weight.path} did not move"
        arrays[f"{index:03d}.{weight.path.replace('/', '.')}"] = new
    return arrays
