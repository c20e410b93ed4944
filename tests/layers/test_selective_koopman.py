"""A linear system chosen by the past: its formulas, and what acts on what."""

import numpy as np
import pytest
from keras import ops
from orrery.layers import SelectiveKoopman
from orrery.layers.selective_koopman import phi1

L, H, X, M, P, N = 6, 5, 3, 2, 1, 8
RNG = np.random.default_rng(0)
PAST = RNG.normal(size=(4, L, X)).astype("float32")
U = RNG.normal(size=(4, L + H - 1, M)).astype("float32")
D = RNG.normal(size=(4, L + H - 1, P)).astype("float32")


def make(**kwargs):
    arguments = {
        "output_dim": X,
        "control_dim": M,
        "disturbance_dim": P,
        "latent_dim": N,
        "hidden_dim": 7,
        "delta_rank": 4,
        "conv_width": 3,
    }
    return SelectiveKoopman(**{**arguments, **kwargs})


def to_numpy(x):
    return ops.convert_to_numpy(x).astype("float64")


def silu(x):
    return x / (1 + np.exp(-x))


def reference(layer, x, u, d):
    """The formulas, one step and one example after the other."""

    def dense(name, x):
        kernel, bias = map(to_numpy, getattr(layer, name).weights)
        return x @ kernel + bias

    x, acting = x.astype("float64"), np.concatenate([u, d], -1)
    acting = acting.astype("float64")
    kernel, bias = to_numpy(layer.kernel), to_numpy(layer.bias)
    alpha = to_numpy(layer.alpha)
    a = -np.where(alpha > 0, alpha, np.exp(alpha) - 1)
    if layer.spectrum == "stable":
        a = -np.exp(alpha)
    out = np.empty((len(x), H, X))
    for b in range(len(x)):
        lifted = dense("lift", np.maximum(dense("hidden", x[b]), 0))
        seen = silu(np.concatenate([lifted[:-1], acting[b, : L - 1]], -1))
        width = len(kernel)
        padded = np.pad(seen, ((width - 1, width - 1), (0, 0)))
        convolved = np.stack(
            [
                (padded[t : t + width] * kernel[..., 0]).sum(0) + bias
                for t in range(len(padded) - width + 1)
            ]
        )
        chosen = dense("chooser", silu(convolved[-H:]))
        z = lifted[-1]
        for k in range(H):
            raw, inputs, read = np.split(chosen[k], [4, 4 + N * (M + P)])
            delta = np.log1p(np.exp(dense("step_size", raw)))
            forward = np.expm1(delta * a) / a
            inputs = forward[:, None] * inputs.reshape(N, M + P)
            z = np.exp(delta * a) * z + inputs @ acting[b, L - 1 + k]
            out[b, k] = z @ read.reshape(N, X)
    return out


@pytest.mark.parametrize("spectrum", ["celu", "stable"])
def test_contract(contract, spectrum):
    contract(
        lambda: make(spectrum=spectrum),
        PAST,
        call_kwargs={"u": U, "d": D},
        reference=lambda layer, _: reference(layer, PAST, U, D),
        variable_length=False,
    )


def test_controls_alone_or_disturbances_alone():
    assert make(disturbance_dim=0)(PAST, U).shape == (4, H, X)
    assert make(control_dim=0)(PAST, None, D).shape == (4, H, X)


def test_phi1():
    x = np.array([0.0, 1e-8, -1e-8, 9.99e-4, 1.001e-3, 1.0, -3.0], "float32")
    exact = np.array(
        [1.0 if v == 0 else np.expm1(v) / v for v in x.astype("float64")]
    )
    np.testing.assert_allclose(to_numpy(phi1(x)), exact, rtol=1e-6)


def test_the_past_alone_chooses_the_system():
    layer, changed = make(), U.copy()
    layer(PAST, U, D)
    changed[:, L - 1 :] += 1
    for one, other in zip(
        layer.operators(PAST, U, D),
        layer.operators(PAST, changed, D),
        strict=True,
    ):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


def test_the_forecast_is_affine_in_what_is_to_come():
    layer = make()
    other = U.copy()
    other[:, L - 1 :] = RNG.normal(size=(4, H, M))
    middle = 0.3 * U + 0.7 * other
    one, two, between = (
        to_numpy(layer(PAST, u.astype("float32"), D))
        for u in (U, other, middle)
    )
    np.testing.assert_allclose(between, 0.3 * one + 0.7 * two, atol=1e-5)
    assert np.abs(one - two).max() > 1e-3


def test_later_controls_change_no_earlier_state():
    layer, changed = make(), U.copy()
    changed[:, L - 1 + 2] += 1
    before, after = (to_numpy(layer(PAST, u, D)) for u in (U, changed))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert (np.abs(before - after)[:, 2:].max(axis=(0, 2)) > 1e-6).all()


def test_stable_modes_fade():
    layer = make(spectrum="stable")
    layer(PAST, U, D)
    _, transition, _, _ = layer.operators(PAST, U, D)
    assert to_numpy(transition).max() < 1


@pytest.mark.parametrize(
    "given, message",
    [
        ({"output_dim": 0}, "`output_dim`"),
        ({"control_dim": -1}, "`control_dim`"),
        ({"control_dim": 0, "disturbance_dim": 0}, "must be above 0"),
        ({"spectrum": "unit"}, "`spectrum`"),
        ({"conv_width": 0}, "`conv_width`"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        make(**given)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ((PAST, U), "`d` must have 1 entries"),
        ((PAST, None, D), "`u` must have 2 entries"),
        ((PAST, D, D), "`u` must have 2 entries"),
        ((PAST[:, :2], U[:, :6], D[:, :6]), "too short for 5 steps"),
        ((PAST, U[:, : L - 1], D[:, : L - 1]), "two rows at least"),
    ],
)
def test_bad_calls(inputs, message):
    with pytest.raises(ValueError, match=message):
        make()(*inputs)
