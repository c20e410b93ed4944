"""The resolvent mixer against dense inverses and finite differences."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from orrery._backend import compile_function
from orrery.layers.resolvent_mixer import (
    ETA_MIN,
    GRADIENTS,
    MODES,
    V_MAX,
    ResolventMixer,
)
from orrery.layers.tridiagonal_resolvent import resolvent_diagonal
from orrery.testing.cross_backend import run_in_process
from orrery.testing.gradients import gradients

X = np.random.default_rng(0).normal(size=(2, 9, 6)).astype("float32")


def to_numpy(x):
    return ops.convert_to_numpy(x).astype("float64")


def dense_diagonal(alpha, squared, mode):
    """G of chains `(..., N, H)` by one matrix inverse each, or N of them."""
    alpha, squared = (np.moveaxis(a, -2, -1) for a in (alpha, squared))
    diagonal = np.zeros_like(alpha)
    for index in np.ndindex(alpha.shape[:-1]):
        b = np.sqrt(squared[index][1:])
        matrix = np.diag(alpha[index]) + np.diag(b, 1) + np.diag(b, -1)
        if mode == "bidirectional":
            diagonal[index] = np.diag(np.linalg.inv(matrix))
        else:
            for i in range(len(matrix)):
                cut = matrix[: i + 1, : i + 1]
                diagonal[index][i] = np.linalg.inv(cut)[-1, -1]
    return np.moveaxis(diagonal, -1, -2)


def random_chain(length, eta, dtype):
    """Alpha and squared couplings of 2 x 3 chains, v ~ U(-3, 3)."""
    rng = np.random.default_rng(length)
    v = rng.uniform(-3, 3, size=(2, length, 3))
    alpha = (v - 2.0).astype(dtype), np.full_like(v, -eta, dtype)
    squared = rng.uniform(0.5, 1.5, size=v.shape).astype(dtype)
    squared[:, 0] = 0
    return alpha, squared


def solve(alpha, squared, **kwargs):
    function = functools.partial(resolvent_diagonal, **kwargs)
    g = compile_function(function, [])(
        tuple(map(ops.convert_to_tensor, alpha)),
        ops.convert_to_tensor(squared),
    )
    return to_numpy(g[0]) + 1j * to_numpy(g[1])


def diagonal_error(length, eta, mode, dtype):
    """Largest error of G: absolute up to one, relative above."""
    alpha, squared = random_chain(length, eta, dtype)
    exact = alpha[0].astype("float64") + 1j * alpha[1]
    expected = dense_diagonal(exact, squared.astype("float64"), mode)
    error = np.abs(solve(alpha, squared, mode=mode) - expected)
    return (error / np.maximum(1.0, np.abs(expected))).max()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("eta", [0.05, 1.0])
@pytest.mark.parametrize("length", [2, 3, 8, 128])
def test_diagonal_equals_the_dense_inverse(length, eta, mode):
    assert diagonal_error(length, eta, mode, "float32") < 1e-5


# Potential (random or uniform), energy and eta of chains of 8,192 tokens.
LONG_CHAINS = {
    "random": (None, 0.0, 0.05),
    **{
        f"v={v} E={energy}": (v, energy, 0.05)
        for v in (-3.0, 0.0, 3.0)
        for energy in (0.0, -2.0)
    },
    "bulk": (0.0, 0.0, 1.0),
    **{f"eta={eta}": (0.0, -2.0, eta) for eta in (0.05, 0.1, 0.25, 1.0)},
}


@functools.cache
def long_chains(mode):
    """Re alpha, eta and the computed G of every long chain, `(8192, H)`."""
    rng = np.random.default_rng(0)
    columns = [
        (rng.uniform(-3, 3, 8192) if v is None else np.full(8192, v))
        - 2.0
        - energy
        for v, energy, _ in LONG_CHAINS.values()
    ]
    real = np.stack(columns, -1).astype("float32")
    eta = np.array([eta for *_, eta in LONG_CHAINS.values()], "float32")
    squared = np.ones_like(real)
    squared[0] = 0
    alpha = real[None], np.broadcast_to(-eta, real.shape)[None]
    return real, eta, solve(alpha, squared[None], mode=mode)[0]


@pytest.mark.parametrize("mode", MODES)
def test_finite_and_bounded_at_any_length(mode):
    _, eta, g = long_chains(mode)
    assert np.isfinite(g).all()
    assert (np.abs(g) <= (1 + 1e-5) / eta).all()


def test_long_chains_equal_the_loop():
    real, eta, g = long_chains("causal")
    before = 0.0
    for i in range(8192):
        before = 1 / (real[i].astype("float64") - 1j * eta - before)
        error = np.abs(g[i] - before) / np.abs(before)
        assert error.max() < 2e-5


def test_bulk_values():
    """Far from the ends of a uniform chain, v = 0, b = 1."""
    column = list(LONG_CHAINS).index("bulk")
    causal, both = (long_chains(mode)[-1][4096, column] for mode in MODES)
    assert abs(causal - (-0.375189 + 0.300243j)) < 2e-6
    assert abs(both - (-0.303078 + 0.388175j)) < 2e-6
    # |G_{i,i+1} / G_ii| = b / |L|, the inverse of the growth of the minors.
    assert abs(abs(causal) - 0.480534) < 2e-6
    assert abs(1 / abs(causal) - 2.0810) < 1e-4


@pytest.mark.parametrize(
    "eta,reach", [(0.05, 40.0), (0.1, 20.0), (0.25, 8.0), (1.0, 2.08)]
)
def test_reach(eta, reach):
    column = list(LONG_CHAINS).index(f"eta={eta}")
    inverse = abs(long_chains("causal")[-1][4096, column])
    assert abs(inverse - 2 / (eta + np.sqrt(eta**2 + 4))) < 1e-5
    assert abs(-1 / np.log(inverse) - reach) < 0.01 * reach


# TensorFlow takes minutes to compile the gradient through a scan with XLA.
EAGER = keras.backend.backend() == "tensorflow"


def chain_gradients(alpha, squared, cotangent, eager=EAGER, **kwargs):
    """Gradients with respect to Re alpha, Im alpha and b^2."""
    g, h = map(ops.convert_to_tensor, cotangent)

    def loss(real, imaginary, squared):
        diagonal = resolvent_diagonal((real, imaginary), squared, **kwargs)
        return ops.sum(diagonal[0] * g + diagonal[1] * h)

    return gradients(loss, [*alpha, squared], eager)


def cotangents(shape):
    """Losses that see all of G, Im G alone, one position alone."""
    rng = np.random.default_rng(7)
    real, imaginary = rng.normal(size=(2, *shape))
    one = np.zeros(shape)
    one[:, shape[1] // 2] = 1.0
    return {
        "all": (real, imaginary),
        "imaginary": (0.0 * real, imaginary),
        "position": (one * real, one * imaginary),
    }


def float64_errors(_):
    """Errors of G and, against central differences, of its gradients."""
    keras.config.set_floatx("float64")
    errors = {}
    for mode in MODES:
        for length in (2, 3, 8, 128):
            errors[f"{mode}.G.{length}"] = diagonal_error(
                length, 0.05, mode, "float64"
            )
        alpha, squared = random_chain(9, 0.3, "float64")
        for name, cotangent in cotangents(squared.shape).items():
            numerical = central_differences(alpha, squared, cotangent, mode)
            for gradient in GRADIENTS[: 2 if name == "all" else 1]:
                actual = chain_gradients(
                    alpha, squared, cotangent, mode=mode, gradient=gradient
                )
                for part, a, b in zip(
                    ("v", "eta", "b"), actual, numerical, strict=True
                ):
                    # The first token has no coupling to a token before it.
                    error = np.abs(a - b)[:, 1 if part == "b" else 0 :]
                    key = f"{mode}.{name}.{gradient}.{part}"
                    errors[key] = error.max()
    return errors


def central_differences(alpha, squared, cotangent, mode, step=1e-5):
    arrays = [*alpha, squared]

    def value(arrays):
        real, imaginary, squared = arrays
        g = dense_diagonal(real + 1j * imaginary, squared, mode)
        return cotangent[0] * g.real + cotangent[1] * g.imag

    results = []
    for which, array in enumerate(arrays):
        result = np.zeros_like(array)
        for token in range(which == 2, array.shape[1]):
            ends = []
            for sign in (1, -1):
                moved = array.copy()
                moved[:, token] += sign * step
                changed = [*arrays[:which], moved, *arrays[which + 1 :]]
                ends.append(value(changed).sum(axis=1))
            result[:, token] = (ends[0] - ends[1]) / (2 * step)
        results.append(result)
    return results


def test_float64(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    outputs = tmp_path / "errors.npz"
    run_in_process(
        keras.backend.backend(), __file__, "float64_errors", "", outputs
    )
    errors = {k: float(v) for k, v in np.load(outputs).items()}
    diagonal = {k: v for k, v in errors.items() if ".G." in k}
    assert len(errors) == 2 * (4 + 4 * 3)
    assert max(diagonal.values()) < 1e-12, diagonal
    assert max(v for k, v in errors.items() if k not in diagonal) < 1e-6, errors


@pytest.mark.parametrize("mode", MODES)
def test_compiled_adjoint_equals_autodiff(mode):
    alpha, squared = random_chain(150, 0.3, "float32")
    cotangent = cotangents(squared.shape)["all"]
    cotangent = [part.astype("float32") for part in cotangent]
    arrays = alpha, squared, cotangent
    adjoint = chain_gradients(*arrays, eager=False, mode=mode)
    autodiff = chain_gradients(*arrays, mode=mode, gradient="autodiff")
    for a, b in zip(adjoint, autodiff, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def reference(layer, x):
    logits = x @ to_numpy(layer.potential.kernel) + to_numpy(
        layer.potential.bias
    )
    v = V_MAX * np.tanh(logits / V_MAX)
    eta = ETA_MIN + np.log1p(np.exp(to_numpy(layer.damping)))
    alpha = -2 + v - to_numpy(layer.energy) - 1j * eta
    squared = np.broadcast_to(to_numpy(layer.coupling) ** 2, v.shape)
    g = dense_diagonal(alpha, squared, layer.mode)
    kernel = to_numpy(layer.output_projection.kernel)
    return np.concatenate([g.real, g.imag], -1) @ kernel


@pytest.mark.parametrize("mode", MODES)
def test_contract(contract, mode):
    contract(lambda: ResolventMixer(4, mode=mode), X, reference=reference)


def test_heads_start_log_spaced():
    layer = ResolventMixer(8)
    layer.build((None, None, 6))
    eta = 0.05 + np.log1p(np.exp(to_numpy(layer.damping)))
    np.testing.assert_allclose(eta, np.geomspace(0.055, 1.0, 8), rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_later_tokens_change_earlier_ones_in_bidirectional_mode_alone(mode):
    layer = ResolventMixer(4, mode=mode)
    before = ops.convert_to_numpy(layer(X))
    changed = X.copy()
    changed[:, 5:] += 1.0
    difference = np.abs(ops.convert_to_numpy(layer(changed)) - before)
    assert (difference[:, :5].max() > 0) == (mode == "bidirectional")
    assert difference[:, 5:].min() > 0


@pytest.mark.parametrize("mode", MODES)
def test_nothing_passes_a_masked_token(mode):
    layer = ResolventMixer(4, mode=mode)
    alone = ops.convert_to_numpy(layer(X[:, 3:7]))
    mask = np.zeros((2, 9), dtype=bool)
    mask[:, 3:7] = True
    padded = ops.convert_to_numpy(layer(X, mask=ops.convert_to_tensor(mask)))
    np.testing.assert_allclose(padded[:, 3:7], alone, atol=1e-5)


def test_streaming_equals_the_full_pass():
    x = np.random.default_rng(3).normal(size=(2, 200, 6)).astype("float32")
    layer = ResolventMixer()
    full = ops.convert_to_numpy(layer(x))
    state = layer.initial_state(2, 200)
    for t in range(200):
        y, state = layer.step(ops.convert_to_tensor(x[:, t : t + 1]), state, t)
        np.testing.assert_allclose(
            ops.convert_to_numpy(y)[:, 0], full[:, t], 1e-5, 1e-5
        )


def test_bidirectional_mixers_do_not_stream():
    with pytest.raises(ValueError, match="mode"):
        ResolventMixer(mode="bidirectional").initial_state(1, 8)


@pytest.mark.parametrize(
    "argument,value",
    [
        ("num_heads", 0),
        ("num_heads", 2.0),
        ("mode", "acausal"),
        ("gradient", "theory"),
    ],
)
def test_bad_arguments(argument, value):
    with pytest.raises(ValueError, match=argument):
        ResolventMixer(**{argument: value})
