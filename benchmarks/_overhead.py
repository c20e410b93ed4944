"""The step of one model beside the step of another, window beside window.

One process holds both models and lets windows of ten steps of `fit` take turns.
An overhead is the median over pairs of neighbouring windows, of seconds and of
processor seconds; the latter hold less of what other programs do to the
machine.
"""

import statistics
import tempfile
from pathlib import Path

from _measure import run_task, spread
from _train_step_flags import BACKENDS, Count
from _train_step_variants import SIZES, Variant

TASK = Path(__file__).with_name("_train_step_task.py")
PACKAGES = ("keras", *BACKENDS)
COUNTS = {
    "windows": Count(10, 2, "pairs of a process"),
    "processes": Count(3, 1, "processes of a row"),
}
MEASURES = "seconds", "cpu_seconds"


def measure(pair, backend, blas_threads, arguments):
    """What the second model of a pair costs beside the first.

    Args:
        pair: two names of `_train_step_keras.build`.
        backend: str.
        blas_threads: int, threads of OpenBLAS, or `None` to leave them.
        arguments: those of `_train_step_flags.parse`.

    Returns:
        The accelerator or `None`, and a dict of the overheads.
    """
    sizes = SIZES[arguments.size]
    task = {"sizes": sizes, "pair": pair}
    pairs, devices, loads = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        task["folder"] = folder
        kinds = [("prepare", model) for model in pair]
        kinds += [("overhead", pair[1])] * arguments.processes
        for kind, model in kinds:
            variant = Variant(model, backend, "fused", "auto")
            run = run_task(
                TASK,
                {
                    **task,
                    "kind": kind,
                    "variant": variant._asdict(),
                    "windows": arguments.windows,
                },
                backend=backend,
                threads=sizes["threads"],
                blas_threads=blas_threads,
            )
            pairs += run.get("pairs", [])
            devices.append(run["device"])
            loads.append(run["load"])
    row = {
        "size": arguments.size,
        "backend": backend,
        "blas_threads": blas_threads or "",
    }
    for name in MEASURES:
        without, beside = (
            [pair[index][name] for pair in pairs] for index in (0, 1)
        )
        ratios = (b / a - 1 for a, b in zip(without, beside, strict=True))
        median, low, high = spread(ratios)
        row |= {
            name: statistics.median(without),
            f"{name}_overhead": median,
            f"{name}_overhead_q1": low,
            f"{name}_overhead_q3": high,
        }
    row |= {"windows": len(pairs), "load": max(loads)}
    print(row, flush=True)
    return devices[0], row
