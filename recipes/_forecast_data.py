"""The series that forecasting recipes read."""

import dataclasses
import pathlib

from orrery.datasets import load_plant_data, read_series


def load(arguments):
    """The `SeriesData` that the flags name."""
    if str(arguments.dataset).endswith(".csv"):
        return read_series(
            pathlib.Path(arguments.dataset),
            arguments.controls,
            arguments.disturbances,
            arguments.time,
            arguments.unit,
        )

    return load_plant_data(
        arguments.sensors,
        arguments.size,
        arguments.weather,
        data_dir=arguments.data_dir,
        progress=simulated,
    )


def simulated(done, count):
    """Say how many episodes there are by now."""
    end = "\n" if done == count else ""
    print(f"\rSimulating the plant: {done} of {count}", end=end, flush=True)


def without_controls(data):
    """The same series to somebody who does not know what was set."""
    splits = {
        split: [
            dataclasses.replace(e, controls=e.controls[:, :0]) for e in part
        ]
        for split, part in data.splits.items()
    }
    return dataclasses.replace(data, controls=(), splits=splits)


def identity(data):
    """What two runs on the same data agree in, a JSON-plain dict."""
    return {
        **data.metadata,
        "name": data.name,
        "observed": list(data.observed),
        "controls": list(data.controls),
        "disturbances": list(data.disturbances),
        "step": data.step,
    }


def widths(data):
    """Numbers of what is observed, set, and disturbs."""
    return len(data.observed), len(data.controls), len(data.disturbances)
