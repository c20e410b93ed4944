"""What says whether a roll-out drifts, and how far it strays."""

import numpy as np
import pytest
from orrery.zoo.rollout_measures import (
    is_steady,
    position_errors,
    secular_drift,
)


def test_drift_and_errors_of_what_diverges():
    energy = np.ones((3, 100))
    energy[1, 50:] = np.inf
    energy[2] = np.linspace(0, 1, 100)
    drift = secular_drift(energy)
    assert drift["error"].tolist() == [0.0, np.inf, 1.0]
    assert drift["trend"][2] == pytest.approx(1.0)
    assert is_steady(drift).tolist() == [True, False, False]
    q = np.zeros((2, 5, 1))
    truth = np.ones((2, 5, 1)) * [[[3.0]], [[4.0]]]
    q[0, 4] = np.nan
    errors = position_errors(q, truth, [1, 4])
    assert errors.tolist() == [pytest.approx(np.sqrt(12.5)), np.inf]
