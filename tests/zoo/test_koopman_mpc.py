"""The plant's controller: its gain is the model's, its choice the cheapest."""

import keras
import numpy as np
import pytest
from orrery.datasets import Episode, SeriesData
from orrery.datasets.plant_episodes import MEASURED
from orrery.zoo import KoVAE, MamKO

pytest.importorskip("osqp")
from orrery.zoo.koopman_mpc import KoopmanMPC, daily_flow  # noqa: E402

pytestmark = pytest.mark.one_backend("torch")
L, H, X = 4, 5, len(MEASURED)
RNG = np.random.default_rng(0)


def process():
    """Ammonia falls with aeration, nitrate with recycle."""
    parts = []
    for _ in range(2):
        u = RNG.uniform([0, 0], [240, 92_230], (99, 2))
        d = RNG.uniform(15_000, 25_000, (99, 1))
        x = np.abs(RNG.normal(5, 1, (100, X)))
        x[1:, MEASURED.index("SNH5")] = 8 - u[:, 0] / 40
        x[1:, MEASURED.index("SNO5")] = 14 - u[:, 1] / 10_000
        parts.append(Episode(x, u, d))
    return SeriesData("x", MEASURED, ("a", "b"), ("q",), 0.25, {"train": parts})


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = KoVAE(X, 2, 1, L, H, latent_dim=6, hidden_dim=8, decoder="linear")
    model.adapt(process())
    return model


def controlled(forecast):
    """What the programme is about, `(H, 5)`."""
    names = ("SNH5", "SNO5", "SO5", "SNO2")
    ammonia, nitrate, oxygen, tank_2 = (
        forecast[:, MEASURED.index(name)] for name in names
    )
    total = ammonia + nitrate
    return np.stack([ammonia, nitrate, total, oxygen, tank_2], axis=1)


def test_the_gain_is_what_controls_add_to_the_forecast(model):
    controller = KoopmanMPC(model)
    rows = process().log("train")[0][:L]
    rows[-1, X:] = rows[-2, X:]
    flow = np.full((H, 1), 2e4)
    u = RNG.uniform([0, 0], [240, 92_230], (H, 2))
    plan = RNG.uniform([0, 0], [240, 92_230], (H, 2))
    offset, gain = controller.response(rows, flow[:, 0], plan)
    free, found = (
        controlled(model.forecast(rows, x, flow)) for x in (0 * u, u)
    )
    np.testing.assert_allclose(offset, free, rtol=1e-3, atol=1e-3)
    added = (gain @ u.ravel()).reshape(H, 5)
    np.testing.assert_allclose(added, found - free, atol=1e-3)


@pytest.mark.parametrize("make", [MamKO, KoVAE])
def test_other_forecasters_are_told_to_first_order(make):
    other = make(X, 2, 1, L, H)
    other.adapt(process())
    rows = process().log("train")[0][:L]
    rows[-1, X:] = rows[-2, X:]
    flow, plan = np.full(H, 2e4), np.full((H, 2), [100.0, 3e4])
    offset, gain = KoopmanMPC(other).response(rows, flow, plan)
    near = plan + RNG.uniform(-1, 1, (H, 2)) * [2.0, 800.0]
    told = offset + (gain @ near.ravel()).reshape(H, 5)
    plain, truth = (
        controlled(other.forecast(rows, x, flow[:, None])) for x in (plan, near)
    )
    assert np.abs(told - truth).max() < 0.1 * np.abs(truth - plain).max()
    # No control acts on what was before it, but for rounding.
    blocks = np.abs(gain.reshape(H, 5, H, 2)).max(axis=(1, 3))
    assert np.triu(blocks, 1).max() < 1e-4 * blocks.max()


def test_dear_changes_are_not_made(model):
    rows = process().log("train")[0][:L]
    held = KoopmanMPC(model, change=1e9).control(rows)
    np.testing.assert_allclose(held, rows[-2, X : X + 2], rtol=0.02)


def test_set_points_are_held():
    controller = KoopmanMPC(
        Tank(), price=0.0, change=0.0, tracking=1e6, setpoints=(1.5, 3.0)
    )
    rows = np.full((L, X + 3), 2.0)
    rows[:, X:] = [100.0, 3e4, 2e4]
    # Oxygen is KLa5 / 80, nitrate of the second tank Qa / 10,000, at once.
    np.testing.assert_allclose(controller.control(rows), [120, 3e4], rtol=0.01)


def test_dear_energy_is_not_spent():
    controller = KoopmanMPC(Tank(), price=1e3, change=0.0)
    rows = np.full((L, X + 3), 2.0)
    rows[:, X:] = [100.0, 3e4, 2e4]
    np.testing.assert_allclose(controller.control(rows), [20, 0], atol=0.5)


class Tank:
    """A forecaster in which controls act at once, and straight."""

    observed_dim, control_dim, disturbance_dim, horizon = X, 2, 1, H

    def forecast(self, rows, controls, flow):
        told = np.full((*controls.shape[:2], X), 1.0)
        told[..., MEASURED.index("SO5")] = controls[..., 0] / 80
        told[..., MEASURED.index("SNO2")] = controls[..., 1] / 10_000
        return told


def test_what_is_not_known_yet_is_not_looked_at(model):
    controller, rows = KoopmanMPC(model), process().log("train")[0][:L]
    before, changed = controller.control(rows), rows.copy()
    changed[-1, X:] = np.nan
    np.testing.assert_allclose(controller.control(changed), before, rtol=1e-3)
    assert (before >= 0).all() and (before <= [240, 92_230]).all()


def test_the_flow_rises_and_falls_as_the_day_before():
    days = np.arange(3 * 96) / 96
    flow = 2e4 + 5e3 * np.sin(2 * np.pi * days)
    np.testing.assert_allclose(daily_flow(flow[:200], 5), flow[200:205])
    # Rain that has doubled it is taken to go on.
    flow[199:] *= 2
    np.testing.assert_allclose(daily_flow(flow[:200], 5), flow[200:205])
    with pytest.raises(ValueError, match="`past` must be more than 96 flows"):
        daily_flow(flow[:96], 5)
    with pytest.raises(ValueError, match="`steps` must be at most 96"):
        daily_flow(flow, 97)


def test_other_models_are_refused(model):
    with pytest.raises(ValueError, match="sensors"):
        KoopmanMPC(KoVAE(3, 2, 1, L, H, decoder="linear"))
    with pytest.raises(ValueError, match="`tracking` must be"):
        KoopmanMPC(model, tracking=-1.0)
    with pytest.raises(ValueError, match="`setpoints` must be two"):
        KoopmanMPC(model, setpoints=(1.0,))
    with pytest.raises(ValueError, match="`low` must be below"):
        KoopmanMPC(model, low=(0.0, 5e4), high=(240.0, 5e4))
