"""Episodes of the wastewater plant in splits, simulated once and kept."""

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import pathlib

import numpy as np

from .bsm1 import CONTROLS, DISTURBANCES, STATE_NAMES, BSM1Plant
from .corpus import cache_dir
from .influent import FLOW, PER_DAY, generated_influent, load_influent
from .plant_episodes import (
    MEASURED,
    measured,
    random_episode,
    seasoned_state,
    storm_episode,
    storm_influent,
)
from .plant_file import digest, read_runs, write_runs
from .series import Episode, SeriesData

# Raised whenever the same arguments would give other numbers.
VERSION = 2
TASKS = ("measured", "full")
WEATHERS = ("generated", "recorded")
SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Size:
    """How many episodes of each split, and how long, in steps of 15 minutes.

    With `dwell`, controls are drawn anew every so many steps in all of them;
    without, they are of all kinds.
    """

    train: int
    valid: int
    test: int
    storm: int
    steps: int
    dwell: int | None = None


SIZES = {
    "small": Size(6, 2, 2, 1, 192),
    "original": Size(11, 1, 3, 1, 999, dwell=30),
    "full": Size(32, 6, 8, 2, 1344),
}


def load_plant_data(
    task="measured",
    size="small",
    weather="generated",
    seed=0,
    data_dir=None,
    cache=None,
    workers=1,
    progress=None,
):
    """The wastewater plant as a series to forecast: what sensors see, or all.

    Training, validation and test episodes have their own weather, first state
    and controls each; the storm is in none of them. What is simulated is kept
    in a file whose name is a hash of all that it depends on, and whose content
    is checked when it is read.

    Args:
        task: `"measured"`, the eleven sensors of `MEASURED` and the flow of the
            influent as the only disturbance; or `"full"`, all 145 states and
            all fourteen disturbances. Defaults to `"measured"`.
        size: `"small"`, ten episodes of two days, in half a minute;
            `"original"`, 15 of ten days whose controls change every 7.5 hours,
            as in the report; `"full"`, 46 of two weeks; storms are extra.
            Defaults to `"small"`.
        weather: `"generated"`, by formula, or `"recorded"`, varied from the
            benchmark's dry and rainy weeks, with its storm as it is. Defaults
            to `"generated"`.
        seed: int >= 0. Defaults to `0`.
        data_dir: string or path, the data folder of recorded weather. Defaults
            to `None`, the folder `ORRERY_DATA_DIR`.
        cache: string or path of the folder to keep episodes in. Defaults to
            `None`, the cache.
        workers: int >= 1, processes that simulate; the numbers do not depend on
            it. Defaults to `1`.
        progress: function of the number of episodes done and of all. Defaults
            to `None`.

    Returns:
        A `SeriesData` with the splits train, valid, test and storm.

    Raises:
        ArithmeticError: if a simulation fails; names the episode and the seed.
        FileNotFoundError: if recorded weather is not there.
        ImportError: if SciPy is not installed; says how to install it.
        ValueError: if an argument is none of those named, or a kept file is not
            what was written.

    Reference:
        - [Alex et al., 2018](https://github.com/wwtmodels/Benchmark-Simulation-Models)
    """
    check_choices(task=task, size=size, weather=weather)
    weathers, storm, dry = _weather(weather, data_dir)
    config = {
        "version": VERSION,
        "size": dataclasses.asdict(SIZES[size]),
        "seed": seed,
        "weather": digest(*weathers, storm),
    }
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    folder = cache_dir() if cache is None else pathlib.Path(cache).expanduser()
    path = folder / f"bsm1-{key.hexdigest()[:16]}.npz"
    if not path.exists():
        runs = _simulated(SIZES[size], seed, weathers, storm, workers, progress)
        write_runs(path, runs)
    runs = read_runs(path)
    metadata = {**config, "file": path.name}
    return _series(task, SIZES[size], runs, _event(storm, dry), metadata)


def check_choices(**chosen):
    """Raises a `ValueError` that names a task, size or weather not known."""
    choices = {"task": TASKS, "size": tuple(SIZES), "weather": WEATHERS}
    for name, value in chosen.items():
        if value not in choices[name]:
            raise ValueError(
                f"`{name}` must be one of {choices[name]}. Received: "
                f"{name}={value!r}"
            )


def weather_digest(weather, data_dir=None):
    """A hash of all the weather that episodes are made of.

    Args:
        weather: `"generated"` or `"recorded"`.
        data_dir: as of `load_plant_data`. Defaults to `None`.
    """
    weathers, storm, _ = _weather(weather, data_dir)
    return digest(*weathers, storm)


def _weather(weather, data_dir):
    """The weathers to vary, the storm, and dry weather to tell it from."""
    if weather == "generated":
        dry = generated_influent()
        return [dry], storm_influent(), dry
    dry, rain, storm = (
        load_influent(name, data_dir) for name in ("dry", "rain", "storm")
    )
    # The last row is the first one again.
    return [dry[:-1], rain[:-1]], storm, dry


def _jobs(size, seed, weathers, storm):
    """What makes each episode: of train, valid, test, then of the storm."""
    start = seasoned_state(BSM1Plant(), generated_influent())
    ordinary = size.train + size.valid + size.test
    kind = None if size.dwell is None else "steps"
    jobs = [
        (
            random_episode,
            (seed, k, start, weathers, size.steps, kind, size.dwell),
        )
        for k in range(ordinary)
    ]
    return jobs + [
        (storm_episode, (seed, k, start, storm, size.dwell))
        for k in range(ordinary, ordinary + size.storm)
    ]


def _simulated(size, seed, weathers, storm, workers, progress):
    """A list of runs, in the order of the jobs."""
    jobs = _jobs(size, seed, weathers, storm)
    done, runs = 0, []

    def collect(results):
        nonlocal done
        for run in results:
            runs.append(run)
            done += 1
            if progress is not None:
                progress(done, len(jobs))

    if workers == 1:
        collect(_call(job) for job in jobs)
        return runs
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, spawn) as pool:
        collect(pool.map(_call, jobs))
    return runs


def _call(job):
    function, arguments = job
    try:
        return function(*arguments)
    except ArithmeticError as error:
        seed, episode = arguments[:2]
        raise ArithmeticError(
            f"Episode {episode} of seed {seed}: {error}"
        ) from error


def _series(task, size, runs, event, metadata):
    plant, full = BSM1Plant(), task == "full"
    names, see = {
        "measured": (MEASURED, measured),
        "full": (STATE_NAMES, None),
    }[task]
    episodes = []
    for run in runs:
        values, disturbances = run["states"], run["influent"][:-1]
        if not full:
            values = see(plant, values)
            disturbances = disturbances[:, FLOW:]
        episodes.append(Episode(values, run["controls"], disturbances))
    splits = {}
    for split in (*SPLITS, "storm"):
        count = getattr(size, split)
        splits[split], episodes = episodes[:count], episodes[count:]
    splits["storm"] = [
        dataclasses.replace(episode, event=event) for episode in splits["storm"]
    ]
    return SeriesData(
        name=f"bsm1-{task}",
        observed=names,
        controls=CONTROLS,
        disturbances=DISTURBANCES if full else DISTURBANCES[FLOW:],
        step=24 / PER_DAY,
        splits=splits,
        metadata=metadata,
    )


def _event(storm, dry):
    """Rows in which the storm is not dry weather, and twelve hours after."""
    differs = np.abs(storm[:, FLOW] - dry[:, FLOW]) > 1
    after = np.ones(PER_DAY // 2 + 1)
    return np.convolve(differs, after)[: len(storm)] > 0
