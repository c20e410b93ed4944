"""The wastewater plant: its indices, its balances, and the time it takes.

    python benchmarks/bsm1_plant.py                         minutes on a core
    python benchmarks/bsm1_plant.py --peer PYTHON           beside bsm2-python

- `bsm1_indices`: two weeks of each recorded weather under the benchmark's
  controllers, after 150 days of constant load and two weeks of dry weather
  under them, for both bounds of oxygen transfer that are in use (240 and 360
  1/d); indices of the second week, and published ones beside them, which depend
  on the sensors taken: ours are ideal.
- `bsm1_balances`: what is missing of each balance after two days.
- `bsm1_episodes`: two weeks of dry weather in open loop, seconds of three runs
  that take turns, and the largest error of the effluent, over the largest value
  of each component, against a run at a tolerance of 1e-10. The peer is
  bsm2-python (`pip install bsm2-python` in an environment of its own), which
  holds the influent from row to row where ours follows a line: its error is
  measured against a run of ours, at a tolerance of 1e-8, that holds it as well.

Needs the benchmark's influent files in ORRERY_DATA_DIR.
"""

import argparse
import dataclasses
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from _measure import results_file, write_csv
from orrery.datasets.bsm1 import (
    CONSTANT_INFLUENT,
    OPEN_LOOP,
    BSM1Plant,
    split,
)
from orrery.datasets.influent import PER_DAY, load_influent
from orrery.datasets.mass_balance import balance_errors
from orrery.datasets.plant_control import NITRATE, OXYGEN, ControlledPlant
from orrery.datasets.plant_performance import plant_performance
from orrery.datasets.plant_simulation import simulate_plant
from orrery.datasets.stiff_path import stiff_path

SETPOINTS = (2.0, 1.0)
# EQI and OCI of the benchmark's own controllers, second hand.
PUBLISHED = {
    "dry": (6115, 16_382),
    "rain": (8175, 15_985),
    "storm": (7211, 17_254),
}
BOUNDS = (240.0, 360.0)
REPEATS = 3


def main(argv=None):
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--peer", help="a Python that has bsm2-python")
    flags.add_argument("--data-dir", help="folder of downloaded data files")
    flags.add_argument("--out", help="folder of the CSVs, not results/")
    flags.add_argument("--smoke", action="store_true", help="an hour of each")
    arguments = flags.parse_args(argv)
    days = 1 / 24 if arguments.smoke else 14
    plant = BSM1Plant()

    def write(what, rows):
        packages = ["numpy", "scipy"]
        path = results_file(
            what, packages, arguments.out, smoke=arguments.smoke
        )
        write_csv(path, rows)
        print(f"Wrote {path}", flush=True)

    write("bsm1_balances", balances(plant, days / 7, arguments.data_dir))
    write("bsm1_indices", list(indices(plant, days, arguments)))
    write("bsm1_episodes", episodes(plant, days, arguments))


def indices(plant, days, arguments):
    for bound in BOUNDS:
        controllers = (dataclasses.replace(OXYGEN, high=bound), NITRATE)
        start = closed_loop_rest(plant, controllers)
        dry = load_influent("dry", arguments.data_dir)
        dry = dry[: round(days * PER_DAY) + 1]
        for weather, (eqi, oci) in PUBLISHED.items():
            influent = load_influent(weather, arguments.data_dir)
            influent = np.concatenate([dry[:-1], influent[: len(dry)]])
            run = simulate_plant(
                plant,
                start,
                influent,
                setpoints=np.array(SETPOINTS),
                controllers=controllers,
            )
            found = plant_performance(plant, run, 1.5 * days, 2 * days)
            yield {
                "weather": weather,
                "largest KLa5": bound,
                **{name: round(value, 4) for name, value in found.items()},
                "published EQI": eqi,
                "published OCI": oci,
                "EQI, % off": round(100 * (found["EQI"] / eqi - 1), 2),
                "OCI, % off": round(100 * (found["OCI"] / oci - 1), 2),
            }
            print(weather, bound, found, flush=True)


def closed_loop_rest(plant, controllers):
    """The plant's state after 150 days of constant load under control."""
    both = ControlledPlant(plant, controllers)
    return stiff_path(
        lambda _, y: both.rate(y, SETPOINTS, CONSTANT_INFLUENT),
        lambda _, y: both.jacobian(y, SETPOINTS, CONSTANT_INFLUENT),
        both.start(plant.steady_state(), OPEN_LOOP, SETPOINTS),
        (0.0, 150.0),
    )[-1][:145]


def balances(plant, days, data_dir):
    weather = load_influent("dry", data_dir)

    def influent(time):
        row = min(int(time * PER_DAY), len(weather) - 2)
        part = time * PER_DAY - row
        return weather[row] + part * (weather[row + 1] - weather[row])

    errors = balance_errors(
        plant, plant.steady_state(), np.array([140.0, 30_000.0]), influent, days
    )
    return [
        {"balance": name, "missing": f"{error:.2e}", "days": days}
        for name, error in errors.items()
    ]


def episodes(plant, days, arguments):
    influent = load_influent("dry", arguments.data_dir)
    influent = influent[: round(days * PER_DAY) + 1]
    start = plant.steady_state()

    def effluent(run):
        return plant.effluent(run["states"][1:].T).T

    exact = effluent(simulate_plant(plant, start, influent, rtol=1e-10))
    runs = {
        f"LSODA, rtol {rtol:g}": lambda rtol=rtol: (
            effluent(simulate_plant(plant, start, influent, rtol=rtol)),
            exact,
        )
        for rtol in (1e-6, 1e-5, 1e-4)
    }
    if arguments.peer:
        held = effluent(held_rows(plant, start, influent))
        runs["bsm2-python, steps of 1 min"] = lambda: (
            peer(arguments.peer, plant, start, influent),
            held,
        )
    seconds, errors = {name: [] for name in runs}, {}
    for _ in range(1 if arguments.smoke else REPEATS):
        for name, run in runs.items():
            began = time.perf_counter()
            found, reference = run()
            took = time.perf_counter() - began
            if isinstance(found, dict):  # The peer has looked at its own clock.
                found, took = found["effluent"], float(found["seconds"])
            seconds[name].append(took)
            rows = min(len(found), len(reference))
            gap = np.abs(found[:rows] - reference[:rows]).max(axis=0)
            errors[name] = (gap / np.abs(reference).max(axis=0).clip(0.1)).max()
            print(name, took, errors[name], flush=True)
    ours = statistics.median(seconds[next(iter(runs))])
    return [
        {
            "integrator": name,
            "days": days,
            "seconds": round(statistics.median(times), 2),
            "least": round(min(times), 2),
            "most": round(max(times), 2),
            "over the first": round(statistics.median(times) / ours, 3),
            "largest error": f"{errors[name]:.1e}",
            "repeats": len(times),
        }
        for name, times in seconds.items()
    ]


def held_rows(plant, start, influent):
    """Our plant, tightly, under an influent that is held from row to row."""
    states = [start]
    for row in influent[:-1]:
        held = np.stack([row, row])
        states.append(
            simulate_plant(plant, states[-1], held, rtol=1e-8)["states"][-1]
        )
    return {"states": np.array(states)}


def peer(python, plant, start, influent):
    """The same start and rows in bsm2-python, in its own environment."""
    tanks, sludge, solubles = split(start)
    times = np.arange(len(influent))[:, None] / PER_DAY
    with tempfile.TemporaryDirectory() as folder:
        source, target = (
            pathlib.Path(folder, name) for name in ("in.npz", "out.npz")
        )
        np.savez(
            source,
            influent=np.concatenate([times, influent], axis=1),
            tanks=tanks.T,
            layers=np.concatenate([solubles, sludge[None]]).T,
            underflow=plant.underflow(start),
        )
        script = pathlib.Path(__file__).with_name("_bsm2_peer.py")
        subprocess.run(
            [python, str(script), str(source), str(target)], check=True
        )
        with np.load(target) as file:
            return dict(file)


if __name__ == "__main__":
    sys.exit(main())
