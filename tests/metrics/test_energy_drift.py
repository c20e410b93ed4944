"""The drift of energy, and the controls that collapse cannot pass."""

import numpy as np
import pytest
from keras import ops
from orrery.metrics import EnergyDrift
from orrery.testing import run_metric_contract

RNG = np.random.default_rng(0)
TRACE = RNG.normal(size=(6, 5, 4)).astype("float32")


def reference(y_true, trace, weight=None):
    trace = trace.astype("float64")
    weight = np.ones(len(trace)) if weight is None else weight
    weight = np.broadcast_to(weight[:, None], trace.shape[:-1])
    start = trace[..., 0]
    mean = np.average(start, weights=weight)
    spread = np.sqrt(np.average((start - mean) ** 2, weights=weight))
    drift = np.abs(trace - trace[..., :1]).max(-1)
    return np.average(drift, weights=weight) / spread


@pytest.mark.parametrize("weight", [None, RNG.uniform(0.5, 2.0, 6)])
def test_contract(weight):
    run_metric_contract(
        EnergyDrift,
        np.zeros((6, 5)),
        TRACE,
        sample_weight=weight,
        reference=reference,
        tolerance=1e-4,
    )


def seen(trace, **arguments):
    metric = EnergyDrift(**arguments)
    metric.update_state(None, trace)
    return metric


@pytest.mark.parametrize(("scale", "offset"), [(3.0, 7.0), (0.1, -2.0)])
def test_scale_and_offset_of_energy_do_not_matter(scale, offset):
    before = seen(TRACE).results()
    after = seen(scale * TRACE + offset).results()
    for name in ("drift", "shuffled_ratio"):
        assert after[name] == pytest.approx(before[name], rel=1e-4)
    assert after["spread"] == pytest.approx(scale * before["spread"], rel=1e-4)


def test_energies_far_from_zero():
    trace = (TRACE + 1e4).astype("float32")
    metric = EnergyDrift()
    for part in np.array_split(trace, 4):
        metric.update_state(None, part)
    exact = reference(None, trace)
    assert float(metric.result()) == pytest.approx(exact, rel=1e-3)


def test_unrelated_pairs_of_gaussian_energies():
    energies = RNG.normal(size=(20_000, 1)).astype("float32")
    trace = np.concatenate([energies, energies + 0.01], -1)
    results = seen(trace).results()
    # |a - b| of two standard normals is 2 / sqrt(pi) on average.
    assert results["drift"] == pytest.approx(0.01, rel=0.05)
    assert results["shuffled_ratio"] == pytest.approx(
        0.01 * np.sqrt(np.pi) / 2, rel=0.05
    )


def test_collapse_raises_the_alarm_and_no_drift_does():
    energies = RNG.normal(size=(100, 1)).astype("float32")
    trace = np.repeat(energies, 5, axis=-1)
    kept = seen(trace, reference_spread=1.0)
    assert not kept.collapsed and float(kept.result()) == 0.0
    # A constant potential, and momenta that shrank: nothing drifts here
    # either, and nothing is conserved that was worth it.
    collapsed = seen(0.3 * trace + 5.0, reference_spread=1.0)
    assert collapsed.collapsed and float(collapsed.result()) == 0.0
    assert collapsed.results()["spread_ratio"] < 0.5


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_energies_that_are_not_finite_raise_the_alarm(broken):
    trace = TRACE.copy()
    trace[0, 0, 0] = broken
    assert seen(trace, reference_spread=1.0).collapsed


def test_a_collapse_that_drifts_is_not_perfect():
    metric = seen(np.array([[1.0, 1.5], [1.0, 3.0]], "float32"))
    assert float(metric.result()) == metric.results()["drift"] == np.inf


def test_one_trajectory_is_no_pair():
    assert np.isnan(seen([[1.0, 1.5]]).results()["shuffled_ratio"])
    metric = seen(TRACE)
    before = metric.results()["shuffled_ratio"]
    metric.update_state(None, TRACE[0, 0])
    pairs = float(ops.convert_to_numpy(metric.pairs))
    assert pairs == TRACE[..., 0].size and before > 0


def test_equal_energies_and_no_trajectory():
    assert np.isnan(float(seen(np.ones((3, 2))).result()))
    assert np.isnan(seen(np.ones((3, 2))).results()["drift"])
    assert float(EnergyDrift().result()) == 0.0
    with pytest.raises(ValueError, match="reference_spread"):
        assert seen(TRACE).collapsed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EnergyDrift(reference_spread=0.0), "reference_spread"),
        (lambda: EnergyDrift(spread_floor=1.5), "spread_floor"),
        (lambda: seen(np.ones((3, 1))), "y_pred"),
        (
            lambda: EnergyDrift().update_state(None, TRACE, np.ones(4)),
            "sample_weight",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
