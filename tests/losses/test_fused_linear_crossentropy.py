"""The fused head against the plain formula, in value and in gradient."""

import sys

import keras
import numpy as np
import pytest
from keras import ops
from orrery.losses import fused_linear_crossentropy
from orrery.testing.gradients import gradients as differentiate

TOKENS, WIDTH, VOCABULARY = 37, 8, 50


class Head(keras.layers.Layer):
    """Holds hidden states, kernel and bias as weights: fit differentiates."""

    def __init__(self, arrays, fused, transpose=False, scale=1.0, chunk=16):
        super().__init__()
        self.arrays, self.fused = arrays, fused
        self.transpose, self.scale, self.chunk = transpose, scale, chunk

    def build(self, input_shape):
        for name in ("hidden", "kernel", "bias"):
            value = self.arrays[name]
            if name == "kernel" and self.transpose:
                value = value.T
            weight = self.add_weight(
                shape=value.shape,
                initializer=lambda shape, dtype, value=value: (
                    ops.convert_to_tensor(value, dtype)
                ),
                name=name,
            )
            setattr(self, name, weight)

    def call(self, inputs):
        targets, weight = inputs[:, 0], inputs[:, 1]
        targets = ops.cast(targets, "int32")
        if self.fused:
            loss, nll = fused_linear_crossentropy(
                ops.convert_to_tensor(self.hidden),
                ops.convert_to_tensor(self.kernel),
                targets,
                bias=ops.convert_to_tensor(self.bias),
                sample_weight=weight,
                transpose=self.transpose,
                chunk_size=self.chunk,
            )
        else:
            kernel = ops.convert_to_tensor(self.kernel)
            if self.transpose:
                kernel = ops.transpose(kernel)
            logits = ops.matmul(self.hidden, kernel) + self.bias
            nll = -ops.take_along_axis(
                ops.log_softmax(logits), targets[:, None], axis=-1
            )[:, 0]
            loss = ops.mean(nll * weight)
        self.add_loss(self.scale * loss)
        return nll


def arrays():
    rng = np.random.default_rng(0)
    return {
        "hidden": rng.normal(size=(TOKENS, WIDTH)).astype("float32"),
        "kernel": rng.normal(size=(WIDTH, VOCABULARY)).astype("float32"),
        "bias": rng.normal(size=VOCABULARY).astype("float32"),
        "targets": rng.integers(0, VOCABULARY, TOKENS),
        "weight": rng.uniform(0, 2, TOKENS) * (rng.uniform(size=TOKENS) > 0.2),
    }


def gradients(head, inputs):
    """Gradients of the head's weights: one step of descent at rate 1."""
    inputs_tensor = keras.Input((2,), batch_size=TOKENS)
    model = keras.Model(inputs_tensor, head(inputs_tensor))
    before = [np.array(w) for w in head.get_weights()]
    model.compile(keras.optimizers.SGD(1.0))
    history = model.fit(inputs, batch_size=TOKENS, shuffle=False, verbose=0)
    after = head.get_weights()
    moved = [a - b for a, b in zip(before, after, strict=True)]
    return history.history["loss"][0], moved


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("chunk", [1, 16, 37, 64])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_equals_the_naive_loss_and_gradient(transpose, chunk, scale):
    given = arrays()
    inputs = np.stack([given["targets"], given["weight"]], 1).astype("float32")
    loss, moved = gradients(Head(given, True, transpose, scale, chunk), inputs)
    naive, expected = gradients(Head(given, False, transpose, scale), inputs)
    assert loss == pytest.approx(naive, rel=1e-6)
    for got, want in zip(moved, expected, strict=True):
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("transpose", [False, True])
def test_the_same_gradient_where_products_are_rounded(transpose, monkeypatch):
    module = sys.modules[fused_linear_crossentropy.__module__]
    monkeypatch.setattr(module, "rounds_products", lambda: True)
    test_equals_the_naive_loss_and_gradient(transpose, 16, 3.0)


def reference(given):
    logits = given["hidden"].astype("float64") @ given["kernel"] + given["bias"]
    top = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
    nll = total - logits[np.arange(TOKENS), given["targets"]]
    return float((nll * given["weight"]).mean()), nll


def test_value_against_numpy_and_evaluation_path():
    given = arrays()
    want, want_nll = reference(given)
    for with_gradient in (True, False):
        loss, nll = fused_linear_crossentropy(
            ops.convert_to_tensor(given["hidden"]),
            ops.convert_to_tensor(given["kernel"]),
            ops.convert_to_tensor(given["targets"].astype("int32")),
            bias=ops.convert_to_tensor(given["bias"]),
            sample_weight=given["weight"],
            with_gradient=with_gradient,
            chunk_size=16,
        )
        assert float(loss) == pytest.approx(want, rel=1e-6)
        np.testing.assert_allclose(
            ops.convert_to_numpy(nll), want_nll, rtol=1e-5, atol=1e-5
        )


def test_extreme_logits_stay_finite():
    hidden = ops.convert_to_tensor(np.full((4, 2), 1e4, "float32"))
    kernel = ops.convert_to_tensor(np.eye(2, 5, dtype="float32"))
    loss, nll = fused_linear_crossentropy(
        hidden, kernel, ops.zeros((4,), "int32")
    )
    assert float(loss) == pytest.approx(np.log(2), rel=1e-5)
    assert np.isfinite(ops.convert_to_numpy(nll)).all()


def test_batched_shape():
    hidden = keras.random.normal((2, 9, WIDTH), dtype="bfloat16", seed=0)
    kernel = keras.random.normal((WIDTH, 20), dtype="bfloat16", seed=1)
    targets = ops.zeros((2, 9), "int32")
    loss, nll = fused_linear_crossentropy(hidden, kernel, targets)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert tuple(nll.shape) == (2, 9)


@pytest.mark.parametrize("certainty", [0.0, 4.0])
def test_gradient_in_bfloat16(certainty):
    """Close to that of float64 also where the model is nearly sure."""
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(20, 32)).astype("float32")
    targets = generator.integers(0, 20, TOKENS)
    hidden = generator.normal(size=(TOKENS, 32)) * 0.1
    hidden = (hidden + 0.1 * certainty * kernel[targets]).astype("float32")

    def rounded(array):
        return ops.convert_to_numpy(
            ops.cast(ops.cast(array, "bfloat16"), "float32")
        )

    hidden, kernel = rounded(hidden), rounded(kernel)

    def loss(hidden, kernel):
        hidden, kernel = (ops.cast(a, "bfloat16") for a in (hidden, kernel))
        return fused_linear_crossentropy(
            hidden, kernel, targets, transpose=True, chunk_size=16
        )[0]

    logits = rounded(hidden.astype("float64") @ kernel.T).astype("float64")
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    if certainty:
        assert softmax[np.arange(TOKENS), targets].mean() > 0.99
    softmax[np.arange(TOKENS), targets] -= 1.0
    expected = (softmax @ kernel / TOKENS, softmax.T @ hidden / TOKENS)
    for found, exact in zip(
        differentiate(loss, [hidden, kernel]), expected, strict=True
    ):
        norm = np.linalg.norm(exact, axis=1)
        error = np.linalg.norm(found - exact, axis=1)
        # The logits are rounded to 16 bits: a step is 6 % of a probability.
        large = norm > 1e-3 * norm.max()
        assert (error[large] < 0.15 * norm[large]).all()


@pytest.mark.parametrize("chunk_size", [0, -1, 2.5])
def test_bad_chunk_size(chunk_size):
    with pytest.raises(ValueError, match="chunk_size"):
        fused_linear_crossentropy(
            ops.zeros((2, 3)),
            ops.zeros((3, 4)),
            ops.zeros((2,), "int32"),
            chunk_size=chunk_size,
        )
