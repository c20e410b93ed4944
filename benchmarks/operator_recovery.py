"""What streaming EDMD recovers of a known linear system, and how stable it is.

    python benchmarks/operator_recovery.py

`z' = K z` with a random K of 32 dimensions and spectral radius 0.95, 10,000
samples in float32, given at once, in batches of 500 and in uneven ones. The
table gives `|K_hat - K| / |K|` (Frobenius) and the largest difference between
the partitions; and the largest spectral radius of operators in stable mode
whose kernels are random with entries of size 1, 10 and 1,000, and of those far
from normal: `S D S^-1` with eigenvalues up to 1.5 and the condition of S 3,000.
The constant observable, whose eigenvalue is 1, is left out, and the smallest
radius shows that the bound does not reach 1 by shrinking K to nothing.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from _measure import results_file, write_csv
from orrery.testing.cross_backend import installed_backends, run_in_process

SIZE, SAMPLES, RADIUS = 32, 10_000, 0.95
SCALES = (1.0, 10.0, 1e3)
CONDITION = 3e3
SEEDS = range(5)


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--backend", nargs="+", help="default: all installed")
    flags.add_argument("--out", help="folder of the CSV, not results/")
    arguments = flags.parse_args()
    rows = []
    for backend in arguments.backend or installed_backends():
        with tempfile.TemporaryDirectory() as folder:
            outputs = Path(folder, "measured.npz")
            run_in_process(backend, __file__, "measure", folder, outputs)
            with np.load(outputs) as file:
                measured = {name: float(file[name].max()) for name in file}
        rows.append({"backend": backend, **measured})
        print(rows[-1])
    path = results_file("operator_recovery", ["keras"], arguments.out)
    write_csv(path, rows)
    print(f"Wrote {path}")


def measure(_):
    """The figures of one backend, one array entry per seed."""
    found = [recovery(seed) for seed in SEEDS]
    draws = {f"scale_{scale:g}": gaussian(scale) for scale in SCALES}
    draws["not_normal"] = far_from_normal
    radii = {
        f"radius_{name}": [radius(draw, seed) for seed in SEEDS]
        for name, draw in draws.items()
    }
    return {
        "error": [error for error, _ in found],
        "partition_difference": [difference for _, difference in found],
        **radii,
        "smallest_radius": np.min(list(radii.values())),
    }


def recovery(seed):
    from keras import ops
    from orrery.layers import StreamingEDMD

    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(SIZE, SIZE))
    matrix *= RADIUS / np.abs(np.linalg.eigvals(matrix)).max()
    z = generator.normal(size=(SAMPLES, SIZE))
    pair = z.astype("float32"), (z @ matrix.T).astype("float32")
    uneven = np.sort(generator.choice(SAMPLES, size=16, replace=False))
    estimates = []
    for cuts in ([], np.arange(500, SAMPLES, 500), uneven):
        edmd = StreamingEDMD(forget=1.0)
        edmd.build((None, SIZE))
        parts = (np.split(array, cuts) for array in pair)
        for batch in zip(*parts, strict=True):
            edmd.update(*batch)
        estimates.append(ops.convert_to_numpy(edmd.solve()).astype("float64"))
    norm = np.linalg.norm(matrix)
    return (
        max(np.linalg.norm(k - matrix) for k in estimates) / norm,
        max(np.linalg.norm(k - estimates[0]) for k in estimates) / norm,
    )


def radius(draw, seed):
    from keras import ops
    from orrery.layers import KoopmanOperator

    operator = KoopmanOperator(16, operator="gradient", stable=True)
    operator.build((None, None, SIZE))
    generator = np.random.default_rng(seed)
    operator.kernel.assign(draw(operator.kernel.shape[0], generator))
    matrix = ops.convert_to_numpy(operator.matrix()).astype("float64")
    constant = SIZE
    for axis in (0, 1):
        matrix = np.delete(matrix, constant, axis)
    return np.abs(np.linalg.eigvals(matrix)).max()


def gaussian(scale):
    return lambda size, generator: scale * generator.normal(size=(size, size))


def far_from_normal(size, generator):
    left, right = (
        np.linalg.qr(generator.normal(size=(size, size)))[0] for _ in range(2)
    )
    basis = left * np.geomspace(1.0, CONDITION, size) @ right
    eigenvalues = generator.uniform(-1.5, 1.5, size)
    return basis * eigenvalues @ np.linalg.inv(basis)


if __name__ == "__main__":
    sys.exit(main())
