"""The report's wastewater plant: one explicit step for each row.

A quarter of an hour is far beyond what such a step can bear: with KLa = 240 1/d
the oxygen of an aerated reactor is multiplied by 1 - 240 / 96 = -1.5 at every
row. What is then clipped, of rates and of states, is no plant any more. The
report's own settler was wrong besides, and its states ran along straight lines
to +-172,000 g/m3; ours, right but for the step, jumps about between bounds.
"""

import numpy as np

from ...datasets.bsm1 import CONTROLS, DISTURBANCES, STATE_NAMES, BSM1Plant
from ...datasets.influent import PER_DAY, generated_influent
from ...datasets.series import Episode, SeriesData

# Of a step and of a state, either way.
LARGEST_STEP, LARGEST_STATE = 1e3, 1e6


def simulate_by_euler(plant, state, influent, controls):
    """States `(n + 1, 145)` by one clipped Euler step for each row.

    Args:
        plant: a `BSM1Plant`.
        state: array `(145,)`.
        influent: array `(n + 1, 14)`.
        controls: array `(n, 2)`.

    Returns:
        Float64 array; finite, whatever happens.
    """
    path = [np.asarray(state, "float64")]
    for held, weather in zip(controls, influent, strict=False):
        with np.errstate(all="ignore"):
            step = plant.rate(path[-1], held, weather) / PER_DAY
        step = np.clip(np.nan_to_num(step), -LARGEST_STEP, LARGEST_STEP)
        path.append(np.clip(path[-1] + step, -LARGEST_STATE, LARGEST_STATE))
    return np.stack(path)


def euler_series(influent=None, seed=0, episodes=(11, 3), steps=999):
    """The report's data: the same beginning, new controls every 30 rows.

    Args:
        influent: array `(steps + 1 or more, 14)`. Defaults to `None`, the
            generated one.
        seed: int >= 0, of the controls. Defaults to `0`.
        episodes: pair of ints, to train on and to test. Defaults to `(11, 3)`.
        steps: int > 0, of each. Defaults to `999`.

    Returns:
        A `SeriesData` of all 145 states, with the splits train and test.
    """
    plant = BSM1Plant()
    if influent is None:
        influent = generated_influent()
    influent = np.asarray(influent)[: steps + 1]
    start, generator = plant.steady_state(), np.random.default_rng(seed)
    parts = []
    for _ in range(sum(episodes)):
        levels = generator.uniform(0, (240, 92_230), (-(-steps // 30), 2))
        controls = np.repeat(levels, 30, axis=0)[:steps]
        states = simulate_by_euler(plant, start, influent, controls)
        parts.append(Episode(states, controls, influent[:-1]))
    return SeriesData(
        name="euler",
        observed=STATE_NAMES,
        controls=CONTROLS,
        disturbances=DISTURBANCES,
        step=24 / PER_DAY,
        splits={"train": parts[: episodes[0]], "test": parts[episodes[0] :]},
    )
