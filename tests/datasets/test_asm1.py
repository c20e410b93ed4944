"""The kinetics of activated sludge keep what chemistry keeps."""

import numpy as np
import pytest
from orrery.datasets.asm1 import (
    ASM1,
    COMPONENTS,
    SALK,
    SI,
    SND,
    SNH,
    SNO,
    SO,
    SOLUBLE,
    SS,
    XBA,
    XBH,
    XI,
    XND,
    XP,
    XS,
    suspended_solids,
)

MODEL = ASM1()


def content(**of):
    """What a gram of each component holds of something."""
    out = np.zeros(13)
    for name, amount in of.items():
        out[COMPONENTS.index(name)] = amount
    return out


def concentrations(count, seed=0):
    return np.random.default_rng(seed).uniform(0.05, 20, (13, count))


def test_oxygen_demand_is_kept():
    demand = content(SI=1, SS=1, XI=1, XS=1, XBH=1, XBA=1, XP=1, SO=-1)
    demand[SNO] = -4.57
    changes = MODEL.stoichiometry() @ demand
    # Nitrate that turns to nitrogen gives its oxygen, not all of its demand.
    denitrified = MODEL.stoichiometry()[1, SNO]
    changes[1] += (4.57 - 2.86) * denitrified
    np.testing.assert_allclose(changes, 0, atol=1e-12)


def test_nitrogen_is_kept_but_for_what_turns_to_gas():
    nitrogen = content(SNO=1, SNH=1, SND=1, XND=1, XBH=0.08, XBA=0.08, XP=0.06)
    changes = MODEL.stoichiometry() @ nitrogen
    gas = -(1 - 0.67) / (2.86 * 0.67)
    np.testing.assert_allclose(changes, [0, gas, 0, 0, 0, 0, 0, 0], atol=1e-12)


def test_charge_is_kept():
    charge = content(SALK=-1, SNO=-1 / 14, SNH=1 / 14)
    changes = MODEL.stoichiometry() @ charge
    np.testing.assert_allclose(changes, 0, atol=1e-12)


def test_rates_of_one_state_by_hand():
    c = np.zeros(13)
    c[[SS, XS, XBH, XBA, SO, SNO, SNH, SND, XND]] = [
        10.0, 50.0, 1000.0, 100.0, 0.2, 0.5, 1.0, 2.0, 5.0
    ]  # fmt: skip
    attack = 3.0 * 1000 / (0.1 * 1000 + 50) * (0.5 + 0.8 * 0.5 * 0.5)
    expected = [
        4.0 * 0.5 * 0.5 * 1000,
        4.0 * 0.5 * 0.5 * 0.5 * 0.8 * 1000,
        0.5 * 0.5 * (0.2 / 0.6) * 100,
        0.3 * 1000,
        0.05 * 100,
        0.05 * 2 * 1000,
        attack * 50,
        attack * 5,
    ]
    np.testing.assert_allclose(MODEL.rates(c), expected, rtol=1e-12)


def test_rates_of_many_states_are_those_of_each():
    many = concentrations(7)
    each = np.stack([MODEL.rates(c) for c in many.T], axis=1)
    np.testing.assert_allclose(MODEL.rates(many), each, rtol=1e-14)


def test_derivatives_are_those_of_the_rates():
    at, step = concentrations(5, seed=1), 1e-6
    numeric = np.stack(
        [
            (MODEL.rates(at + e) - MODEL.rates(at - e)) / (2 * step)
            for e in step * np.eye(13)[:, :, None]
        ],
        axis=1,
    )
    np.testing.assert_allclose(
        MODEL.rate_derivatives(at), numeric, rtol=1e-6, atol=1e-6
    )


def test_what_is_below_zero_counts_as_zero():
    at = concentrations(1, seed=2)
    for component in range(13):
        below, none = at.copy(), at.copy()
        below[component], none[component] = -0.3, 0.0
        np.testing.assert_array_equal(MODEL.rates(below), MODEL.rates(none))
        derivatives = MODEL.rate_derivatives(below)
        np.testing.assert_array_equal(derivatives[:, component], 0)


def test_nothing_is_made_of_nothing():
    none = np.zeros(13)
    np.testing.assert_array_equal(MODEL.rates(none), 0)
    assert np.isfinite(MODEL.rate_derivatives(none)).all()


def test_suspended_solids():
    assert suspended_solids(np.ones(13)) == pytest.approx(0.75 * 5)
    solids = {XI, XS, XBH, XBA, XP}
    for component in range(13):
        weight = suspended_solids(np.eye(13)[component])
        assert weight == (0.75 if component in solids else 0.0)
    assert {SI, SS, SO, SNO, SNH, SND, SALK} == set(SOLUBLE)
    assert XND not in SOLUBLE
