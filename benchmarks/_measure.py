"""What every benchmark shares: processes, spreads, memory, file names."""

import csv
import importlib.metadata
import json
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"


def spread(values):
    """Median and quartiles, the three numbers every timing is given by."""
    values = list(values)
    if len(values) < 2:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, low, high


def half_width(values):
    """Half the 95 % t interval of the mean of two values or more.

    Two-sided, by SciPy's quantile of Student's t (needs `orrery[science]`).
    """
    # Here, so that a process whose memory is measured does not hold SciPy.
    from scipy.stats import t

    count = len(values)
    quantile = float(t.ppf(0.975, count - 1))
    return quantile * statistics.stdev(values) / math.sqrt(count)


def run_task(
    script, task, backend=None, timeout=3600, threads=None, blas_threads=1
):
    """Run `script --task JSON` in a fresh process; its last line as JSON.

    TF32 is off, and no backend takes a GPU's memory beforehand.

    Args:
        script: path of a Python file that calls `reply` once.
        task: JSON-plain dict.
        backend: value of `KERAS_BACKEND`, or `None` to leave it.
        timeout: float, seconds.
        threads: int, or `None` for one per core.
        blas_threads: int, threads of OpenBLAS, or `None` to leave them.

    Returns:
        The dict that the script handed to `reply`.

    Raises:
        RuntimeError: the process failed; its last lines are in the message.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads or os.cpu_count()),
        "NVIDIA_TF32_OVERRIDE": "0",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if backend is not None:
        environment["KERAS_BACKEND"] = backend
    if blas_threads is not None:
        environment["OPENBLAS_NUM_THREADS"] = str(blas_threads)
    process = subprocess.run(
        [sys.executable, str(script), "--task", json.dumps(task)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if process.returncode:
        raise RuntimeError(
            f"{task} failed with exit status {process.returncode}:\n"
            f"{process.stderr[-4000:]}"
        )
    return json.loads(process.stdout.strip().splitlines()[-1])


def reply(result):
    """What a task hands back to `run_task`, with the load of the machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(json.dumps({**result, "load": load}), flush=True)


def peak_memory():
    """The largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def device(backend):
    """The accelerator that a backend computes on, or `None` for the CPU."""
    if backend == "jax":
        import jax

        first = jax.devices()[0]
        return None if first.platform == "cpu" else first.device_kind
    if backend == "torch":
        import torch

        has_gpu = torch.cuda.is_available()
        return torch.cuda.get_device_name(0) if has_gpu else None
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    return tf.config.experimental.get_device_details(gpus[0])["device_name"]


def device_memory(backend):
    """The accelerator's largest memory in use so far, in MB, or `None`."""
    if device(backend) is None:
        return None
    if backend == "jax":
        import jax

        peak = jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    elif backend == "torch":
        import torch

        peak = torch.cuda.max_memory_allocated()
    else:
        import tensorflow as tf

        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return peak / 1e6


def hardware(accelerator=None):
    """`amd-epyc-2-cores`, or the name of an accelerator, for a file's name."""
    if accelerator:
        return _slug(accelerator)
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"model name\s*:\s*(.+)", information.read_text())
        model = found[1] if found else model
    return f"{_slug(model)}-{os.cpu_count()}-cores"


def versions(*packages):
    """`keras-3.15.1-jax-0.10.2`, of the packages that are installed."""
    parts = []
    for package in packages:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        parts.append(f"{package}-{version.split('+')[0]}")
    return "-".join(parts)


def results_file(what, packages, folder=None, accelerator=None, smoke=False):
    """`results/<what>_<hardware>_<versions>.csv`; a smoke's is thrown away."""
    if folder is None:
        folder = tempfile.mkdtemp(prefix="orrery-smoke-") if smoke else RESULTS
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{what}_{hardware(accelerator)}_{versions(*packages)}.csv"
    return folder / name


def finished_rows(path, settings):
    """The rows that a table holds already, none if there is none.

    Args:
        path: of the CSV.
        settings: dict, what all its rows must have in these columns.

    Raises:
        ValueError: a row has other settings.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    asked = {name: str(value) for name, value in settings.items()}
    for row in rows:
        held = {name: row[name] for name in settings}
        if any(held.values()) and held != asked:
            raise ValueError(
                f"{path} holds runs of {held}, not of {asked}; move it away"
            )
    return rows


def write_csv(path, rows):
    """Write dicts of the same keys through a rename; numbers to 6 digits."""
    partial = Path(path).with_suffix(".partial")
    with open(partial, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    key: f"{value:.6g}" if isinstance(value, float) else value
                    for key, value in row.items()
                }
            )
    os.replace(partial, path)


def _slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
