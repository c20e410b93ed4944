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

import argparse
import fnmatch
import importlib.util
import itertools
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _measure import results_file, run_task, spread, write_csv

TASK = Path(__file__).with_name("_train_step_task.py")
BACKENDS = ("jax", "tensorflow", "torch")
PACKAGES = ("keras", "jax", "torch", "tensorflow", "keras-hub")
# Largest difference of a loss, and of a weight relative to its array's largest.
TOLERANCE = 1e-4
SIZES = {
    "d64": {
        "model": {
            "vocabulary_size": 30_000,
            "dim": 64,
            "num_layers": 4,
            "num_heads": 4,
            "hidden_dim": 128,
        },
        "preset": None,
        "koopman": {"lift_dim": 128},
        "batch": 32,
        "length": 128,
        "dropout": 0.1,
        "threads": None,
    },
    "koopman_lm_small": {
        "model": {
            "vocabulary_size": 30_000,
            "dim": 112,
            "num_layers": 5,
            "num_heads": 4,
            "hidden_dim": 304,
        },
        "preset": "koopman_lm_small",
        "koopman": {"lift_dim": 128},
        "batch": 32,
        "length": 128,
        "dropout": 0.1,
        "threads": None,
    },
    "smoke": {
        "model": {
            "vocabulary_size": 300,
            "dim": 16,
            "num_layers": 4,
            "num_heads": 2,
            "hidden_dim": 24,
        },
        "preset": "koopman_lm_stdlib",
        "koopman": {"lift_dim": 8},
        "batch": 4,
        "length": 16,
        "dropout": 0.1,
        # A busy machine may run it: waiting threads would slow it manifold.
        "threads": 1,
    },
}


class Variant(NamedTuple):
    """One way to train one model."""

    model: str
    backend: str
    head: str
    compiled: str

    @property
    def name(self):
        return "-".join(self)

    @property
    def family(self):
        """Models of one family start from the same weights."""
        if self.model in ("peer", "base", "koopman"):
            return "koopman"
        return self.model.removesuffix("_base")


def all_variants(sizes, backends):
    """Every variant that is installed, the peers first."""
    variants = []
    if installed("torch"):
        heads = ["naive", "chunked"]
        import torch

        if hasattr(torch.nn.functional, "linear_cross_entropy"):
            heads.append("library")
        variants = [
            Variant("peer", "torch", head, compiled)
            for head in heads
            for compiled in ("eager", "compile")
        ]
    models = ["base-fused", "base-naive", "koopman-fused", "lstm-fused"]
    models += ["gpt2-default"] if installed("keras_hub") else []
    if sizes["preset"]:
        models += ["preset_base-fused", "preset-fused"]
    for backend, model in itertools.product(backends, models):
        name, head = model.split("-")
        variants.append(Variant(name, backend, head, "auto"))
        # Keras' LSTM does not compile with XLA on TensorFlow.
        if backend == "tensorflow" and name != "lstm":
            variants.append(Variant(name, backend, head, "xla"))
    return variants


def installed(package):
    return importlib.util.find_spec(package) is not None


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
    """Losses and weights of a few steps, against each family's first."""
    for family in sorted({variant.family for variant in variants}):
        head = "default" if family == "gpt2" else "fused"
        first = Variant(family, backends[0], head, "auto")
        task("prepare", first, sizes, folder)
    references, differences = {}, {}
    for variant in variants:
        losses = np.array(task("parity", variant, sizes, folder)["losses"])
        with np.load(folder / f"parity-{variant.name}.npz") as file:
            weights = dict(file)
        family = references.setdefault(variant.family, (losses, weights))
        weight = max(
            np.abs(weights[path] - array).max() / np.abs(array).max()
            for path, array in family[1].items()
            if path in weights
        )
        loss = np.abs(losses - family[0]).max()
        differences[variant] = float(loss), float(weight)
        print(f"{variant.name:36} loss {loss:.1e}  weights {weight:.1e}")
        if not max(loss, weight) < TOLERANCE:
            raise SystemExit(
                f"{variant.name} differs from the first of its family by "
                f"more than {TOLERANCE}: {losses} against {family[0]}"
            )
    return differences


def table_rows(name, measured, differences, overheads):
    """One dict per variant: medians, ratios to the peers, memory."""
    medians = {
        variant: statistics.median(pooled(runs, "steps"))
        for variant, runs in measured.items()
    }

    def peer(compiled, head):
        found = [
            median
            for variant, median in medians.items()
            if variant.model == "peer"
            and variant.compiled == compiled
            and head in (None, variant.head)
        ]
        return min(found, default=float("nan"))

    rows = []
    for variant, runs in measured.items():
        median, low, high = spread(pooled(runs, "steps"))
        loss, weight = differences[variant]
        over = spread(overheads[variant]) if variant in overheads else [""] * 3
        rows.append(
            {
                "size": name,
                **variant._asdict(),
                "parameters": runs[0]["parameters"],
                "step_s": median,
                "step_s_q1": low,
                "step_s_q3": high,
                "over_compiled_naive": median / peer("compile", "naive"),
                "over_compiled_best": median / peer("compile", None),
                "over_eager_naive": median / peer("eager", "naive"),
                "over_eager_best": median / peer("eager", None),
                "koopman_overhead": over[0],
                "koopman_overhead_q1": over[1],
                "koopman_overhead_q3": over[2],
                "first_step_s": statistics.median(r["first"] for r in runs),
                "steps": len(pooled(runs, "steps")),
                "processes": len(runs),
                "process_medians_s": " ".join(
                    f"{statistics.median(run['steps']):.4g}" for run in runs
                ),
                "peak_memory_mb": max(r["peak_memory"] for r in runs),
                "step_memory_mb": max(r["step_memory"] for r in runs),
                "device_memory_mb": runs[0]["device_memory"] or "",
                "loss_difference": loss,
                "weight_difference": weight,
                "load": max(run["load"] for run in runs),
            }
        )
    return rows


def pooled(runs, key):
    return [value for run in runs for value in run[key]]


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


def show(rows):
    print(
        f"\n{'':36} {'step s':>8} {'q1-q3':>14} {'compiled':>15} "
        f"{'eager':>15} {'MB':>6}\n"
        f"{'':60} {'naive':>8} {'best':>6} {'naive':>8} {'best':>6}"
    )
    for row in sorted(rows, key=lambda row: row["step_s"]):
        name = "-".join(row[key] for key in Variant._fields)
        quartiles = f"{row['step_s_q1']:.3f}-{row['step_s_q3']:.3f}"
        print(
            f"{name:36} {row['step_s']:8.3f} {quartiles:>14} "
            f"{row['over_compiled_naive']:8.2f} "
            f"{row['over_compiled_best']:6.2f} "
            f"{row['over_eager_naive']:8.2f} {row['over_eager_best']:6.2f} "
            f"{row['step_memory_mb']:6.0f}"
            + (
                f"  operators {row['koopman_overhead']:+.1%}"
                if row["koopman_overhead"] != ""
                else ""
            )
        )


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--backend", nargs="+", choices=BACKENDS, help="default: all installed")
    add("--size", choices=sorted(SIZES), default="d64", help="default: d64")
    add("--variants", nargs="+", default=["*"], help="patterns of names")
    add("--steps", type=int, default=30, help="timed steps of a process")
    add("--processes", type=int, default=3, help="processes of a variant")
    add("--out", type=Path, help="folder of the CSV; default: results/")
    add("--smoke", action="store_true", help="tiny models, no claims")
    arguments = parser.parse_args()
    for name in ("steps", "processes"):
        if getattr(arguments, name) < 1:
            parser.error(
                f"--{name} must be at least 1; got {getattr(arguments, name)}"
            )
    if arguments.smoke:
        arguments.size, arguments.processes = "smoke", 1
        arguments.steps = min(arguments.steps, 10)
        arguments.out = arguments.out or Path(tempfile.mkdtemp())
    present = [name for name in BACKENDS if installed(name)]
    arguments.backend = arguments.backend or present
    if missing := set(arguments.backend) - set(present):
        parser.error(f"--backend {' '.join(missing)}: not installed")
    return arguments


def main():
    arguments = parse()
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
    overheads = {}
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
            if variant.model in ("koopman", "preset"):
                run = task("overhead", variant, sizes, folder, arguments.steps)
                overheads.setdefault(variant, []).extend(
                    with_operators / without - 1
                    for without, with_operators in run["pairs"]
                )
        rows = table_rows(arguments.size, measured, differences, overheads)
        show(rows)
        write("train_step", rows, measured, arguments)
    print("\nMemory of head and loss, fused over naive:")
    if rows := measure_head(variants, sizes, folder):
        write("head_memory", rows, measured, arguments)


def write(what, rows, measured, arguments):
    """The CSV, its name with size, hardware and versions."""
    path = results_file(
        f"{what}_{arguments.size}",
        PACKAGES,
        arguments.out,
        next(iter(measured.values()))[0]["device"],
    )
    write_csv(path, rows)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
