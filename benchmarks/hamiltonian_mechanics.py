"""Four systems, every arm, several seeds: who predicts, who keeps the energy.

    python benchmarks/hamiltonian_mechanics.py

What `recipes/hamiltonian_mechanics.py` does, for pendulum, spring, Kepler and
Henon-Heiles and for each seed (of the weights and of the training
trajectories; the test trajectories are always the same). One table has every
run, the other medians over the seeds with the smallest and the largest value.
Runs are resumable: start the script again after an interruption.
"""

import argparse
import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

SYSTEMS = ("spring", "pendulum", "henon_heiles", "kepler")
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


@_command_line.plain_errors
def main(argv=None):
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--backend", default="jax")
    flags.add_argument("--systems", nargs="+", default=SYSTEMS)
    flags.add_argument("--seeds", type=int, default=3)
    flags.add_argument("--runs", type=pathlib.Path, help="folder of the runs")
    flags.add_argument(
        "--smoke", action="store_true", help="a few steps of everything"
    )
    arguments = flags.parse_args(argv)
    if arguments.seeds < 1:
        flags.error(f"--seeds must be at least 1; got {arguments.seeds}")
    root = arguments.runs or pathlib.Path(
        f"runs/mechanics-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    rows = []
    for seed in range(arguments.seeds):
        for system in arguments.systems:
            rows += run(system, seed, root, arguments)
            write(rows, arguments)


def run(system, seed, root, arguments):
    """The arms of one system and seed, a row each; done before is not again."""
    import hamiltonian_mechanics as recipe
    import keras
    from _mechanics_experiment import run as experiment

    folder = root / f"{system}-{seed}"
    flags = ["--system", system, "--seed", seed, "--out", folder, "--resume"]
    flags += ["--backend", arguments.backend]
    flags += ["--smoke"] if arguments.smoke else []
    settings = recipe.command_line(list(map(str, flags)))
    found = {}
    if (folder / "report.md").exists():
        metrics = (folder / "metrics.json").read_text(encoding="utf-8")
        found = json.loads(metrics)["arms"]
    if set(found) != set(settings.arms):
        print(f"\n##### {system}, seed {seed}", flush=True)
        experiment(settings)
        keras.utils.clear_session()
        metrics = (folder / "metrics.json").read_text(encoding="utf-8")
        found = json.loads(metrics)["arms"]
    return [
        {
            "system": system,
            "arm": arm,
            "seed": seed,
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


def write(rows, arguments):
    """Both tables, anew after every system."""
    from _measure import results_file, write_csv

    for what, content in (
        ("mechanics_runs", rows),
        ("mechanics_seeds", summary(rows)),
    ):
        path = results_file(
            what,
            ["keras", arguments.backend],
            pathlib.Path(".") if arguments.smoke else None,
        )
        write_csv(path, content)
        print(f"Wrote {path}", flush=True)


def summary(rows):
    """For each system and arm the median over the seeds, and the range."""
    found = []
    for system, arm in dict.fromkeys((r["system"], r["arm"]) for r in rows):
        group = [r for r in rows if (r["system"], r["arm"]) == (system, arm)]
        row = {
            "system": system,
            "arm": arm,
            "seeds": len(group),
            "weights": group[0]["weights"],
        }
        for name in MEASURES:
            values = [r[name] for r in group if r[name] != ""]
            if not values:
                row[name] = row[f"{name}_range"] = ""
                continue
            row[name] = float(statistics.median(values))
            row[f"{name}_range"] = f"{min(values):.3g} to {max(values):.3g}"
        found.append(row)
    return found


if __name__ == "__main__":
    main()
