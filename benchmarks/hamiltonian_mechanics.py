"""Four systems, every arm, several seeds: who predicts, who keeps the energy.

    python benchmarks/hamiltonian_mechanics.py

What `recipes/hamiltonian_mechanics.py` does, for spring, pendulum, Kepler and
Henon-Heiles, and for a pendulum seen in steps five times as long, with the same
number of epochs everywhere. A seed is that of the weights and of the training
trajectories; the test trajectories are always the same. Three tables: every
run; medians over the seeds with the smallest and the largest value; and each
arm against the first, paired by seed, as the geometric mean of the ratios with
its 95 % t interval. Two hours on one core with JAX. Runs are resumable: start
the script again after an interruption.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

# System and time between two points.
CASES = {
    "spring": ("spring", 0.1),
    "pendulum": ("pendulum", 0.1),
    "henon_heiles": ("henon_heiles", 0.1),
    "kepler": ("kepler", 0.1),
    "pendulum, long steps": ("pendulum", 0.5),
}
# A symmetry that is known and can be given to the potential.
MORE_ARMS = {"kepler": ["radial"]}
OURS = "hamiltonian"
MEASURES = {
    "valid_rmse": ("valid_rmse",),
    "position_10": ("position_error", "10"),
    "position_100": ("position_error", "100"),
    "position_1000": ("position_error", "1000"),
    "energy_error": ("energy_error",),
    "energy_error_median": ("energy_error_median",),
    "steady": ("steady",),
    "trend_over_oscillation": ("trend_over_oscillation",),
    "growth": ("growth",),
    "reach": ("reach",),
}
PAIRED = ("position_10", "position_100", "position_1000", "energy_error")


@_command_line.plain_errors
def main(argv=None):
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--backend", default="jax")
    flags.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    flags.add_argument("--epochs", type=int, default=50)
    flags.add_argument("--seeds", type=int, default=3, help="2 or more")
    flags.add_argument("--runs", type=pathlib.Path, help="folder of the runs")
    flags.add_argument(
        "--smoke", action="store_true", help="a few steps of everything"
    )
    arguments = flags.parse_args(argv)
    if arguments.seeds < 2:
        flags.error(f"--seeds must be at least 2; got {arguments.seeds}")
    root = arguments.runs or pathlib.Path(
        f"runs/mechanics-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    rows = []
    for seed in range(arguments.seeds):
        for case in arguments.cases:
            rows += run(case, seed, root, arguments)
            write(rows, arguments, root if arguments.smoke else None)


def run(case, seed, root, arguments):
    """The arms of one case and seed, a row each; done before is not again."""
    import hamiltonian_mechanics as recipe

    system, step_size = CASES[case]
    folder = root / f"{system}-{step_size}-{arguments.epochs}-epochs-{seed}"
    flags = ["--system", system, "--seed", seed, "--out", folder, "--resume"]
    flags += ["--backend", arguments.backend, "--step-size", step_size]
    flags += ["--epochs", arguments.epochs]
    flags += ["--smoke"] if arguments.smoke else []
    flags += ["--arms", *recipe.DEFAULT_ARMS, *MORE_ARMS.get(system, [])]
    settings = recipe.command_line(list(map(str, flags)))

    # Only now that the flags have chosen the backend.
    import keras
    from _mechanics_experiment import run as experiment

    found = {}
    if (folder / "report.md").exists():
        metrics = (folder / "metrics.json").read_text(encoding="utf-8")
        found = json.loads(metrics)["arms"]
    if set(found) != set(settings.arms):
        print(f"\n##### {case}, seed {seed}", flush=True)
        experiment(settings)
        keras.utils.clear_session()
        metrics = (folder / "metrics.json").read_text(encoding="utf-8")
        found = json.loads(metrics)["arms"]
    return [
        {
            "case": case,
            "arm": arm,
            "seed": seed,
            "epochs": settings.epochs,
            "weights": result["parameters"],
            **{name: look_up(result, path) for name, path in MEASURES.items()},
            "seconds": result["seconds"],
        }
        for arm, result in found.items()
    ]


def look_up(result, path):
    for key in path:
        result = result.get(key, "") if isinstance(result, dict) else ""
    return float(result) if result != "" else ""


def write(rows, arguments, folder):
    """All tables, anew after every case."""
    from _measure import results_file, write_csv

    for what, content in (
        ("hamiltonian_mechanics", rows),
        ("mechanics_seeds", summary(rows)),
        ("mechanics_paired", paired(rows)),
    ):
        if not content:
            continue
        path = results_file(what, ["keras", arguments.backend], folder)
        write_csv(path, content)
        print(f"Wrote {path}", flush=True)


def groups(rows):
    """The runs of every case and arm, in the order of the seeds."""
    found = {}
    for row in rows:
        found.setdefault((row["case"], row["arm"]), []).append(row)
    return found


def summary(rows):
    """For each case and arm the median over the seeds, and the range."""
    found = []
    for (case, arm), group in groups(rows).items():
        row = {
            "case": case,
            "arm": arm,
            "seeds": len(group),
            "weights": group[0]["weights"],
        }
        for name in MEASURES:
            values = [r[name] for r in group if r[name] != ""]
            row[name] = float(statistics.median(values)) if values else ""
            row[f"{name}_range"] = (
                f"{min(values):.3g} to {max(values):.3g}" if values else ""
            )
        found.append(row)
    return found


def paired(rows):
    """How many times the error of the first arm every other one has."""
    runs, found = groups(rows), []
    for (case, arm), group in runs.items():
        ours = runs[case, OURS][: len(group)]
        if arm == OURS or len(group) < 2:
            continue
        row = {"case": case, "arm": arm, "seeds": len(group)}
        for name in PAIRED:
            logarithms = [
                math.log(theirs[name] / own[name])
                for theirs, own in zip(group, ours, strict=True)
                if name in theirs and theirs[name] != ""
            ]
            row[f"{name}_ratio"], row[f"{name}_interval_95"] = interval(
                logarithms
            )
        found.append(row)
    return found


def interval(logarithms):
    """Geometric mean and 95 % t interval; infinite where a run diverged."""
    if not logarithms or not all(map(math.isfinite, logarithms)):
        return (math.inf if logarithms else ""), ""
    from _measure import half_width

    mean, half = statistics.mean(logarithms), half_width(logarithms)
    low, high = math.exp(mean - half), math.exp(mean + half)
    return math.exp(mean), f"{low:.3g} to {high:.3g}"


if __name__ == "__main__":
    main()
