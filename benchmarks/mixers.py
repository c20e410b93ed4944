"""Time and memory of the sequence mixers by length, against attention.

    python benchmarks/mixers.py --backend jax      an hour on two cores
    python benchmarks/mixers.py --smoke            minutes, short sequences

Forward and backward pass, with respect to weights and input, of one sequence
of width 64 in float32: `attention` (causal, 4 heads), the same on Keras' fused
operation (`-fused`, which the layer itself uses but on JAX's CPU) and in plain
PyTorch (`-peer`), `recurrence`, and `resolvent` with the gradient in closed
form or by `-autodiff`. JAX and TensorFlow are compiled, PyTorch runs eagerly.

Parity comes first, then three rounds of fresh processes with mixers and
lengths in random order, then a process each for memory: what a step needs
beyond its input and the weights (on JAX as its compiler has planned it). The
result is a table and a CSV under `results/`, with the exponent of time in
length from 1,024 on, and the length from which a mixer is ahead of its
backend's fused attention, and of the peer.
"""

import argparse
import importlib.util
import itertools
import os
import random
from pathlib import Path

import numpy as np
from _measure import results_file, run_task, spread, write_csv

TASK = Path(__file__).with_name("_mixers_task.py")
BACKENDS = ("jax", "torch", "tensorflow")
MIXERS = (
    "attention",
    "attention-fused",
    "resolvent",
    "resolvent-autodiff",
    "recurrence",
)
PEER = "attention-peer"
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
ROUNDS = 3
# Largest difference of a gradient relative to its array's largest.
TOLERANCE = 1e-4


def run(kind, mixer, backend, **arguments):
    """One task in the process that a mixer needs."""
    backend = "torch" if mixer == PEER else backend
    return run_task(TASK, {"kind": kind, **arguments}, backend)


def check_parity(mixers, backend):
    """Two ways to the same gradient must agree before they are timed."""
    pairs = [
        ("resolvent", "resolvent-autodiff"),
        ("attention", "attention-fused"),
    ]
    if PEER in mixers:
        pairs.append(("attention", PEER))
    for first, second in pairs:
        result = run(
            "parity", second, backend, first=first, second=second, length=200
        )
        print(f"{first} and {second} differ by {result['difference']:.1e}")
        if not result["difference"] < TOLERANCE:
            raise RuntimeError(
                f"{first} and {second} differ by {result['difference']:.3g}, "
                f"which is more than {TOLERANCE}"
            )


def measure_times(mixers, lengths, steps, backend):
    """Rounds of `first` and `steps` in seconds, by (mixer, length)."""
    measured = {cell: [] for cell in itertools.product(mixers, lengths)}
    order = random.Random(0)
    accelerator = None
    for turn in range(ROUNDS):
        for mixer in (backend, PEER):
            # The peer shares no process with the mixers of any backend.
            cells = [c for c in measured if (c[0] == PEER) == (mixer == PEER)]
            if not cells:
                continue
            cells = order.sample(cells, len(cells))
            result = run(
                "timing", mixer, backend, cells=cells, steps=-(-steps // ROUNDS)
            )
            accelerator = accelerator or result["device"]
            for cell, times in zip(cells, result["cells"], strict=True):
                measured[cell].append(times)
        print(f"round {turn + 1} of {ROUNDS} done", flush=True)
    return measured, accelerator


def table_rows(measured, backend):
    """One row per mixer and length: quartiles, memory, exponent, crossings."""
    # Large arrays leave the resident memory when they are freed.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    rows, curves = [], {}
    for (mixer, length), rounds in measured.items():
        seconds = spread(t for result in rounds for t in result["steps"])
        curves.setdefault(mixer, {})[length] = seconds[0]
        memory = run("memory", mixer, backend, name=mixer, length=length)
        rows.append(
            {
                "mixer": mixer,
                "backend": "torch" if mixer == PEER else backend,
                "length": length,
                **dict(zip(("median", "low", "high"), seconds, strict=True)),
                "first_call": spread(r["first"] for r in rounds)[0],
                "megabytes": memory["megabytes"],
            }
        )
    for row in rows:
        curve = curves[row["mixer"]]
        row["exponent"] = exponent(curve)
        row["ahead_of_fused"] = crossing(curve, curves["attention-fused"])
        row["ahead_of_peer"] = crossing(curve, curves.get(PEER))
    return rows


def exponent(curve):
    """Slope of log time in log length, from 1,024 tokens on."""
    points = [(n, t) for n, t in curve.items() if n >= 1024]
    if len(points) < 2:
        return None
    return float(np.polyfit(*np.log(points).T, 1)[0])


def crossing(curve, other):
    """Length from which on `curve` is below, by power laws in between."""
    if other is None or curve is other:
        return None
    lengths = sorted(curve)
    gaps = [np.log(curve[n] / other[n]) for n in lengths]
    if gaps[-1] >= 0:
        return None
    behind = [i for i, gap in enumerate(gaps) if gap >= 0]
    if not behind:
        return lengths[0]
    i = behind[-1]
    weight = gaps[i] / (gaps[i] - gaps[i + 1])
    return round(lengths[i] * (lengths[i + 1] / lengths[i]) ** weight)


def show(rows):
    """Milliseconds and megabytes by length, then what the rows have in sum."""
    lengths = sorted({row["length"] for row in rows})
    print(f"{'':20}" + "".join(f"{n:>9}" for n in lengths))
    for mixer, group in itertools.groupby(rows, lambda row: row["mixer"]):
        group = list(group)
        for label, key, scale in (
            (mixer, "median", 1e3),
            ("  MB", "megabytes", 1.0),
        ):
            values = (row[key] for row in group)
            print(
                f"{label:20}"
                + "".join(
                    f"{'-':>9}" if v is None else f"{v * scale:9.1f}"
                    for v in values
                )
            )
        last = group[-1]
        print(
            f"{'':20}exponent {last['exponent'] or float('nan'):.2f}, ahead of "
            f"fused attention from {last['ahead_of_fused'] or '-'}, of the "
            f"peer from {last['ahead_of_peer'] or '-'}"
        )


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--backend",
        choices=[name for name in BACKENDS if importlib.util.find_spec(name)],
        default=os.environ.get("KERAS_BACKEND", "jax"),
        help="what Keras runs on (default: KERAS_BACKEND, else jax)",
    )
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=LENGTHS,
        help="tokens (default: 128 to 8192)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=30,
        help="timed steps per mixer and length, in three rounds (default: 30)",
    )
    parser.add_argument(
        "--out", help="folder of the CSV (default: results/)", default=None
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="two short lengths, three steps; writes no CSV without --out",
    )
    arguments = parser.parse_args()
    if min(arguments.lengths) < 1 or arguments.repeats < 1:
        parser.error("--lengths and --repeats must be positive")
    return arguments


def main():
    arguments = parse()
    if arguments.smoke:
        arguments.lengths, arguments.repeats = (128, 300), 3
    load = os.getloadavg()[0]
    if load > 0.3 * os.cpu_count():
        print(f"The machine is busy (load {load:.1f}): the times will be off.")
    has_peer = importlib.util.find_spec("torch") is not None
    mixers = (*MIXERS, PEER) if has_peer else MIXERS
    check_parity(mixers, arguments.backend)
    measured, accelerator = measure_times(
        mixers, arguments.lengths, arguments.repeats, arguments.backend
    )
    rows = table_rows(measured, arguments.backend)
    show(rows)
    if arguments.out or not arguments.smoke:
        path = results_file(
            f"mixers-{arguments.backend}",
            ("keras", arguments.backend),
            arguments.out,
            accelerator,
        )
        write_csv(path, rows)
        print(f"Wrote {path}")


if __name__ == "__main__":
    main()
