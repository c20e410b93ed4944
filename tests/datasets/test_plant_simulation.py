"""Runs of the plant: integrators, controllers, balances and indices."""

import dataclasses

import numpy as np
import pytest
from orrery.datasets import stiff_path as stiff_path_module
from orrery.datasets.bsm1 import (
    CONSTANT_INFLUENT,
    OPEN_LOOP,
    BSM1Plant,
    split,
)
from orrery.datasets.influent import generated_influent, load_influent
from orrery.datasets.mass_balance import BALANCES, balance_errors
from orrery.datasets.plant_control import NITRATE, OXYGEN, ControlledPlant
from orrery.datasets.plant_performance import (
    effluent_quality,
    plant_performance,
)
from orrery.datasets.plant_simulation import simulate_plant
from orrery.datasets.stiff_path import stiff_path

pytest.importorskip("scipy")
# Nothing here asks a backend for anything.
pytestmark = pytest.mark.one_backend("torch")

PLANT = BSM1Plant()
WEATHER = generated_influent(days=1)
SETPOINTS = np.array([2.0, 1.0])


@pytest.fixture(scope="module")
def steady():
    return PLANT.steady_state()


def apart(one, other):
    """The largest difference, over the largest value of each state.

    Oxygen of 1e-4 g/m3, where there is none to speak of, counts as 1e-2.
    """
    scale = np.maximum(np.abs(other).max(axis=0), 1e-2)
    return (np.abs(one - other) / scale).max()


@pytest.mark.parametrize("method", ["BDF", "Radau"])
def test_integrators_agree(steady, method):
    """On half a day, each by its own rules for steps.

    The corners of the settling flux are where they differ, each by what it is
    allowed.
    """
    some = WEATHER[:49]
    for rtol, allowed in ((1e-6, 2e-3), (1e-8, 1e-4)):
        run = simulate_plant(PLANT, steady, some, rtol=rtol)
        other = simulate_plant(PLANT, steady, some, method=method, rtol=rtol)
        assert apart(run["states"], other["states"]) < allowed


def test_half_the_tolerance_changes_little(steady):
    run = simulate_plant(PLANT, steady, WEATHER)
    finer = simulate_plant(PLANT, steady, WEATHER, rtol=5e-7)
    assert apart(run["states"], finer["states"]) < 1e-3
    run = simulate_plant(PLANT, steady, WEATHER, rtol=1e-8)
    finer = simulate_plant(PLANT, steady, WEATHER, rtol=5e-9)
    assert apart(run["states"], finer["states"]) < 1e-4


def test_a_steady_plant_stays(steady):
    still = np.tile(CONSTANT_INFLUENT, (97, 1))
    run = simulate_plant(PLANT, steady, still)
    assert apart(run["states"], np.tile(steady, (97, 1))) < 2e-4


def test_what_is_held_is_held(steady):
    """Two runs of half a day are one of a day whose controls change."""
    controls = np.repeat([[84.0, 55_338.0], [200.0, 20_000.0]], 48, axis=0)
    whole = simulate_plant(PLANT, steady, WEATHER, controls)
    half = simulate_plant(PLANT, steady, WEATHER[:49], controls[0])
    rest = simulate_plant(PLANT, half["states"][-1], WEATHER[48:], controls[-1])
    assert apart(whole["states"][48:], rest["states"]) < 1e-3
    np.testing.assert_array_equal(whole["controls"], controls)
    np.testing.assert_array_equal(whole["influent"], WEATHER)


def test_controllers_hold_their_setpoints(steady):
    run = simulate_plant(PLANT, steady, WEATHER, setpoints=SETPOINTS)
    oxygen, nitrate = (run["states"][24:, c.place] for c in (OXYGEN, NITRATE))
    assert np.abs(oxygen - 2).mean() < 0.05
    assert np.abs(nitrate - 1).mean() < 0.3
    low, high = np.array([[0.0, 0.0], [240.0, 92_230.0]])
    controls = run["controls"]
    assert (controls >= low - 1e-6).all() and (controls <= high + 1e-6).all()
    assert np.ptp(controls[:, 0]) > 50


@pytest.mark.parametrize("setpoints", [(2.0, 1.0), (0.8, 2.5)])
def test_controllers_begin_with_the_open_loop(steady, setpoints):
    """Whatever the first set-points: no jump that nobody asked for."""
    both = ControlledPlant(PLANT)
    start = both.start(steady, OPEN_LOOP, setpoints)
    np.testing.assert_allclose(both.controls(start, setpoints), OPEN_LOOP)


def test_a_run_begins_at_its_own_setpoints(steady, monkeypatch):
    """Not at those of a run before, nor at any that a controller came with."""
    seen = []
    start = ControlledPlant.start

    def watched(self, state, controls, setpoints):
        seen.append(tuple(setpoints))
        return start(self, state, controls, setpoints)

    monkeypatch.setattr(ControlledPlant, "start", watched)
    setpoints = np.repeat([[0.8, 2.5], [2.0, 1.0]], 2, axis=0)
    simulate_plant(PLANT, steady, WEATHER[:5], setpoints=setpoints)
    assert seen == [(0.8, 2.5)]


def test_controllers_go_back_from_a_limit(steady):
    """Out of reach for half a day, then near: the integral did not run away."""
    setpoints = np.repeat([[7.9, 1.0], [2.0, 1.0]], 48, axis=0)
    run = simulate_plant(PLANT, steady, WEATHER, setpoints=setpoints)
    np.testing.assert_allclose(run["controls"][8:48, 0], 240, atol=1e-3)
    oxygen = run["states"][:, OXYGEN.place]
    assert oxygen[48] < 7.5
    assert abs(oxygen[60] - 2) < 0.1


def test_one_controller_by_hand():
    held = OXYGEN.outputs(0.5, 100.0)
    assert held == (112.5, 25 * 0.5 / 0.002, False)
    control, rate, at_limit = OXYGEN.outputs(2.0, 230.0)
    assert control == 240.0 and at_limit
    assert rate == pytest.approx(25 * 2 / 0.002 + (240 - 280) / 0.001)


@pytest.mark.parametrize("controls", [OPEN_LOOP, [600.0, -20_000.0]])
def test_jacobian_with_controllers(steady, controls):
    """Within the limits, and with both controls at one."""
    both = ControlledPlant(PLANT)
    generator = np.random.default_rng(0)
    shaken = steady * np.exp(0.1 * generator.standard_normal(145))
    state = both.start(shaken, controls, SETPOINTS)
    numeric = np.empty((149, 149))
    for place in range(149):
        step = np.zeros(149)
        step[place] = 1e-6 * max(abs(state[place]), 1e-3)
        ahead, behind = (
            both.rate(state + sign * step, SETPOINTS, WEATHER[0])
            for sign in (1, -1)
        )
        numeric[:, place] = (ahead - behind) / (2 * step[place])
    exact = both.jacobian(state, SETPOINTS, WEATHER[0])
    scale = np.abs(numeric).max(axis=1, keepdims=True) + 1e-9
    assert (np.abs(exact - numeric) / scale).max() < 1e-5


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_lost(steady, seed):
    generator = np.random.default_rng(seed)
    state = steady * np.exp(0.1 * generator.standard_normal(145))
    errors = balance_errors(
        PLANT,
        state,
        np.array([140.0, 30_000.0]),
        lambda time: CONSTANT_INFLUENT * (1 + 0.5 * np.sin(20 * time)),
        days=0.25,
    )
    assert tuple(errors) == BALANCES
    assert max(errors.values()) < 1e-6, errors


@pytest.mark.parametrize("weather", ["dry", "rain", "storm"])
def test_concentrations_stay_above_zero(steady, weather, data_dir):
    """Around the event of each weather, under controls that jump."""
    influent = load_influent(weather, data_dir)[8 * 96 : 10 * 96 + 1]
    generator = np.random.default_rng(0)
    controls = generator.uniform([0, 0], [240, 92_230], (8, 2))
    run = simulate_plant(PLANT, steady, influent, controls.repeat(24, axis=0))
    assert run["states"].min() > -1e-6
    assert split(run["states"].T)[1].min() >= 0


def test_indices_of_the_steady_state(steady):
    """Derived from the published state, not published themselves."""
    run = {
        "states": np.tile(steady, (97, 1)),
        "controls": np.tile(OPEN_LOOP, (96, 1)),
        "influent": np.tile(CONSTANT_INFLUENT, (97, 1)),
    }
    found = plant_performance(PLANT, run, 0, 1)
    expected = {
        "AE": 3341.39,
        "PE": 388.17,
        "ME": 240.0,
        "SP": 2461.68,
        "EQI": 5254.28,
        "OCI": 16_277.98,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.006), name
    assert not any(found[f"above {name}"] for name in ("COD", "TN", "SNH"))
    quality = effluent_quality(PLANT, PLANT.effluent(steady))
    for name, value in {
        "SNKj": 3.63062,
        "COD": 47.5521,
        "BOD5": 2.65091,
        "TN": 14.0458,
    }.items():
        assert quality[name] == pytest.approx(value, rel=1e-5), name


def test_nitrogen_and_oxygen_demand_close_at_steady_state(steady):
    """Kilograms a day, in and out."""
    effluent = effluent_quality(PLANT, PLANT.effluent(steady))
    wasted = effluent_quality(PLANT, PLANT.underflow(steady))
    came = effluent_quality(PLANT, CONSTANT_INFLUENT[:-1])
    flow = CONSTANT_INFLUENT[-1]
    tanks, _, _ = split(steady)
    made = PLANT.sludge.stoichiometry().T[8] * PLANT.sludge.rates(tanks).T
    gas = -(made[:, 1] * np.array(PLANT.volumes)).sum() / 1000
    nitrogen_in = came["TN"] * flow / 1000
    leaves = effluent["TN"] * (flow - 385) / 1000
    goes_with_sludge = wasted["TN"] * 385 / 1000
    assert nitrogen_in == pytest.approx(1003.93, abs=0.01)
    assert leaves == pytest.approx(253.68, abs=0.01)
    assert goes_with_sludge == pytest.approx(243.10, abs=0.01)
    assert gas == pytest.approx(507.16, abs=0.01)
    assert nitrogen_in == pytest.approx(leaves + goes_with_sludge + gas)
    demand = came["COD"] * flow / 1000
    demand -= effluent["COD"] * (flow - 385) / 1000
    demand -= wasted["COD"] * 385 / 1000
    assert demand == pytest.approx(2878.45, abs=0.05)


def test_an_integrator_that_gives_up_says_where():
    """To infinity at t = 1."""
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            ArithmeticError, match=r"LSODA stopped at t = 0\.9+\d* of 2"
        ),
    ):
        stiff_path(
            lambda t, y: y**2, lambda t, y: 2 * y[:, None], [1.0], [0.0, 2.0]
        )
    with pytest.raises(ValueError, match="`method` must be one of"):
        stiff_path(None, None, [1.0], [0.0, 1.0], method="Euler")


def test_an_integrator_may_take_long_between_two_times_only(monkeypatch):
    """However many times there are; many easy ones leave nothing to waste."""
    monkeypatch.setattr(stiff_path_module, "MOST_CALLS", 400)
    calls = 0

    def rate(t, y):
        """Slow at first, then a wave of 1e6 turns."""
        nonlocal calls
        calls += 1
        return -y + (1e6 * np.cos(6e6 * t) if t > 0.5 else 0.0)

    times = np.linspace(0, 1, 1001)
    with pytest.raises(ArithmeticError, match=r"LSODA stopped at t = 0\.50"):
        stiff_path(rate, lambda t, y: -np.eye(1), [1.0], times)
    assert calls < 1000


def test_what_is_taken_in_all_is_not_limited(monkeypatch):
    """A wave of 20 turns; 100 evaluations are enough for a fifth of one."""
    monkeypatch.setattr(stiff_path_module, "MOST_CALLS", 100)
    calls = 0

    def rate(t, y):
        nonlocal calls
        calls += 1
        return np.array([np.cos(t)])

    times = np.linspace(0, 40 * np.pi, 101)
    path = stiff_path(rate, lambda t, y: np.zeros((1, 1)), [0.0], times)
    np.testing.assert_allclose(path[:, 0], np.sin(times), atol=1e-3)
    assert calls > 200


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"state": np.ones(144)}, "`state` must be 145 finite numbers"),
        ({"state": np.full(145, np.nan)}, "`state` must be 145 finite"),
        ({"influent": WEATHER[:, :13]}, r"`influent` must be of shape"),
        ({"influent": WEATHER[:1]}, "two rows at least"),
        ({"influent": -WEATHER}, "`influent` must be finite and not neg"),
        ({"controls": np.ones((3, 2))}, r"\(2,\) or \(96, 2\)"),
        ({"controls": [-1.0, 0.0]}, "`controls` must be finite and not"),
        ({"setpoints": [np.inf, 1.0]}, "`setpoints` must be finite"),
        ({"controls": OPEN_LOOP, "setpoints": SETPOINTS}, "not both"),
    ],
)
def test_bad_input_is_named(changes, message):
    given = {"state": np.ones(145), "influent": WEATHER, **changes}
    with pytest.raises(ValueError, match=message):
        simulate_plant(PLANT, **given)


def test_a_time_outside_the_run(steady):
    run = {"states": np.tile(steady, (97, 1))}
    with pytest.raises(ValueError, match="0 to 1 d"):
        plant_performance(PLANT, run)


def test_a_plant_of_ones_own(steady):
    """Twice the volume, half the load of ammonia in the effluent or less."""
    large = dataclasses.replace(
        PLANT, volumes=tuple(2 * v for v in PLANT.volumes)
    )
    ammonia = large.effluent(large.steady_state())[9]
    assert ammonia < 0.5 * PLANT.effluent(steady)[9]
