"""What operators at work cost a training step, beside the step without them.

    python benchmarks/koopman_overhead.py                three backends
    python benchmarks/koopman_overhead.py --size koopman_lm_small

One process holds the model with operators (their loss and their solves on) and
the one without, and lets windows of ten steps of `fit` take turns. An overhead
is the median over pairs of neighbouring windows, of seconds and of processor
seconds; the latter hold less of what other programs do to the machine.

JAX solves through LAPACK, on the threads of its OpenBLAS. They go on spinning
after a solve and so hold back the step's own threads; the systems are too small
to need more than one (`blas_threads`).
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from _measure import results_file, run_task, spread, write_csv
from _train_step_variants import SIZES, Variant, installed

TASK = Path(__file__).with_name("_train_step_task.py")
BACKENDS = ("jax", "tensorflow", "torch")
PACKAGES = ("keras", *BACKENDS)
MEASURES = "seconds", "cpu_seconds"


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--backend", nargs="+", choices=BACKENDS, help="default: all installed")
    add("--size", choices=sorted(SIZES), default="d64", help="default: d64")
    add("--windows", type=int, default=10, help="pairs of a process")
    add("--processes", type=int, default=3, help="processes of a row")
    add("--out", type=Path, help="folder of the CSV; default: results/")
    add("--smoke", action="store_true", help="tiny models, no claims")
    arguments = parser.parse_args()
    for name in ("windows", "processes"):
        if getattr(arguments, name) < 1:
            parser.error(
                f"--{name} must be at least 1; got {getattr(arguments, name)}"
            )
    if arguments.smoke:
        arguments.size, arguments.windows, arguments.processes = "smoke", 2, 1
        arguments.out = arguments.out or Path(tempfile.mkdtemp())
    present = [name for name in BACKENDS if installed(name)]
    arguments.backend = arguments.backend or present
    if missing := set(arguments.backend) - set(present):
        parser.error(f"--backend {' '.join(missing)}: not installed")
    return arguments


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
    arguments = parse()
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
