"""What operators at work cost a training step, beside the step without them.

    python benchmarks/koopman_overhead.py                three backends
    python benchmarks/koopman_overhead.py --size koopman_lm_small

One process holds the model with operators (their loss and their solves on) and
the one without, and lets windows of ten steps of `fit` take turns. An overhead
is the median over pairs of neighbouring windows, of seconds and of processor
seconds; the latter hold less of what other programs do to the machine.

JAX solves through LAPACK, on the threads of its OpenBLAS, which go on spinning
for a while after a solve, beside the step's own. The systems are too small to
need more than one (`blas_threads`; empty: as many as there are cores).
"""

import statistics
import tempfile
from pathlib import Path

import _train_step_flags
from _measure import results_file, run_task, spread, write_csv
from _train_step_flags import BACKENDS, Count
from _train_step_variants import SIZES, Variant

TASK = Path(__file__).with_name("_train_step_task.py")
PACKAGES = ("keras", *BACKENDS)
COUNTS = {
    "windows": Count(10, 2, "pairs of a process"),
    "processes": Count(3, 1, "processes of a row"),
}
MEASURES = "seconds", "cpu_seconds"


def measure(backend, blas_threads, arguments):
    """The row of a backend."""
    sizes = SIZES[arguments.size]
    variant = Variant("koopman", backend, "fused", "auto")
    task = {"variant": variant._asdict(), "sizes": sizes}
    pairs, devices, loads = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        task["folder"] = folder
        for kind in ["prepare"] + ["overhead"] * arguments.processes:
            run = run_task(
                TASK,
                {**task, "kind": kind, "windows": arguments.windows},
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
        without, with_operators = (
            [pair[index][name] for pair in pairs] for index in (0, 1)
        )
        ratios = (
            b / a - 1 for a, b in zip(without, with_operators, strict=True)
        )
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


def main():
    flags = _train_step_flags.parser(__doc__, COUNTS)
    arguments = _train_step_flags.parse(flags, COUNTS)
    rows = []
    for backend in arguments.backend:
        for blas_threads in (1, None) if backend == "jax" else (None,):
            device, row = measure(backend, blas_threads, arguments)
            rows.append(row)
            path = results_file(
                f"koopman_overhead_{arguments.size}",
                PACKAGES,
                arguments.out,
                device,
            )
            write_csv(path, rows)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
