"""Causal attention against NumPy; causality; streaming."""

import sys

import numpy as np
import pytest
from keras import ops
from orrery.layers import CausalSelfAttention

X = np.random.default_rng(0).normal(size=(2, 9, 16)).astype("float32")


def turn(x, base=10_000.0):
    """Rotary positions by complex multiplication, `(B, N, H, D)`."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
    pairs = x[..., :half] + 1j * x[..., half:]
    pairs = pairs * np.exp(1j * angle)[:, None, :]
    return np.concatenate([pairs.real, pairs.imag], -1)


def reference(layer, x):
    x = x.astype("float64")
    batch, length, width = x.shape
    heads = layer.num_heads
    joint = ops.convert_to_numpy(layer.query_key_value.kernel)
    output = ops.convert_to_numpy(layer.output_projection.kernel)
    q, k, v = (
        part.reshape(batch, length, heads, -1)
        for part in np.split(x @ joint, 3, axis=-1)
    )
    q, k = turn(q), turn(k)
    y = np.zeros_like(v)
    for t in range(length):
        for b in range(batch):
            for h in range(heads):
                score = k[b, : t + 1, h] @ q[b, t, h] / np.sqrt(q.shape[-1])
                weight = np.exp(score - score.max())
                y[b, t, h] = weight / weight.sum() @ v[b, : t + 1, h]
    return y.reshape(x.shape) @ output


def test_contract(contract):
    contract(lambda: CausalSelfAttention(4), X, reference=reference)


def test_later_tokens_change_nothing_earlier():
    layer = CausalSelfAttention(4)
    before = ops.convert_to_numpy(layer(X))
    changed = X.copy()
    changed[:, 5:] += 10.0
    after = ops.convert_to_numpy(layer(changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).min() > 0


@pytest.mark.parametrize("fused", [True, False])
def test_both_ways_are_the_reference(fused, monkeypatch):
    module = sys.modules[CausalSelfAttention.__module__]
    monkeypatch.setattr(module, "fuses_attention", lambda: fused)
    layer = CausalSelfAttention(4)
    for x in (X, X[:, :1]):
        y = ops.convert_to_numpy(layer(x))
        np.testing.assert_allclose(y, reference(layer, x), atol=1e-5)


def test_streaming_equals_the_full_pass():
    layer = CausalSelfAttention(4)
    full = ops.convert_to_numpy(layer(X))
    state = layer.initial_state(2, 9)
    for t in range(9):
        y, state = layer.step(ops.convert_to_tensor(X[:, t : t + 1]), state, t)
        np.testing.assert_allclose(
            ops.convert_to_numpy(y)[:, 0], full[:, t], rtol=1e-5, atol=1e-5
        )


def test_several_tokens_at_a_time_are_as_many_single_ones():
    layer = CausalSelfAttention(4)
    full = ops.convert_to_numpy(layer(X))
    state = layer.initial_state(2, 12)
    for start, end in ((0, 1), (1, 4), (4, 9)):
        x = ops.convert_to_tensor(X[:, start:end])
        y, state = layer.step(x, state, start)
        np.testing.assert_allclose(
            ops.convert_to_numpy(y), full[:, start:end], atol=1e-5
        )
    # Once more, over what the caches already hold, and have beyond.
    y, _ = layer.step(ops.convert_to_tensor(X[:, 2:6]), state, 2)
    np.testing.assert_allclose(ops.convert_to_numpy(y), full[:, 2:6], atol=1e-5)


def test_remembering_leaves_the_caches_of_a_step():
    layer = CausalSelfAttention(4)
    layer.build(X.shape)
    empty = layer.initial_state(2, 9)
    x = ops.convert_to_tensor(X[:, 3:5])
    _, stepped = layer.step(x, empty, 3)
    remembered = layer.remember(x, empty, 3)
    for one, two in zip(stepped, remembered, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(one), ops.convert_to_numpy(two), atol=1e-6
        )
        assert np.abs(ops.convert_to_numpy(one)[:, 3:5]).min() > 0


def test_some_tokens_of_a_text_keep_their_positions():
    """Tokens 1, 4, 6 at their places: as if the others had no keys."""
    layer = CausalSelfAttention(4)
    layer.build(X.shape)
    chosen = np.array([[1, 4, 6], [0, 2, 8]])
    x = np.take_along_axis(X, chosen[..., None], axis=1)
    y = layer(x, positions=ops.convert_to_tensor(chosen, "int32"))
    for b, places in enumerate(chosen):
        state = layer.initial_state(1, 9)
        for i, place in enumerate(places):
            token = ops.convert_to_tensor(X[b : b + 1, place : place + 1])
            q, k, v = layer._heads(token, ops.convert_to_tensor([place]))
            state = tuple(
                ops.slice_update(cache, (0, i, 0, 0), new)
                for cache, new in zip(state, (k, v), strict=True)
            )
            keys, values = (cache[:, : i + 1] for cache in state)
            one = ops.dot_product_attention(q, keys, values)
            one = layer.output_projection(ops.reshape(one, (1, 1, 16)))
            np.testing.assert_allclose(
                ops.convert_to_numpy(y)[b, i],
                ops.convert_to_numpy(one)[0, 0],
                atol=1e-5,
            )


@pytest.mark.parametrize("num_heads", [0, -1, 1.5])
def test_bad_heads(num_heads):
    with pytest.raises(ValueError, match="num_heads"):
        CausalSelfAttention(num_heads)


def test_width_that_does_not_divide():
    with pytest.raises(ValueError, match="num_heads"):
        CausalSelfAttention(3)(X)
