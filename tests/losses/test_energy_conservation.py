"""The loss on energy: its value, its invariance, its gradient."""

import numpy as np
import pytest
from keras import ops
from orrery.losses import EnergyConservation
from orrery.losses.energy_conservation import energy_drift, initial_spread
from orrery.testing import run_loss_contract

TRACE = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")


def reference(trace):
    trace = trace.astype("float64")
    error = (trace[..., 1:] - trace[..., :1]) ** 2
    return error.mean() / trace[..., 0].var()


def test_contract():
    run_loss_contract(EnergyConservation, (TRACE,), reference=reference)


@pytest.mark.parametrize(("scale", "offset"), [(3.0, 7.0), (0.1, -2.0)])
def test_scale_and_offset_of_energy_do_not_matter(scale, offset):
    moved = scale * TRACE + offset
    loss = EnergyConservation()
    assert float(loss(moved)) == pytest.approx(float(loss(TRACE)), rel=1e-4)
    np.testing.assert_allclose(
        *(
            ops.convert_to_numpy(energy_drift(t, initial_spread(t)))
            for t in (TRACE, moved)
        ),
        rtol=1e-4,
    )


def test_the_floor_counts_below_half_of_the_first_spread():
    loss, spread = EnergyConservation(0.5), float(initial_spread(TRACE))
    plain = float(loss(TRACE))
    assert float(loss(TRACE, 1.9 * spread)) == pytest.approx(plain)
    squeezed = float(loss(TRACE, 4.0 * spread))
    assert squeezed == pytest.approx(plain + 0.25**2, rel=1e-4)


def test_equal_energies_are_finite():
    assert np.isfinite(float(EnergyConservation()(np.ones((4, 3)), 1.0)))


def test_energies_all_alike_leave_the_floor_alone():
    """Nothing to measure an error in; the collapse itself is punished."""
    loss = EnergyConservation(0.5)
    trace = np.array([[1.0, 1.5], [1.0, 3.0]], "float32")
    assert float(loss(trace, 1.0)) == pytest.approx(0.25)
    # A thousandth of the first spread apart is enough to count.
    apart = np.array([[1.0, 1.0], [1.01, 1.02]], "float32")
    assert float(loss(apart, 1.0)) == pytest.approx(2.0 + 0.495**2, rel=1e-3)


@pytest.mark.parametrize("initial", [0.0, -1.0, float("nan"), np.ones((2, 3))])
def test_bad_initial_spread(initial):
    with pytest.raises(ValueError, match="`initial`"):
        EnergyConservation()(np.ones((2, 3)), initial)


@pytest.mark.parametrize("shape", [(3, 1), (5,), (), (1, 3)])
def test_bad_trace(shape):
    with pytest.raises(ValueError, match="trace"):
        EnergyConservation()(np.ones(shape))


@pytest.mark.parametrize("floor", [-0.1, 1.5, float("nan"), None])
def test_bad_floor(floor):
    with pytest.raises(ValueError, match="spread_floor"):
        EnergyConservation(floor)
