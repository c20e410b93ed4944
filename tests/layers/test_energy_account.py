"""What the account of energy holds, and what it adds to the loss."""

import numpy as np
import pytest
from keras import ops
from orrery.layers import EnergyAccount

TRACE = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")


def reference(layer, trace):
    return trace


def test_contract(contract):
    contract(EnergyAccount, TRACE, reference=reference)


def test_measures_equal_numpy():
    account = EnergyAccount()
    account.build(TRACE.shape)
    account.weight.assign(2.0)
    second = 0.25 * TRACE
    for trace in (TRACE, second):
        account(ops.convert_to_tensor(trace))
    drift = np.abs(TRACE - TRACE[..., :1]).max(-1).mean() / TRACE[..., 0].std()
    error = np.square(TRACE[..., 1:] - TRACE[..., :1]).mean()
    error /= TRACE[..., 0].var()
    measures = account.measures()
    assert measures["drift"] == pytest.approx(drift, rel=1e-4)
    assert measures["spread_ratio"] == pytest.approx((1 + 0.25) / 2, rel=1e-4)
    # The second trace is a quarter as wide: below the floor of a half.
    expected = 2.0 * (error + (error + 0.25**2)) / 2
    assert measures["contribution"] == pytest.approx(expected, rel=1e-4)
    assert float(account.losses[-1]) == pytest.approx(
        2.0 * (error + 0.25**2), rel=1e-4
    )


def test_reset_keeps_the_first_spread():
    account = EnergyAccount()
    account(ops.convert_to_tensor(TRACE))
    account.reset()
    assert np.isnan(account.measures()["drift"])
    account(ops.convert_to_tensor(0.5 * TRACE))
    assert account.measures()["spread_ratio"] == pytest.approx(0.5, rel=1e-4)


def test_one_trajectory_alone_leaves_no_trace():
    """It has no spread: a last batch of one must not count as a collapse."""
    account = EnergyAccount(weight=3.0)
    account(ops.convert_to_tensor(TRACE))
    before = account.measures()
    account(ops.convert_to_tensor(TRACE[:1, :1]))
    assert account.measures() == before
    assert float(account.losses[-1]) == 0.0
    fresh = EnergyAccount(weight=3.0)
    fresh(ops.convert_to_tensor(TRACE[:1, :1]))
    assert float(fresh.first_spread) == 0.0
    fresh(ops.convert_to_tensor(TRACE))
    assert fresh.measures() == before


def test_energies_all_alike_have_no_drift_but_a_spread():
    account = EnergyAccount(weight=2.0)
    account(ops.convert_to_tensor(TRACE))
    drift = account.measures()["drift"]
    alike = TRACE - TRACE[..., :1]  # every trajectory starts at 0
    account(ops.convert_to_tensor(alike))
    measures = account.measures()
    assert measures["drift"] == pytest.approx(drift)
    assert measures["spread_ratio"] == pytest.approx(0.5)
    assert float(account.losses[-1]) == pytest.approx(2.0 * 0.5**2)


def test_a_trace_that_is_not_finite_is_left_out_of_the_sums():
    account = EnergyAccount(weight=1.0)
    broken = TRACE.copy()
    broken[0, 0, 0] = np.nan
    account(ops.convert_to_tensor(broken))
    assert np.isnan(account.measures()["drift"])
    assert float(account.first_spread) == 0.0
    assert np.isnan(float(account.losses[-1]))
    account(ops.convert_to_tensor(TRACE))
    before = account.measures()
    account(ops.convert_to_tensor(broken))
    assert account.measures() == before
