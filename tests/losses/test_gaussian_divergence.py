"""The divergence of Gaussians: its zero, its sign, its definition."""

import numpy as np
from keras import ops
from orrery.losses import gaussian_divergence

RNG = np.random.default_rng(0)
ARGUMENTS = [RNG.normal(size=(50,)).astype("float32") for _ in range(4)]


def divergence(*arguments):
    found = gaussian_divergence(*map(ops.convert_to_tensor, arguments))
    return ops.convert_to_numpy(found)


def test_nothing_between_equals_and_never_negative():
    mean, logvar, *_ = ARGUMENTS
    np.testing.assert_allclose(
        divergence(mean, logvar, mean, logvar), 0, atol=1e-6
    )
    assert divergence(*ARGUMENTS).min() >= 0


def test_it_is_the_mean_of_log_ratios():
    mean, logvar, other_mean, other_logvar = (
        a.astype("float64")[:8] for a in ARGUMENTS
    )
    x = mean + np.exp(logvar / 2) * RNG.normal(size=(1_000_000, 8))
    ratio = 0.5 * (
        (x - other_mean) ** 2 / np.exp(other_logvar)
        + other_logvar
        - (x - mean) ** 2 / np.exp(logvar)
        - logvar
    )
    np.testing.assert_allclose(
        divergence(*ARGUMENTS)[:8], ratio.mean(axis=0), rtol=0.01, atol=2e-3
    )
