"""The training step, side by side: Keras on three backends, plain PyTorch.

    python benchmarks/train_step.py                      everything: hours
    python benchmarks/train_step.py --variants 'peer-*' 'base-*'
    python benchmarks/train_step.py --smoke              minutes, tiny models

Models: `base` (KoopmanLM with attention), `koopman` (the same with operators
at work), `preset` and `preset_base` (the published model with and without its
operators), `lstm`, `gpt2` (keras_hub), and `peer`, the attention model by hand
in PyTorch. Heads: `fused` (ours), `naive` (all logits, the backend's own
cross-entropy), `default` (Keras' SparseCategoricalCrossentropy), and the
peer's `chunked` (ours by hand) and `library` (`F.linear_cross_entropy`).

Every measurement is a process of its own, with the same initial weights and
batches. First the losses and weights of a few steps must agree; then come
`--processes` rounds in random order. A step is all that `fit` does from one
batch to the next, or the whole loop of the peer. The result is a table of
ratios and a CSV under `results/`.
"""

import fnmatch
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

import _train_step_flags
import numpy as np
from _measure import run_task
from _train_step_flags import Count
from _train_step_report import show, table_rows, write
from _train_step_variants import SIZES, Variant, all_variants

TASK = Path(__file__).with_name("_train_step_task.py")
COUNTS = {
    "steps": Count(30, 10, "timed steps of a process"),
    "processes": Count(3, 1, "processes of a variant"),
}
# Largest difference of a loss, and of a weight relative to its array's largest.
TOLERANCE = 1e-4
# It shifts all scores of a query alike, so its gradient is rounding, which
# Adam scales up to a whole step.
WITHOUT_GRADIENT = "*key/bias"


def task(kind, variant, sizes, folder, steps=0):
    """Run one task in its own process."""
    return run_task(
        TASK,
        {
            "kind": kind,
            "name": variant.name,
            "variant": variant._asdict(),
            "sizes": sizes,
            "folder": str(folder),
            "steps": steps,
        },
        backend=variant.backend,
        threads=sizes["threads"],
    )


def check_parity(variants, sizes, folder, backends):
    """Losses and weights of a few steps, against the first alike."""
    for family in sorted({variant.family for variant in variants}):
        head = "default" if family == "gpt2" else "fused"
        first = Variant(family, backends[0], head, "auto")
        task("prepare", first, sizes, folder)
    references, differences = {}, {}
    for variant in variants:
        losses = np.array(task("parity", variant, sizes, folder)["losses"])
        with np.load(folder / f"parity-{variant.name}.npz") as file:
            weights = dict(file)
        reference = references.setdefault(
            variant.mathematics, (losses, weights)
        )
        weight = max(
            np.abs(weights[path] - array).max() / np.abs(array).max()
            for path, array in reference[1].items()
            if path in weights and not fnmatch.fnmatch(path, WITHOUT_GRADIENT)
        )
        loss = np.abs(losses - reference[0]).max()
        differences[variant] = float(loss), float(weight)
        print(
            f"{variant.name:36} loss {loss:.1e}  weights {weight:.1e}",
            flush=True,
        )
        if not max(loss, weight) < TOLERANCE:
            raise SystemExit(
                f"{variant.name} differs from {variant.mathematics} by more "
                f"than {TOLERANCE}: losses {losses} against {reference[0]}"
            )
    return differences


def measure_head(variants, sizes, folder):
    """Peak memory of head and loss alone, naive and fused."""
    ways = {(v.backend, v.compiled) for v in variants if v.model == "base"}
    rows = []
    for backend, compiled in sorted(ways):
        memory = {}
        for head in ("naive", "fused"):
            variant = Variant("head", backend, head, compiled)
            result = task("head_memory", variant, sizes, folder)
            memory[head] = result["device_memory"] or result["memory"]
        rows.append(
            {
                "backend": backend,
                "compiled": compiled,
                "naive_mb": memory["naive"],
                "fused_mb": memory["fused"],
                "fused_over_naive": memory["fused"] / (memory["naive"] or 1),
            }
        )
        ratio = rows[-1]["fused_over_naive"]
        print(f"{backend:11} {compiled:5} {ratio:.3f}")
    return rows


def main():
    flags = _train_step_flags.parser(__doc__, COUNTS)
    flags.add_argument(
        "--variants", nargs="+", default=["*"], help="patterns of names"
    )
    arguments = _train_step_flags.parse(flags, COUNTS)
    sizes = SIZES[arguments.size]
    variants = [
        variant
        for variant in all_variants(sizes, arguments.backend)
        if any(fnmatch.fnmatch(variant.name, p) for p in arguments.variants)
    ]
    if not variants:
        names = [v.name for v in all_variants(sizes, arguments.backend)]
        sys.exit(f"--variants must match one of {', '.join(names)}")
    load = os.getloadavg()[0]
    if load > 0.3 * os.cpu_count():
        print(f"The machine is busy (load {load:.1f}): the times will be off.")
    with tempfile.TemporaryDirectory() as folder:
        measure(variants, sizes, Path(folder), arguments)


def measure(variants, sizes, folder, arguments):
    """Parity, then the rounds; the CSV is written anew after each."""
    print("Differences after a few steps:")
    differences = check_parity(variants, sizes, folder, arguments.backend)
    measured = {variant: [] for variant in variants}
    order = random.Random(0)
    for turn in range(arguments.processes):
        for variant in order.sample(variants, len(variants)):
            run = task("timing", variant, sizes, folder, arguments.steps)
            measured[variant].append(run)
            print(
                f"{turn + 1}/{arguments.processes} {variant.name:36} "
                f"{statistics.median(run['steps']):.3f} s",
                flush=True,
            )
        rows = table_rows(arguments.size, measured, differences)
        show(rows)
        write("train_step", rows, measured, arguments)
    print("\nMemory of head and loss, fused over naive:")
    if rows := measure_head(variants, sizes, folder):
        write("head_memory", rows, measured, arguments)


if __name__ == "__main__":
    main()
