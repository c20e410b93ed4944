"""The plant against the published steady state, and against itself."""

import numpy as np
import pytest
from orrery.datasets.asm1 import COMPONENTS, SOLUBLE, suspended_solids
from orrery.datasets.bsm1 import (
    CONSTANT_INFLUENT,
    OPEN_LOOP,
    STATE_NAMES,
    BSM1Plant,
    split,
)

pytest.importorskip("scipy")
# Nothing here asks a backend for anything.
pytestmark = pytest.mark.one_backend("torch")

# MATLAB's open loop under constant influent, as published with the benchmark.
EFFLUENT = {
    "SI": 30,
    "SS": 0.889492799653682,
    "XI": 4.39182747787874,
    "XS": 0.188440413683379,
    "XBH": 9.78152406404732,
    "XBA": 0.572507856962265,
    "XP": 1.72830016782928,
    "SO": 0.490943515687561,
    "SNO": 10.4152201204309,
    "SNH": 1.73333146817512,
    "SND": 0.688280004678034,
    "XND": 0.0134804685779854,
    "SALK": 4.12557938198182,
}
SLUDGE = [
    12.4969498996665,
    18.1132132624131,
    29.5402273766893,
    68.9780506740299,
    *[356.07470619] * 5,
    6393.98442118288,
]
# Five digits of each reactor, SI to SALK.
REACTORS = [
    "30 2.8082 1149.1 82.135 2551.8 148.39 448.85 .0042985 5.3699 7.9179 "
    "1.2166 5.2849 4.9277",
    "30 1.4588 1149.1 76.386 2553.4 148.31 449.52 6.3127e-5 3.662 8.3444 "
    ".88206 5.0291 5.0802",
    "30 1.1495 1149.1 64.855 2557.1 148.94 450.42 1.7184 6.5409 5.5479 "
    ".82889 4.3924 4.6748",
    "30 .99532 1149.1 55.694 2559.2 149.53 451.31 2.4289 9.299 2.9674 "
    ".76679 3.879 4.2935",
    "30 .88949 1149.1 49.306 2559.3 149.8 452.21 .49094 10.415 1.7333 "
    ".68828 3.5272 4.1256",
]


@pytest.fixture(scope="module")
def plant():
    return BSM1Plant()


@pytest.fixture(scope="module")
def steady(plant):
    return plant.steady_state()


def shaken(state, by=0.3, seed=0):
    generator = np.random.default_rng(seed)
    return state * np.exp(by * generator.standard_normal(len(state)))


def test_steady_effluent_is_the_published_one(plant, steady):
    effluent = dict(zip(COMPONENTS, plant.effluent(steady), strict=True))
    for name, value in EFFLUENT.items():
        assert effluent[name] == pytest.approx(value, rel=1e-6), name
    solids = suspended_solids(plant.effluent(steady))
    assert solids == pytest.approx(12.4969499853007, rel=1e-6)


def test_steady_settler_is_the_published_one(steady):
    tanks, sludge, solubles = split(steady)
    np.testing.assert_allclose(sludge, SLUDGE, rtol=1e-6)
    last = tanks[list(SOLUBLE), -1]
    np.testing.assert_allclose(
        solubles, np.repeat(last[:, None], 10, axis=1), rtol=1e-9
    )


def test_steady_reactors_are_the_published_ones(steady):
    """To one unit of the fifth digit.

    Oxygen of reactor 2 alone, of which there is next to none, is off by five:
    by 5e-9 g/m3, of which no simulator's tolerance knows.
    """
    published = np.array([row.split() for row in REACTORS], "float64")
    units = 10.0 ** (np.floor(np.log10(published)) - 4)
    apart = np.abs(split(steady)[0].T - published)
    assert (apart <= np.maximum(units, 1e-8)).all()


def test_the_published_state_hardly_moves(plant):
    """Five digits of the reactors, and the settler as published."""
    tanks = np.array([row.split() for row in REACTORS], "float64")
    layers = np.repeat(tanks[-1, list(SOLUBLE)], 10)
    state = np.concatenate([tanks.ravel(), SLUDGE[::-1], layers])
    moved = plant.settle(state, OPEN_LOOP, CONSTANT_INFLUENT, 1.0)
    np.testing.assert_allclose(moved, state, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("start", ["ones", "shaken"])
def test_every_start_comes_to_the_same_end(plant, steady, start):
    state = np.ones(145) if start == "ones" else shaken(steady)
    settled = plant.settle(state, OPEN_LOOP, CONSTANT_INFLUENT, 300.0)
    np.testing.assert_allclose(settled, steady, rtol=1e-4, atol=1e-6)


def test_jacobian_is_that_of_the_rate(plant, steady):
    controls = np.array([140.0, 30_000.0])
    for seed in range(3):
        state = shaken(steady, seed=seed)
        numeric = np.empty((145, 145))
        for place in range(145):
            step = np.zeros(145)
            step[place] = 1e-6 * max(state[place], 1e-3)
            ahead, behind = (
                plant.rate(state + sign * step, controls, CONSTANT_INFLUENT)
                for sign in (1, -1)
            )
            numeric[:, place] = (ahead - behind) / (2 * step[place])
        exact = plant.jacobian(state, controls, CONSTANT_INFLUENT)
        scale = np.abs(numeric).max(axis=1, keepdims=True)
        assert np.abs((exact - numeric) / scale).max() < 1e-5


def test_what_controls_do(plant, steady):
    state, controls = shaken(steady), np.array([140.0, 30_000.0])
    by = plant.by_controls(state)
    for place, step in enumerate(np.diag([1.0, 100.0])):
        ahead, behind = (
            plant.rate(state, controls + sign * step, CONSTANT_INFLUENT)
            for sign in (1, -1)
        )
        numeric = (ahead - behind) / (2 * step[place])
        np.testing.assert_allclose(by[:, place], numeric, atol=1e-6)


def test_many_states_at_once(plant, steady):
    generator = np.random.default_rng(0)
    states = np.stack([shaken(steady, seed=s) for s in range(4)], axis=1)
    controls = generator.uniform(0, [[240], [92_230]], (2, 4))
    weather = CONSTANT_INFLUENT[:, None] * generator.uniform(0.5, 2, (14, 4))
    together = plant.rate(states, controls, weather)
    for k in range(4):
        alone = plant.rate(states[:, k], controls[:, k], weather[:, k])
        scale = np.abs(alone).max()
        np.testing.assert_allclose(together[:, k], alone, atol=1e-12 * scale)
    same = plant.rate(states, OPEN_LOOP, CONSTANT_INFLUENT)
    alone = plant.rate(states[:, 0], OPEN_LOOP, CONSTANT_INFLUENT)
    np.testing.assert_allclose(same[:, 0], alone, atol=1e-9)


def test_water_and_solubles_are_accounted_for(plant, steady):
    """What a soluble gains is what comes in, less what leaves, and is made."""
    state = shaken(steady)
    rate = plant.rate(state, OPEN_LOOP, CONSTANT_INFLUENT)
    tanks, _, _ = split(state)
    change_of_tanks, _, change_of_layers = split(rate)
    made = np.tensordot(
        plant.sludge.stoichiometry(), plant.sludge.rates(tanks), (0, 0)
    )
    volumes, layer = np.array(plant.volumes), 1500 * 0.4
    inflow = CONSTANT_INFLUENT[-1]
    transfer = np.array([*plant.transfer, OPEN_LOOP[0]])
    for place, component in enumerate(SOLUBLE):
        gained = (volumes * change_of_tanks[component]).sum()
        gained += layer * change_of_layers[place].sum()
        expected = inflow * CONSTANT_INFLUENT[component]
        expected -= (inflow - 385) * plant.effluent(state)[component]
        expected -= 385 * plant.underflow(state)[component]
        expected += (volumes * made[component]).sum()
        if COMPONENTS[component] == "SO":
            lack = 8 - tanks[component]
            expected += (volumes * transfer * lack).sum()
        assert gained == pytest.approx(expected, rel=1e-9, abs=1e-4)


def test_names_of_the_states():
    assert len(STATE_NAMES) == len(set(STATE_NAMES)) == 145
    assert STATE_NAMES[0] == "SI1" and STATE_NAMES[64] == "SALK5"
    assert STATE_NAMES[65] == "TSS layer 1" and STATE_NAMES[75] == "SI layer 1"
