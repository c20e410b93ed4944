"""The flags every recipe has, and the choice of the backend before Keras."""

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import platform
import sys

BACKENDS = {
    "jax": "pip install 'orrery[jax]'",
    "torch": "pip install 'orrery[torch]'",
    "tensorflow": "pip install 'orrery[tensorflow]'",
}


# What bad input and a diverging run raise; anything else is a fault of ours.
EXPECTED = (ValueError, TypeError, OSError, ImportError, ArithmeticError)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names every default but that of a flag without one."""

    def _get_help_string(self, action):
        if action.default is None:
            return action.help
        return super()._get_help_string(action)


def parser(description, trains=True):
    """An argument parser with the flags that every recipe has.

    The recipe adds its own, then calls `parse`. A script that only measures
    has no use for those of training: `trains=False`.
    """
    flags = argparse.ArgumentParser(
        description=description,
        formatter_class=HelpFormatter,
    )
    add = flags.add_argument
    add(
        "--backend",
        default=os.environ.get("KERAS_BACKEND", "jax"),
        help=f"one of {', '.join(BACKENDS)}",
    )
    add(
        "--data-dir",
        help="folder of downloaded data files; ORRERY_DATA_DIR, then the "
        "cache, then the network if not given",
    )
    add("--batch-size", type=int, default=32, help="sequences per step")
    add("--seed", type=int, default=0, help="of weights, dropout and order")
    add(
        "--out",
        type=pathlib.Path,
        help="folder of all results; runs/<recipe>-<data>-<backend>-<n> if "
        "not given",
    )
    add(
        "--smoke",
        action="store_true",
        help="a few steps of everything, in under a minute",
    )
    if not trains:
        flags.set_defaults(resume=False, devices=1)
        return flags
    add(
        "--resume",
        action="store_true",
        help="continue the interrupted run in --out, with the same flags",
    )
    add(
        "--devices",
        type=int,
        default=1,
        help="devices that share each batch, of all hosts together (JAX "
        "only); every host runs the same command with KERAS_DISTRIBUTION_"
        "JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID set (untested)",
    )
    return flags


def parse(flags, argv=None):
    """Parse the flags and select the backend; import Keras only afterwards."""
    arguments = flags.parse_args(argv)
    backend = arguments.backend
    if backend not in BACKENDS:
        flags.error(
            f"--backend must be one of {', '.join(BACKENDS)}; got {backend!r}"
        )
    if importlib.util.find_spec(backend) is None:
        flags.error(
            f"--backend {backend}: {backend} is not installed; try\n"
            f"    {BACKENDS[backend]}"
        )
    for name in ("batch_size", "devices"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            flags.error(
                f"--{name.replace('_', '-')} must be at least 1; got {value}"
            )
    arms = getattr(arguments, "arms", None) or ()
    if len(set(arms)) < len(arms):
        flags.error(f"--arms must name each arm once; got {' '.join(arms)}")
    if arguments.seed < 0:
        flags.error(f"--seed must not be negative; got {arguments.seed}")
    if arguments.devices > 1 and backend != "jax":
        flags.error(
            f"--devices {arguments.devices} needs --backend jax "
            f"(keras.distribution); got --backend {backend}"
        )
    keras = sys.modules.get("keras")
    if keras is not None and keras.backend.backend() != backend:
        flags.error(
            f"--backend {backend} comes too late: Keras already runs on "
            f"{keras.backend.backend()}"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The same seed gives the same history, however threads come to finish.
    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
    # Threads that spin after a small solve would hold back JAX's own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return arguments


def refuse(flags, arguments, mode, allowed):
    """No flag is silently without effect: stop where another was given."""
    for name, value in vars(arguments).items():
        if name not in allowed and value != flags.get_default(name):
            flag = name.replace("_", "-")
            flags.error(f"--{flag} has no effect with {mode}; got {value!r}")


def plain_errors(main):
    """Bad input ends a recipe with one sentence instead of a traceback."""

    @functools.wraps(main)
    def run(argv=None):
        try:
            return main(argv)
        except EXPECTED as error:
            if "ORRERY_TRACEBACK" in os.environ:
                raise
            raise SystemExit(
                f"{type(error).__name__}: {error}\n"
                "(ORRERY_TRACEBACK=1 shows where.)"
            ) from None

    return run


def default_folder(name, resume):
    """`runs/<name>-<n>`: the next free number, or the last to resume."""
    endings = (
        path.name.removeprefix(f"{name}-")
        for path in pathlib.Path("runs").glob(f"{name}-*")
    )
    taken = [int(ending) for ending in endings if ending.isdecimal()]
    number = max(taken, default=0) + (not resume or not taken)
    if resume and not taken:
        print(f"Nothing to resume in runs/{name}-*: a new run starts.")
    return pathlib.Path("runs", f"{name}-{number}")


def open_folder(path):
    """Make the folder of the results and prove that it can be written to."""
    probe = path / ".write_test"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SystemExit(
            f"--out {path} cannot be written to: {error}"
        ) from None


def distribute(devices):
    """Share every batch among `devices` devices by data parallelism."""
    import keras

    if "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        keras.distribution.initialize()
    if devices == 1:
        return
    available = keras.distribution.list_devices()
    if len(available) < devices:
        raise SystemExit(
            f"--devices {devices}: only {len(available)} present: {available}"
        )
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=available[:devices])
    )


def versions():
    """The software and hardware of this run, a JSON-plain dict."""
    import keras
    import numpy
    import orrery

    backend = keras.backend.backend()
    module = importlib.import_module(backend)
    return {
        "orrery": orrery.__version__,
        "python": platform.python_version(),
        "keras": keras.__version__,
        "numpy": numpy.__version__,
        backend: module.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "command": " ".join(
            [f"recipes/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]]
        ),
    }


def write_json(path, content):
    """Write a JSON file that people can read, through a rename."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(
        json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8"
    )
    os.replace(partial, path)
