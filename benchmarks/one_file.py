"""One `.keras` file on every backend: its logits, and how it trains on.

    python benchmarks/one_file.py [NAME ...]

For each saved model: the largest difference between any two backends of the
logits, and of the weights after five training steps at a rate of 1e-3 by SGD
and by AdamW on one batch with dropout off (random streams differ by backend),
the Koopman loss included. Weights are compared relative to their array's
largest entry. A weight that did not move ends the run.
"""

import argparse
import sys
import tempfile

import keras
import numpy as np
import orrery
from _measure import results_file, write_csv
from orrery.testing.cross_backend import compare_backends, updated_weights
from orrery.zoo.registry import find

BATCH, LENGTH, STEPS, RATE = 4, 32, 5, 1e-3


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument(
        "names", nargs="*", help="saved language models; all if none"
    )
    flags.add_argument("--out", help="folder of the CSV, not results/")
    arguments = flags.parse_args()
    rows = []
    for name in arguments.names or orrery.list_models("*_lm_*"):
        rows.append({"model": name, **measure(find(name) / "model.keras")})
        print(rows[-1], flush=True)
    packages = ["keras", "jax", "torch", "tensorflow"]
    path = results_file("one_file", packages, arguments.out)
    write_csv(path, rows)
    print(f"Wrote {path}")


def measure(path):
    def differences(run):
        with tempfile.TemporaryDirectory() as folder:
            return compare_backends(__file__, folder, build=path, run=run)

    row = {"logits": differences("logits")["logits"].absolute}
    for run in ("sgd", "adamw"):
        found = differences(run)
        row[f"{run}_losses"] = found.pop("losses").absolute
        row[f"{run}_weights"] = max(d.relative for d in found.values())
    return row


def logits(path):
    model = orrery.load(path)
    return {"logits": keras.ops.convert_to_numpy(model(tokens(model)[0]))}


def sgd(path):
    return trained(path, keras.optimizers.SGD(RATE))


def adamw(path):
    return trained(path, keras.optimizers.AdamW(RATE))


def trained(path, optimizer):
    model = orrery.load(path)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    x, y = tokens(model)
    return updated_weights(
        model, optimizer, {"tokens": x, "targets": y}, y, steps=STEPS
    )


def tokens(model):
    generator = np.random.default_rng(0)
    shape = BATCH, LENGTH + 1
    ids = generator.integers(0, model.vocabulary_size, shape).astype("int32")
    return ids[:, :-1], ids[:, 1:]


if __name__ == "__main__":
    sys.exit(main())
