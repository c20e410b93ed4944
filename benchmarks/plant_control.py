"""The wastewater plant under a Koopman model, beside its own controllers.

    python benchmarks/plant_control.py              an hour on a core
    python benchmarks/plant_control.py --smoke

Two weeks of each weather, the second judged. `PI` is the benchmark's control,
`PI, retuned` the same at the set-points of the MPC. `MPC` is `KoopmanMPC` with
its defaults, which were fixed on generated weather; a KoVAE of the preset
`lean` forecasts for it, 2,000 steps on episodes of varied dry and rainy weeks,
those without controllers (`open loop`) or all of them (`all`). `flow`: what it
takes for the flow to come, that of the day before, scaled, the last one
(`held`), or what will come (`known`). `EQI over PI` and `OCI over PI` in per
cent, mean over models with its 95 % t interval in the rows `mean`.

Needs the benchmark's influent files in ORRERY_DATA_DIR.
"""

import argparse
import os
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

WEATHERS = (
    "generated",
    "generated_rain",
    "generated_storm",
    "dry",
    "rain",
    "storm",
)
STEPS, DAYS = 2000, 14.0
SMOKE_STEPS, SMOKE_DAYS = 2, 1.0
KEPT = ("EQI", "OCI", "AE", "PE", "SP", "above SNH", "above TN")


@_command_line.plain_errors
def main(argv=None):
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = flags.add_argument
    add("--backend", default="jax", help="of the models")
    add("--seeds", type=int, default=3, help="models of each kind, 2 or more")
    add("--models", type=pathlib.Path, help="folder to keep models in")
    add("--out", type=pathlib.Path, help="folder of the CSV, not results/")
    add("--smoke", action="store_true", help="two steps, generated weather")
    arguments = flags.parse_args(argv)
    if arguments.seeds < 2:
        flags.error(f"--seeds must be at least 2; got {arguments.seeds}")
    os.environ["KERAS_BACKEND"] = arguments.backend
    from _measure import results_file, write_csv

    path = results_file(
        "plant_control",
        ["keras", arguments.backend],
        arguments.out,
        smoke=arguments.smoke,
    )
    rows = []
    for found in experiment(arguments):
        rows.append(found)
        print(found, flush=True)
        write_csv(path, rows + means(rows))
    print(f"Wrote {path}")


def experiment(arguments):
    """Yields a row of each weather and controller."""
    import numpy as np
    from _mpc_experiment import FLOWS, SETPOINTS, control, season, weather_of
    from orrery.datasets import BSM1Plant, plant_performance, simulate_plant
    from orrery.zoo.koopman_mpc import SETPOINTS as MPC_SETPOINTS
    from orrery.zoo.koopman_mpc import KoopmanMPC

    plant = BSM1Plant()
    days = SMOKE_DAYS if arguments.smoke else DAYS
    start = season(plant, 2.0 if arguments.smoke else 7.0)
    weathers = WEATHERS[:1] if arguments.smoke else WEATHERS
    inputs = {name: weather_of(name, days) for name in weathers}
    peers = {}

    def row(weather, name, run, seconds=(), **model):
        found = plant_performance(plant, run, days / 2, days)
        peers.setdefault(weather, found)
        of = peers[weather]
        shown = {"trained_on": "", "flow": "", "seed": "", **model}
        shown |= {key.replace(" ", "_"): found[key] for key in KEPT}
        for key in ("EQI", "OCI"):
            shown[f"{key}_over_PI"] = 100 * (found[key] / of[key] - 1)
            shown[f"{key}_interval_95"] = ""
        for key, share in (("median", 0.5), ("99", 0.99)):
            shown[f"step_ms_{key}"] = (
                float(1e3 * np.quantile(seconds, share)) if seconds else ""
            )
        return {"weather": weather, "control": name, **shown}

    for weather, influent in inputs.items():
        for name, held in (("PI", SETPOINTS), ("PI, retuned", MPC_SETPOINTS)):
            run = simulate_plant(plant, start, influent, setpoints=held)
            yield row(weather, name, run)
    for kind, seed, model in models(arguments):
        told = {"trained_on": kind, "seed": seed}
        for flow in FLOWS if kind == "open loop" else ("daily",):
            for weather, influent in inputs.items():
                run, seconds = control(
                    plant, start, influent, KoopmanMPC(model), flow
                )
                yield row(weather, "MPC", run, seconds, flow=flow, **told)


def models(arguments):
    """Yields what each model was trained on, its seed, and the model."""
    import orrery
    from _forecast_data import simulated
    from _mpc_experiment import open_loop, trained
    from orrery.datasets import load_plant_data

    size = ("small", "generated") if arguments.smoke else ("full", "recorded")
    everything = load_plant_data("measured", *size, progress=simulated)
    for kind in ("open loop", "all"):
        data = open_loop(everything) if kind == "open loop" else everything
        for seed in range(arguments.seeds):
            kept = None
            if arguments.models is not None:
                arguments.models.mkdir(parents=True, exist_ok=True)
                name = f"{kind.replace(' ', '_')}-{seed}.keras"
                kept = arguments.models / name
            if kept is not None and kept.exists():
                model = orrery.load(kept)
            else:
                steps = SMOKE_STEPS if arguments.smoke else STEPS
                model, _ = trained("KoVAE", data, seed, steps)
                if kept is not None:
                    model.save(kept)
            yield kind, seed, model


def means(rows):
    """Of the models of a kind, where there are several, and intervals."""
    from _measure import half_width

    kinds = {}
    for row in rows:
        if row["trained_on"]:
            key = row["weather"], row["trained_on"], row["flow"]
            kinds.setdefault(key, []).append(row)
    out = []
    for own in kinds.values():
        if len(own) < 2:
            continue
        mean = {**own[0], "seed": "mean"}
        for key, value in own[0].items():
            if isinstance(value, float):
                mean[key] = statistics.mean(row[key] for row in own)
        for key in ("EQI", "OCI"):
            half = half_width([row[f"{key}_over_PI"] for row in own])
            centre = mean[f"{key}_over_PI"]
            ends = f"[{centre - half:+.2f}, {centre + half:+.2f}]"
            mean[f"{key}_interval_95"] = ends
        out.append(mean)
    return out


if __name__ == "__main__":
    main()
