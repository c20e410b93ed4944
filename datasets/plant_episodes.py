"""Episodes of a wastewater plant: weather that varies, controls that excite."""

import numpy as np

from .._checks import check_integer
from .asm1 import suspended_solids
from .bsm1 import CONSTANT_INFLUENT, OPEN_LOOP, BSM1Plant, split
from .influent import FLOW, PER_DAY, generated_influent
from .plant_simulation import simulate_plant

LOW, HIGH = np.zeros(2), np.array([240.0, 92_230.0])
ACTIONS = ("steps", "binary", "walk", "controllers")
# What a plant's own sensors tell, g/m3.
MEASURED = (
    "SO3",
    "SO4",
    "SO5",
    "SNO2",
    "SNO5",
    "SNH5",
    "SNH effluent",
    "SNO effluent",
    "TSS5",
    "TSS underflow",
    "TSS effluent",
)


def measured(plant, states):
    """What sensors show, `(n, 11)`, of states `(n, 145)`; see `MEASURED`."""
    states = np.asarray(states).T
    tanks, sludge, solubles = split(states)
    return np.stack(
        [
            *(tanks[7, r] for r in (2, 3, 4)),
            tanks[8, 1],
            tanks[8, 4],
            tanks[9, 4],
            solubles[4, 0],
            solubles[3, 0],
            suspended_solids(tanks[:, 4]),
            sludge[-1],
            sludge[0],
        ],
        axis=1,
    )


def varied_influent(base, steps, generator, dilutions=True):
    """Weather like a recorded one, but not that one again.

    A random beginning; factors of flow and of each concentration that are
    log-normal (sigma 0.15) and go on through the episode, and others that
    wander (sigma 0.1, forgotten within 6 hours); and spells of rain, half a day
    to two long, that raise the flow up to 2.5 times and thin out the rest.

    Args:
        base: array `(rows, 14)`, 15 minutes a row; its end is followed by its
            beginning.
        steps: int > 0, rows of the result, less one.
        generator: `numpy.random.Generator`.
        dilutions: bool, whether it may rain. Defaults to `True`.

    Returns:
        A float64 array `(steps + 1, 14)`.
    """
    first = generator.integers(len(base))
    influent = base[(first + np.arange(steps + 1)) % len(base)].copy()
    influent *= np.exp(0.15 * generator.standard_normal(FLOW + 1))
    influent *= np.exp(0.1 * _wander(generator, influent.shape))
    if dilutions:
        influent *= _rain(generator, steps + 1)
    return influent


def storm_influent(days=14):
    """Generated dry weather with two storms; the first one flushes sewers.

    For an evaluation where the benchmark's storm is not at hand: the flow rises
    to three times, for an hour and a half and for half a day, and the first
    storm brings solids with it.

    Returns:
        A float64 array `(96 days + 1, 14)`.
    """
    influent = generated_influent(days)
    for begin, hours, solids in ((0.6, 1.5, 5.0), (0.75, 12.0, 1.0)):
        first = round(begin * days * PER_DAY)
        event = slice(first, first + round(hours * PER_DAY / 24))
        influent[event, :FLOW] /= 3.0
        influent[event, 2:5] *= solids
        influent[event, FLOW] *= 3.0
    return influent


def rain_influent(days=14):
    """Generated dry weather with two rains, that go on for long.

    The flow rises to 2.2 times for a seventh of all days, later to 1.7 times
    for a twentieth, and all concentrations are as much smaller.

    Returns:
        A float64 array `(96 days + 1, 14)`.
    """
    influent = generated_influent(days)
    for begin, end, rise in ((0.607, 0.75, 2.2), (0.821, 0.871, 1.7)):
        event = slice(*(round(x * days * PER_DAY) for x in (begin, end)))
        influent[event, :FLOW] /= rise
        influent[event, FLOW] *= rise
    return influent


def random_controls(steps, kind, generator, dwell=None):
    """Controls, or set-points, that let a plant show what it does.

    Args:
        steps: int > 0.
        kind: `"steps"`, held for 1 to 8 hours at levels from all of the range;
            `"binary"`, each control either low or high; `"walk"`, hourly values
            that wander; `"controllers"`, set-points of oxygen and nitrate that
            change every 4 to 24 hours.
        generator: `numpy.random.Generator`.
        dwell: int > 0, for how many rows each of the steps is held. Defaults to
            `None`, drawn.

    Returns:
        A float64 array `(steps, 2)`.
    """
    if dwell is not None:
        check_integer("dwell", dwell, 1)
    if dwell is not None and kind != "steps":
        raise ValueError(
            f"`dwell` is for steps alone. Received: dwell={dwell!r}, "
            f"kind={kind!r}"
        )
    if kind not in ACTIONS:
        raise ValueError(f"`kind` must be one of {ACTIONS}. Received: {kind!r}")
    if kind == "controllers":
        return _held(
            generator,
            steps,
            (16, 96),
            lambda: generator.uniform([0.5, 0.2], [3.5, 3.0]),
        )
    if kind == "steps":
        held = _held(
            generator,
            steps,
            (4, 32) if dwell is None else (dwell, dwell),
            lambda: generator.uniform(LOW, HIGH),
        )
    elif kind == "binary":
        middle = 0.5 * (LOW + HIGH)
        ends = generator.uniform([LOW, middle], [middle, HIGH])
        held = _held(
            generator,
            steps,
            (4, 32),
            lambda: ends[generator.integers(2, size=2), (0, 1)],
        )
    else:
        count = -(-steps // 4)
        hourly = HIGH * (0.5 + 0.3 * _wander(generator, (count, 2)))
        held = np.repeat(hourly, 4, axis=0)[:steps]
    # As actuators do what they are told: within one per cent of the range.
    changes = np.any(np.diff(held, axis=0, prepend=np.nan) != 0, axis=1)
    errors = 0.01 * HIGH * generator.standard_normal((changes.sum(), 2))
    return np.clip(held + errors[np.cumsum(changes) - 1], LOW, HIGH)


def seasoned_state(plant, weather):
    """The plant after long constant load and two weeks of weather.

    Args:
        plant: a `BSM1Plant`.
        weather: array `(1345, 14)`, of these two weeks.
    """
    steady = plant.steady_state(OPEN_LOOP, CONSTANT_INFLUENT)
    return simulate_plant(plant, steady, weather, OPEN_LOOP)["states"][-1]


def random_episode(
    seed, episode, start, weathers, steps, kind=None, dwell=None
):
    """One episode; a function of its arguments alone, in any process.

    Args:
        seed: int >= 0.
        episode: int >= 0, its number.
        start: array `(145,)`, around which the first state is drawn: every
            entry times a log-normal factor (sigma 0.1).
        weathers: list of arrays `(rows, 14)`, one of which is varied.
        steps: int > 0, of 15 minutes.
        kind: one of `ACTIONS`. Defaults to `None`, drawn: a quarter each.
        dwell: as of `random_controls`. Defaults to `None`.

    Returns:
        What `simulate_plant` returns.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, episode]))
    base = weathers[generator.integers(len(weathers))]
    influent = varied_influent(base, steps, generator)
    kind = kind or ACTIONS[generator.integers(len(ACTIONS))]
    held = random_controls(steps, kind, generator, dwell)
    state = start * np.exp(0.1 * generator.standard_normal(len(start)))
    what = "setpoints" if kind == "controllers" else "controls"
    return simulate_plant(BSM1Plant(), state, influent, **{what: held})


def storm_episode(seed, episode, start, storm, dwell=None):
    """The storm as it is, under steps of the controls."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, episode]))
    controls = random_controls(len(storm) - 1, "steps", generator, dwell)
    return simulate_plant(BSM1Plant(), start, storm, controls)


def _wander(generator, shape):
    """Noise of variance 1 that is forgotten within 24 rows."""
    kept = np.exp(-1 / 24)
    out = generator.standard_normal(shape)
    for k in range(1, len(out)):
        out[k] = kept * out[k - 1] + np.sqrt(1 - kept**2) * out[k]
    return out


def _rain(generator, rows):
    """Factors `(rows, 14)`: more flow, and the less of everything in it."""
    factors = np.ones((rows, FLOW + 1))
    for _ in range(generator.poisson(rows / (7 * PER_DAY))):
        length = round(generator.uniform(0.5, 2.0) * PER_DAY)
        first, height = generator.integers(rows), generator.uniform(0.2, 1.5)
        # It sets in within an hour, and runs off over some.
        time = np.arange(rows) - first
        wet = np.clip(time / 4, 0, 1) * np.clip((length - time) / 24, 0, 1)
        factors[:, FLOW] += height * wet
    factors[:, FLOW] = np.minimum(factors[:, FLOW], 2.5)
    factors[:, :FLOW] /= factors[:, FLOW:]
    return factors


def _held(generator, steps, dwell, levels):
    """Levels drawn one after the other, each held for some steps."""
    rows = []
    while len(rows) < steps:
        rows += [levels()] * int(generator.integers(dwell[0], dwell[1] + 1))
    return np.array(rows[:steps])
