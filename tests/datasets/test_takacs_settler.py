"""The settler loses nothing, and its derivatives are those of its rates."""

import numpy as np
import pytest
from orrery.datasets.takacs_settler import TakacsSettler

SETTLER = TakacsSettler()
FED = 3300.0
LOADS = {
    "clear above, dense below": np.geomspace(12, 6400, 10),
    "a blanket up to the feed": np.array(
        [15, 20, 400, 3500, 3600, 3400, 3900, 5000, 6000, 7000.0]
    ),
    "a dense layer above the feed": np.array(
        [10, 3200, 900, 4000, 300, 350, 340, 360, 900, 6500.0]
    ),
    "as it was fed": np.full(10, FED),
}


@pytest.mark.parametrize("sludge", LOADS.values(), ids=LOADS)
def test_sinking_keeps_all_sludge(sludge):
    change = SETTLER.settling(sludge, FED)
    assert np.abs(change).max() > 1
    assert change.sum() == pytest.approx(0, abs=1e-9 * np.abs(change).max())


def test_water_takes_what_it_brings():
    up, down = 10.0, 12.0
    layers, feed = SETTLER.transport(up, down)
    sludge = LOADS["clear above, dense below"]
    change = SETTLER.height * (layers @ sludge + feed * FED).sum()
    kept = (up + down) * FED - up * sludge[0] - down * sludge[-1]
    assert change == pytest.approx(kept, rel=1e-12)


def test_water_of_one_concentration_changes_nothing():
    layers, feed = SETTLER.transport(10.0, 12.0)
    np.testing.assert_allclose(
        layers @ np.ones(10) + feed, 0, atol=1e-12 * np.abs(layers).max()
    )


def test_velocity_by_hand():
    excess = 1000 - 2.28e-3 * FED
    velocity = 474 * (np.exp(-5.76e-4 * excess) - np.exp(-2.86e-3 * excess))
    assert SETTLER.velocity_of(1000.0, FED) == pytest.approx(velocity)


def test_velocity_is_bounded():
    sludge = np.linspace(0, 10_000, 1001)
    velocity = SETTLER.velocity_of(sludge, FED)
    assert velocity.min() == 0.0
    assert velocity.max() == 250.0
    assert (velocity[sludge < 2.28e-3 * FED] == 0).all()


def test_fluxes_by_hand():
    sludge = LOADS["a dense layer above the feed"]
    flux = SETTLER.velocity_of(sludge, FED) * sludge
    sinking = [
        min(flux[0], flux[1]),  # Dense below: it sets the flux.
        flux[1],  # 900 below the threshold: takes all that comes.
        min(flux[2], flux[3]),
        flux[3],
        *(min(flux[i], flux[i + 1]) for i in range(4, 9)),
    ]
    expected = (np.array([0, *sinking]) - np.array([*sinking, 0])) / 0.4
    np.testing.assert_allclose(SETTLER.settling(sludge, FED), expected)


@pytest.mark.parametrize("sludge", LOADS.values(), ids=LOADS)
def test_derivatives_are_those_of_the_rates(sludge):
    # Away from the corners, where there are none.
    sludge = sludge * np.linspace(1, 1.01, 10)
    by_sludge, by_fed = SETTLER.derivatives(sludge, FED)
    for layer, step in enumerate(1e-4 * np.eye(10)):
        numeric = SETTLER.settling(sludge + step, FED)
        numeric = (numeric - SETTLER.settling(sludge - step, FED)) / 2e-4
        np.testing.assert_allclose(
            by_sludge[:, layer], numeric, rtol=1e-6, atol=1e-5
        )
    numeric = SETTLER.settling(sludge, FED + 0.1)
    numeric = (numeric - SETTLER.settling(sludge, FED - 0.1)) / 0.2
    np.testing.assert_allclose(by_fed, numeric, rtol=1e-6, atol=1e-7)


def test_settlers_beside_one_another():
    many = np.stack(list(LOADS.values()), axis=1)
    fed = np.array([FED, 2000.0, 4000.0, FED])
    each = [SETTLER.settling(s, f) for s, f in zip(many.T, fed, strict=True)]
    np.testing.assert_allclose(
        SETTLER.settling(many, fed), np.stack(each, axis=1), rtol=1e-13
    )
