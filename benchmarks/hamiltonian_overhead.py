"""What the account of energy costs a training step, and what the blocks do.

    python benchmarks/hamiltonian_overhead.py            three backends

`account`: tracking, loss and multiplier on against off, the same network.
`blocks`: Hamiltonian blocks without an account against attention and SwiGLU
blocks with as many weights. See `_overhead.py` for how.
"""

import _train_step_flags
from _measure import results_file, write_csv
from _overhead import COUNTS, PACKAGES, measure

PAIRS = {
    "account": ("untracked", "tracked"),
    "blocks": ("base", "untracked"),
}


def main():
    flags = _train_step_flags.parser(__doc__, COUNTS)
    arguments = _train_step_flags.parse(flags, COUNTS)
    rows = []
    for backend in arguments.backend:
        for what, pair in PAIRS.items():
            device, row = measure(pair, backend, 1, arguments)
            rows.append({"what": what, **row})
            path = results_file(
                f"hamiltonian_overhead_{arguments.size}",
                PACKAGES,
                arguments.out,
                device,
            )
            write_csv(path, rows)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
