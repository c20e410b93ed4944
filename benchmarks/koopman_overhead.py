"""What operators at work cost a training step, beside the step without them.

    python benchmarks/koopman_overhead.py                three backends
    python benchmarks/koopman_overhead.py --size koopman_lm_small

See `_overhead.py` for how. The operators' loss and their solves are on. JAX
solves through LAPACK, on the threads of its OpenBLAS, which go on spinning for
a while after a solve, beside the step's own. The systems are too small to need
more than one (`blas_threads`; empty: as many as there are cores).
"""

import _train_step_flags
from _measure import results_file, write_csv
from _overhead import COUNTS, PACKAGES, measure


def main():
    flags = _train_step_flags.parser(__doc__, COUNTS)
    arguments = _train_step_flags.parse(flags, COUNTS)
    rows = []
    for backend in arguments.backend:
        for blas_threads in (1, None) if backend == "jax" else (None,):
            device, row = measure(
                ("base", "koopman"), backend, blas_threads, arguments
            )
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
