"""The experiment of `koopman_mpc.py`, and what is written."""

import dataclasses
import time

import numpy as np
import orrery
from _command_line import default_folder, open_folder, versions, write_json
from _comparison import train
from _forecast_data import simulated
from _forecast_pictures import possible
from orrery.datasets import (
    BSM1Plant,
    generated_influent,
    load_influent,
    load_plant_data,
    plant_performance,
    simulate_plant,
)
from orrery.datasets.influent import FLOW, PER_DAY
from orrery.datasets.plant_episodes import (
    MEASURED,
    measured,
    rain_influent,
    seasoned_state,
    storm_influent,
)
from orrery.datasets.plant_performance import LIMITS
from orrery.zoo.koopman_mpc import KoopmanMPC, daily_flow

# Of oxygen and nitrate, g/m3: the benchmark's.
SETPOINTS = (2.0, 1.0)
HISTORY, HORIZON = 20, 20
NAMES = {
    "mpc": "Koopman MPC",
    "pi": "PI controllers",
    "retuned": "PI controllers at the MPC's set-points",
    "openloop": "open loop",
}
FLOWS = {
    "daily": "taken to be that of the day before, scaled",
    "held": "taken to stay as it is",
    "known": "known",
}
SHOWN = ("EQI", "OCI", "AE", "PE", "SP")


def run(arguments):
    """Train or load a model, control the plant, write everything."""
    if arguments.out is None:
        arguments.out = default_folder(
            f"koopman_mpc-{arguments.weather}-{arguments.backend}", False
        )
    folder = arguments.out
    open_folder(folder)
    if (folder / "config.json").exists():
        raise SystemExit(f"{folder} holds a run already: choose another --out")
    if arguments.smoke:
        arguments.days, arguments.steps = 1.0, 2
    weather = weather_of(arguments.weather, arguments.days, arguments.data_dir)
    steps = len(weather) - 1
    print(
        f"Controlling the plant through {arguments.days:g} days of "
        f"{arguments.weather} weather, judged over the second half, by "
        f"{', '.join(NAMES[c] for c in arguments.controllers)}; backend "
        f"{arguments.backend}. Without flags about two minutes on two cores "
        f"with JAX. Results go to {folder}.",
        flush=True,
    )
    write_json(
        folder / "config.json",
        {"arguments": vars(arguments), "versions": versions()},
    )
    plant = BSM1Plant()
    start = season(plant, 2.0 if arguments.smoke else 7.0)
    indices, runs = {}, {}
    for who in arguments.controllers:
        if who == "mpc":
            controller = KoopmanMPC(
                model_of(arguments, folder),
                arguments.price,
                arguments.change,
                arguments.tracking,
                arguments.setpoints,
            )
            run_, seconds = control(
                plant, start, weather, controller, arguments.flow
            )
        else:
            held = {
                "pi": {"setpoints": SETPOINTS},
                "retuned": {"setpoints": arguments.setpoints},
                "openloop": {},
            }[who]
            run_, seconds = simulate_plant(plant, start, weather, **held), []
        runs[who] = run_
        days = steps / PER_DAY
        indices[who] = plant_performance(plant, run_, days / 2, days)
        if seconds:
            indices[who] |= {
                "solve_ms_median": 1e3 * float(np.median(seconds)),
                "solve_ms_99": 1e3 * float(np.quantile(seconds, 0.99)),
            }
        write_json(folder / "metrics.json", indices)
        print(
            f"{NAMES[who]}: EQI {indices[who]['EQI']:.0f}, OCI "
            f"{indices[who]['OCI']:.0f}, ammonia above its limit "
            f"{indices[who]['above SNH']:.1%} of the time",
            flush=True,
        )
    draw(folder, plant, runs, weather)
    write_report(folder, arguments, indices)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")


def weather_of(name, days, data_dir=None):
    """The influent of an evaluation, `(n + 1, 14)`."""
    rows = round(days * PER_DAY) + 1
    if name == "generated":
        return generated_influent(days)[:rows]
    if name == "generated_rain":
        return rain_influent(days)[:rows]
    if name == "generated_storm":
        return storm_influent(days)[:rows]
    return load_influent(name, data_dir)[:rows]


def season(plant, days=7.0):
    """The plant after so much dry weather under its PI controllers."""
    state = seasoned_state(plant, generated_influent())
    before = generated_influent(days)
    return simulate_plant(plant, state, before, setpoints=SETPOINTS)["states"][
        -1
    ]


def model_of(arguments, folder):
    """A forecaster of what sensors measure."""
    if arguments.model is not None:
        return orrery.load(arguments.model)
    weather = "recorded" if arguments.size == "full" else "generated"
    data = load_plant_data(
        "measured",
        arguments.size,
        weather,
        data_dir=arguments.data_dir,
        progress=simulated,
    )
    model, terms = trained(
        arguments.forecaster,
        open_loop(data),
        arguments.seed,
        arguments.steps,
        arguments.batch_size,
    )
    print(f"Trained: forecast error {terms['forecast']:.4f}", flush=True)
    model.save(folder / "model.keras")
    return model


def open_loop(data):
    """Without the episodes in which controllers answered to the plant.

    There aeration is strong because ammonia is high: a forecaster that learns
    from them may take the one for a cause of the other. Controllers move at
    every row; who sets controls by a schedule holds them.
    """
    splits = {
        name: [e for e in episodes if _held(e.controls)]
        for name, episodes in data.splits.items()
    }
    return dataclasses.replace(data, splits=splits)


def _held(controls):
    return np.mean(np.diff(controls, axis=0) == 0) > 0.5


def trained(forecaster, data, seed, steps, batch_size=256):
    """A forecaster for control, and its training loss by term."""
    settings = {
        "history": HISTORY,
        "horizon": HORIZON,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": 2e-3,
    }
    return train(forecaster, seed, data, settings)


def control(plant, start, weather, controller, flow="daily"):
    """The plant under a controller that acts every 15 minutes.

    The first rows, of which it has no log yet, are those of the PI controllers.
    `flow`, one of `FLOWS`, is what it takes for the flow to come. Returns the
    run, and the seconds of each decision.
    """
    first = controller.model.history_rows
    run = simulate_plant(
        plant, start, weather[: first + 1], setpoints=SETPOINTS
    )
    states, held = [*run["states"]], [*run["controls"]]
    seconds, steps = [], controller.steps
    for row in range(first, len(weather) - 1):
        recent = slice(row - first + 1, row + 1)
        outputs = measured(plant, np.array(states[recent]))
        given = np.array(held[row - first + 1 : row] + held[-1:])
        log = np.column_stack([outputs, given, weather[recent, FLOW]])
        begin = time.perf_counter()
        chosen = controller.control(log, _flow(flow, weather, row, steps))
        seconds.append(time.perf_counter() - begin)
        step = simulate_plant(
            plant, states[-1], weather[row : row + 2], chosen[None]
        )
        states.append(step["states"][-1])
        held.append(chosen)
        if row % PER_DAY == 0:
            print(f"day {row // PER_DAY}", flush=True)
    return {
        "states": np.array(states),
        "controls": np.array(held),
        "influent": weather,
    }, seconds


def _flow(kind, weather, row, steps):
    if kind == "known":
        ahead = np.minimum(row + np.arange(steps), len(weather) - 1)
        return weather[ahead, FLOW]
    if kind == "held" or row <= PER_DAY:
        return None
    return daily_flow(weather[:row, FLOW], steps)


def draw(folder, plant, runs, weather):
    """Outputs that matter, controls and flow over time, of all who control."""
    if not possible():
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    grid = figure.subplots(5, 1, sharex=True)
    days = np.arange(len(weather)) / PER_DAY
    grid[0].plot(days, weather[:, FLOW], color="black")
    grid[0].set_ylabel("flow, m3/d")
    for number, (who, found) in enumerate(runs.items()):
        outputs = measured(plant, found["states"])
        for axes, rows, label in (
            (grid[1], outputs[:, _column("SNH")], "ammonia, g/m3"),
            (grid[2], outputs[:, _column("SNO")], "nitrate, g/m3"),
            (grid[3], found["controls"][:, 0], "KLa5, 1/d"),
            (grid[4], found["controls"][:, 1], "Qa, m3/d"),
        ):
            time_ = days[: len(rows)]
            axes.plot(time_, rows, color=f"C{number}", label=NAMES[who])
            axes.set_ylabel(label)
    grid[1].axhline(LIMITS["SNH"], color="gray", linewidth=0.8)
    grid[1].legend(ncols=3, fontsize="small")
    grid[-1].set_xlabel("days")
    figure.savefig(folder / "control.png", dpi=120)


def _column(name):
    return MEASURED.index(f"{name} effluent")


def write_report(folder, arguments, indices):
    """Write `report.md`."""
    lines = [
        "# Koopman control of a wastewater plant",
        "",
        f"{arguments.days:g} days of {arguments.weather} weather, indices of "
        "the second half; ideal sensors, bounds of KLa5 0 to 240 1/d and of Qa "
        "0 to 92,230 m3/d for all. A kWh costs the MPC as much as "
        f"{arguments.price:g} kg of pollution, 1 g/m3 off a set-point "
        f"{arguments.tracking:g} kg/d; its set-points are "
        f"{arguments.setpoints[0]:g} of oxygen and {arguments.setpoints[1]:g} "
        f"of nitrate, the benchmark's {SETPOINTS[0]:g} and {SETPOINTS[1]:g}. "
        f"The flow to come is {FLOWS[arguments.flow]}.",
        "",
        "EQI: pollution that leaves, kg/d. OCI: energy and sludge; AE, PE: "
        "aeration and pumping, kWh/d; SP: sludge, kg/d.",
        "",
        "| control | " + " | ".join(SHOWN) + " | ammonia above 4 | nitrogen "
        "above 18 | ms a step, median | 99 % |",
        "|---|" + "---|" * (len(SHOWN) + 4),
    ]
    for who, found in indices.items():
        cells = [f"{found[name]:,.0f}" for name in SHOWN]
        cells += [f"{found[f'above {name}']:.1%}" for name in ("SNH", "TN")]
        for name in ("solve_ms_median", "solve_ms_99"):
            cells.append(f"{found[name]:.1f}" if name in found else "-")
        lines.append(f"| {NAMES[who]} | {' | '.join(cells)} |")
    if (folder / "control.png").exists():
        lines += ["", "![control](control.png)"]
    (folder / "report.md").write_text("\n".join(lines) + "\n", "utf-8")
