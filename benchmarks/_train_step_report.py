"""The table of `train_step.py`: medians, ratios to the peers, memory."""

import statistics

from _measure import results_file, spread, write_csv
from _train_step_variants import Variant

PACKAGES = ("keras", "jax", "torch", "tensorflow", "keras-hub")


def table_rows(name, measured, differences):
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
        )


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
