r"""Turn a finished run of `compare_koopman.py` into saved models.

    python recipes/publish_koopman_forecasters.py \
        runs/compare_koopman-bsm1-measured-jax-1

Writes `saved_models/kovae_bsm1/` and `saved_models/mamko_bsm1/` (checked on
every installed backend), and the run's table and pictures under `results/`.
"""

import argparse
import csv
import json
import os
import pathlib
import shutil

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = {"KoVAE": "kovae_bsm1", "MamKO": "mamko_bsm1"}
DESCRIPTIONS = {
    "KoVAE": "A Koopman variational autoencoder that forecasts the sensors of "
    "a wastewater treatment plant under given controls and inflow, with "
    "intervals calibrated on validation episodes.",
    "MamKO": "A selective Koopman operator that forecasts the sensors of a "
    "wastewater treatment plant; affine in the controls to come.",
}
PICTURES = ("errors", "forecast", "spectrum")
GOLDEN_WINDOWS = 4


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("run", type=pathlib.Path, help="folder of the run")
    flags.add_argument(
        "--tables-only",
        action="store_true",
        help="write the table and pictures, no saved models",
    )
    flags.add_argument("--hardware", default=f"{os.cpu_count()} CPU cores")
    arguments = flags.parse_args()
    config = json.loads((arguments.run / "config.json").read_text("utf-8"))
    os.environ.setdefault("KERAS_BACKEND", config["arguments"]["backend"])
    settings = config["settings"]
    name = f"compare_koopman_{settings['data']['name']}"
    name += f"_{settings['history']}_{settings['horizon']}"
    results = ROOT / "results"
    shutil.copy(arguments.run / "comparison.csv", results / f"{name}.csv")
    robustness = arguments.run / "robustness.csv"
    if robustness.exists():
        shutil.copy(robustness, results / f"{name}_robustness.csv")
    for picture in PICTURES:
        path = arguments.run / f"{picture}.png"
        if path.exists():
            shutil.copy(path, results / f"{name}_{picture}.png")
    if arguments.tables_only:
        return

    import orrery
    from orrery.zoo.publishing import publish

    with open(arguments.run / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for arm, preset in MODELS.items():
        path = arguments.run / "models" / f"{arm.lower()}.keras"
        model = orrery.load(path)
        publish(
            ROOT / "saved_models" / preset,
            model,
            golden_windows(settings),
            metadata(arm, model, config, rows, arguments.hardware),
        )
        print(f"Wrote saved_models/{preset}")


def golden_windows(settings):
    """Windows of generated weather, which anybody can make again."""
    import numpy as np
    from orrery.datasets import load_plant_data

    size = settings["history"], settings["horizon"]
    windows = load_plant_data("measured", "small").windows("test", *size)
    chosen = np.linspace(0, len(windows["past"]) - 1, GOLDEN_WINDOWS)
    return {
        name: windows[name][chosen.astype(int)]
        for name in ("past", "controls", "disturbances")
    }


def metadata(arm, model, config, rows, hardware):
    """What a card says, from the run's config and its table."""
    settings, data = config["settings"], config["settings"]["data"]
    shapes = {
        "past": (model.history_rows, model.observed_dim, "sensor readings"),
        "controls": (
            model.history_rows + model.horizon - 1,
            model.control_dim,
            "KLa5 (1/d) and Qa (m3/d), as set",
        ),
        "disturbances": (
            model.history_rows + model.horizon - 1,
            model.disturbance_dim,
            "flow of the influent, m3/d",
        ),
    }
    return {
        "description": DESCRIPTIONS[arm],
        "task": f"{model.history_rows} rows of eleven sensors in, 15 minutes "
        f"apart, with what was and will be set and flow; the next "
        f"{model.horizon} rows out. model.forecast(last_rows, future_controls) "
        "takes the rows of a log",
        "inputs": [
            {
                "name": name,
                "shape": f"(batch, {rows_}, {width})",
                "dtype": "float32",
                "range": what,
            }
            for name, (rows_, width, what) in shapes.items()
        ],
        "outputs": [
            {
                "name": "forecast",
                "shape": f"(batch, {model.horizon}, {model.observed_dim})",
                "dtype": "float32",
                "range": "SO3, SO4, SO5, SNO2, SNO5, SNH5, SNH effluent, SNO "
                "effluent, TSS5, TSS underflow, TSS effluent; g/m3",
            }
        ],
        "data": {
            "name": f"{data['name']}, {data['size']['train']} episodes of "
            f"{data['size']['steps']} rows, seed {data['seed']}",
            "source": "simulated by orrery.datasets.load_plant_data (BSM1; "
            "weather varied from the benchmark's dry and rainy weeks)",
            "licence": "Apache-2.0",
            "sha256": data["weather"],
        },
        "training": {
            "command": command(config),
            "seconds": next(
                float(row["seconds"]) for row in rows if row["arm"] == arm
            ),
            "hardware": hardware,
            "steps": settings["steps"],
        },
        "metrics": [
            {
                "name": f"{name}, flow {row['influent']}",
                "split": row["windows"],
                "value": float(row[column]),
                "seeds": f"0 to {int(row['seeds']) - 1}",
                "interval": interval(row) if column == "nrmse" else "-",
            }
            for row in rows
            if row["arm"] == arm
            for name, column in (
                ("NRMSE, mean over steps and sensors", "nrmse"),
                ("skill against persistence", "skill"),
            )
        ],
        "intended_use": "Research on forecasts and control of wastewater "
        "plants, and an example of forecasts under new controls.",
        "limits": "One simulated plant with ideal sensors; weather and "
        "controls as in training (model.outside_range tells). The metrics are "
        "means over seeds; the weights are those of seed 0.",
        "licence": "Apache-2.0",
    }


def interval(row):
    """The 95 % t interval of an error over seeds."""
    return f"[{row['nrmse_low']}, {row['nrmse_high']}]"


def command(config):
    """The call that repeats the run, without paths of this machine."""
    given = config["arguments"]
    names = ("dataset", "size", "weather", "history", "horizon", "steps")
    names += ("seeds", "learning_rate", "batch_size", "backend")
    values = [f"--{n.replace('_', '-')} {given[n]}" for n in names]
    return f"python recipes/compare_koopman.py {' '.join(values)}"


if __name__ == "__main__":
    main()
