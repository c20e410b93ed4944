"""The report's plant: that it is none."""

import numpy as np
import pytest
from orrery.datasets import BSM1Plant, generated_influent
from orrery.datasets.plant_simulation import simulate_plant
from orrery.zoo.legacy.euler_plant import euler_series, simulate_by_euler

pytestmark = pytest.mark.one_backend("torch")


def test_one_step_a_row_is_no_plant():
    """From its steady state, under the controls that keep it there."""
    pytest.importorskip("scipy")
    plant = BSM1Plant()
    start, influent = plant.steady_state(), generated_influent(days=2)
    controls = np.tile([84.0, 55_338.0], (len(influent) - 1, 1))
    sound = simulate_plant(plant, start, influent, controls)["states"]
    states = simulate_by_euler(plant, start, influent, controls)
    assert sound.min() > -1e-6 and np.abs(np.diff(sound, axis=0)).max() < 500
    assert np.isfinite(states).all() and states.min() < -100
    assert np.abs(np.diff(states, axis=0)).max() == pytest.approx(1e3)


def test_a_good_part_of_what_was_learned_is_what_was_cut():
    data = euler_series(episodes=(2, 1), steps=300)
    steps = np.diff(data.splits["test"][0].values, axis=0)
    largest = np.argsort(-data.scales()["observed"][1])[:5]
    assert np.isclose(np.abs(steps[:, largest]), 1e3).mean() > 0.1
