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


def reference(layer, x, seen=None):
    x = x.astype("float64")
    seen = x if seen is None else seen.astype("float64")
    batch, length, width = x.shape
    heads = layer.num_heads
    joint = ops.convert_to_numpy(layer.query_key_value.kernel)
    output = ops.convert_to_numpy(layer.output_projection.kernel)
    shared = layer.num_key_value_heads * width // heads
    q, k, v = (
        (source @ part).reshape(batch, length, -1, width // heads)
        for source, part in zip(
            (x, seen, seen),
            np.split(joint, [width, width + shared], axis=-1),
            strict=True,
        )
    )
    q, k = turn(q), turn(k)
    k, v = (np.repeat(a, heads // a.shape[2], axis=2) for a in (k, v))
    y = np.zeros_like(q)
    for t in range(length):
        for b in range(batch):
            for h in range(heads):
                score = k[b, : t + 1, h] @ q[b, t, h] / np.sqrt(q.shape[-1])
                weight = np.exp(score - score.max())
                y[b, t, h] = weight / weight.sum() @ v[b, : t + 1, h]
    return y.reshape(x.shape) @ output


@pytest.mark.parametrize("key_value_heads", [None, 2, 1])
def test_contract(contract, key_value_heads):
    contract(
        lambda: CausalSelfAttention(4, key_value_heads), X, reference=reference
    )


def test_later_tokens_change_nothing_earlier():
    layer = CausalSelfAttention(4)
    before = ops.convert_to_numpy(layer(X))
    changed = X.copy()
    changed[:, 5:] += 10.0
    after = ops.convert_to_numpy(layer(changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).min() > 0


@pytest.mark.parametrize("key_value_heads", [None, 2])
def test_keys_and_values_of_something_else(key_value_heads):
    layer = CausalSelfAttention(4, key_value_heads)
    seen = X[::-1].copy()
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(X, seen=seen)),
        reference(layer, X, seen),
        atol=1e-5,
    )


@pytest.mark.parametrize("fused", [True, False])
def test_both_ways_are_the_reference(fused, monkeypatch):
    module = sys.modules[CausalSelfAttention.__module__]
    monkeypatch.setattr(module, "fuses_attention", lambda: fused)
    layer = CausalSelfAttention(4)
    for x in (X, X[:, :1]):
        y = ops.convert_to_numpy(layer(x))
        np.testing.assert_allclose(y, reference(layer, x), atol=1e-5)


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_streaming_equals_the_full_pass(key_value_heads):
    layer = CausalSelfAttention(4, key_value_heads)
    full = ops.convert_to_numpy(layer(X))
    state = layer.initial_state(2, 9)
    for t in range(9):
        y, state = layer.step(ops.convert_to_tensor(X[:, t : t + 1]), state, t)
        np.testing.assert_allclose(
            ops.convert_to_numpy(y)[:, 0], full[:, t], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_several_tokens_at_a_time_are_as_many_single_ones(key_value_heads):
    layer = CausalSelfAttention(4, key_value_heads)
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


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_looking_and_writing_is_a_step(key_value_heads):
    layer = CausalSelfAttention(4, key_value_heads)
    layer.build(X.shape)
    state = layer.initial_state(2, 9)
    _, state = layer.step(ops.convert_to_tensor(X[:, :3]), state, 0)
    x = ops.convert_to_tensor(X[:, 3:5])
    y, stepped = layer.step(x, state, 3)
    looked, entry = layer.look(x, state, 3)
    np.testing.assert_allclose(
        *map(ops.convert_to_numpy, (y, looked)), atol=1e-5
    )
    for written in (entry, layer.entry(x, 3)):
        for one, two in zip(
            stepped, layer.write(state, written, 3), strict=True
        ):
            one, two = map(ops.convert_to_numpy, (one, two))
            np.testing.assert_allclose(one, two, atol=1e-6)
            assert np.abs(one[:, 3:5]).min() > 0


def test_some_tokens_of_a_text_keep_their_positions():
    """Tokens 1, 4, 6 at their places: as if the others had no keys."""
    layer = CausalSelfAttention(4)
    layer.build(X.shape)
    chosen = np.array([[1, 4, 6], [0, 2, 8]])
    x = np.take_along_axis(X, chosen[..., None], axis=1)
    y = layer(x, positions=ops.convert_to_tensor(chosen, "int32"))
    for b, places in enumerate(chosen):
        token = ops.convert_to_tensor(x[b : b + 1])
        q, k, v = layer._heads(token, ops.convert_to_tensor(places, "int32"))
        for i in range(3):
            one = ops.dot_product_attention(
                q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1]
            )
            one = layer.output_projection(ops.reshape(one, (1, 1, 16)))
            np.testing.assert_allclose(
                ops.convert_to_numpy(y)[b, i],
                ops.convert_to_numpy(one)[0, 0],
                atol=1e-5,
            )


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_some_rows_are_those_of_the_batch(key_value_heads):
    layer = CausalSelfAttention(4, key_value_heads)
    layer.build(X.shape)
    state = layer.initial_state(2, 9)
    _, state = layer.step(ops.convert_to_tensor(X[:, :5]), state, 0)
    x = ops.convert_to_tensor(X[:, 5:6])
    expected, _ = layer.look(x, state, 5)
    for rows in ([1], [0, 1], [1, 0]):
        index = ops.convert_to_tensor(rows)
        y, entry = layer.look(
            ops.take(x, index, axis=0), layer.take_rows(state, index), 5
        )
        np.testing.assert_allclose(
            ops.convert_to_numpy(y),
            ops.convert_to_numpy(expected)[rows],
            atol=1e-5,
        )
        assert entry[0].shape == (len(rows) * key_value_heads, 1, 4)


@pytest.mark.parametrize("num_heads", [0, -1, 1.5])
def test_bad_heads(num_heads):
    with pytest.raises(ValueError, match="num_heads"):
        CausalSelfAttention(num_heads)


@pytest.mark.parametrize("heads", [0, 3, 8, 1.5])
def test_bad_key_value_heads(heads):
    with pytest.raises(ValueError, match="num_key_value_heads"):
        CausalSelfAttention(4, heads)


def test_width_that_does_not_divide():
    with pytest.raises(ValueError, match="num_heads"):
        CausalSelfAttention(3)(X)
