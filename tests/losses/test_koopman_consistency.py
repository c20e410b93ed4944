import numpy as np
import pytest
from orrery.losses.koopman_consistency import (
    KoopmanConsistency,
    relative_error,
    skill,
)
from orrery.testing import run_loss_contract

generator = np.random.default_rng(0)
Z_NEXT, Z_PREDICTED = generator.normal(size=(2, 4, 6, 9))
X_NEXT, X_PREDICTED = generator.normal(size=(2, 4, 6, 5))


def ratio(target, predicted):
    return np.sum((predicted - target) ** 2) / np.sum(target**2)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
def test_contract():
    run_loss_contract(
        KoopmanConsistency,
        (Z_NEXT, Z_PREDICTED, X_NEXT, X_PREDICTED),
        gradients=(False, True, False, True),
        reference=ratio(Z_NEXT, Z_PREDICTED) + ratio(X_NEXT, X_PREDICTED),
    )


def test_scale_free():
    loss = KoopmanConsistency()
    arrays = (Z_NEXT, Z_PREDICTED, X_NEXT, X_PREDICTED)
    values = [
        float(loss(*((scale * array).astype("float32") for array in arrays)))
        for scale in (1e-3, 1.0, 1e4)
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_exact_prediction_costs_nothing_and_zero_target_is_finite():
    assert float(relative_error(X_NEXT, X_NEXT)) == 0.0
    assert np.isfinite(float(relative_error(0 * X_NEXT, X_NEXT)))


def test_skill_is_one_for_the_truth_and_zero_for_the_identity():
    x = X_PREDICTED
    assert float(skill(x, X_NEXT, X_NEXT)) == 1.0
    assert abs(float(skill(x, X_NEXT, x))) < 1e-6
    halfway = 0.5 * (x + X_NEXT)
    np.testing.assert_allclose(float(skill(x, X_NEXT, halfway)), 0.75, 1e-5)


def test_bad_argument():
    with pytest.raises(ValueError, match="`detach` must be"):
        KoopmanConsistency(detach="source")
