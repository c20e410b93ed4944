"""The LSTM control: its mathematics, size, causality, training and files."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from orrery.metrics.perplexity import Perplexity
from orrery.testing import compare_backends
from orrery.zoo.lstm_lm import LSTMLM

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 50, (3, 12)).astype("int32")


def small(**kwargs):
    return LSTMLM(50, dim=8, num_layers=2, hidden_dim=12, **kwargs)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rms_norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def reference(weights, tokens):
    """Logits in NumPy; `weights` as `get_weights` orders them."""
    embedding, first, *layers, last, bias = (
        w.astype("float64") for w in weights
    )
    h = rms_norm(embedding[tokens], first)
    for i in range(0, len(layers), 3):
        kernel, recurrent_kernel, b = layers[i : i + 3]
        y = c = np.zeros((len(h), recurrent_kernel.shape[0]))
        outputs = []
        for t in range(h.shape[1]):
            gates = h[:, t] @ kernel + y @ recurrent_kernel + b
            i_gate, forget, value, output = np.split(gates, 4, axis=-1)
            c = sigmoid(forget) * c + sigmoid(i_gate) * np.tanh(value)
            y = sigmoid(output) * np.tanh(c)
            outputs.append(y)
        h = np.stack(outputs, axis=1)
    return rms_norm(h, last) @ embedding.T + bias


def negative_log_likelihood(logits, targets):
    top = logits.max(-1, keepdims=True)
    normaliser = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    picked = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return normaliser - picked


def batch(weight=1.0):
    targets = np.roll(TOKENS, -1, axis=1)
    weights = np.full(TOKENS.shape, weight, "float32")
    return {"tokens": TOKENS, "targets": targets, "sample_weight": weights}


def test_equals_the_recursion():
    model = small(embedding_stddev=0.5)
    logits = ops.convert_to_numpy(model(TOKENS))
    expected = reference(model.get_weights(), TOKENS)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    nll = ops.convert_to_numpy(model(batch()))
    expected = negative_log_likelihood(expected, batch()["targets"])
    np.testing.assert_allclose(nll, expected, atol=1e-5)


def test_mean_is_the_loss():
    model = small()
    nll = ops.convert_to_numpy(model(batch(weight=2.0)))
    loss = ops.convert_to_numpy(model.losses[0])
    np.testing.assert_allclose(loss, 2 * nll.mean(), rtol=1e-5)


def test_streaming_equals_the_full_pass():
    model = small(embedding_stddev=0.5)
    expected = ops.convert_to_numpy(model(TOKENS))
    state = model.initial_state(len(TOKENS), TOKENS.shape[1])
    for index in range(TOKENS.shape[1]):
        token = TOKENS[:, index : index + 1]
        logits, state = model.step(token, state, index)
        np.testing.assert_allclose(
            ops.convert_to_numpy(logits)[:, 0], expected[:, index], atol=1e-5
        )
    assert model.generate([2, 3], max_length=6, seed=0).shape == (6,)


def test_importing_orrery_is_enough_to_load(tmp_path):
    path = tmp_path / "model.keras"
    model = small()
    model.build()
    model.save(path)
    code = f"import orrery; print(orrery.load({str(path)!r}).hidden_dim)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert process.stdout.split() == ["12"], process.stderr


def test_size_within_the_budget():
    model = LSTMLM.of_size(4_200_000)
    model.build()
    assert model.hidden_dim == 336
    assert model.count_params() == 4_194_832
    model = LSTMLM.of_size(20_000, 100, dim=16, num_layers=3)
    model.build()
    assert 16_000 < model.count_params() <= 20_000


def test_rows_and_later_tokens_do_not_matter():
    model = small()
    logits = ops.convert_to_numpy(model(TOKENS))
    changed = TOKENS.copy()
    changed[:, 7:] = (changed[:, 7:] + 1) % 50
    changed = ops.convert_to_numpy(model(changed))
    np.testing.assert_array_equal(changed[:, :7], logits[:, :7])
    assert np.abs(changed[:, 7:] - logits[:, 7:]).max() > 0
    # The state starts afresh in every row: a second call is the same.
    np.testing.assert_array_equal(ops.convert_to_numpy(model(TOKENS)), logits)


def test_first_loss_is_that_of_guessing():
    model = LSTMLM(1000, dim=16, num_layers=2, hidden_dim=16)
    nll = ops.convert_to_numpy(model(batch()))
    assert abs(nll.mean() - np.log(1000)) < 0.3


def test_fit_learns_and_moves_every_weight():
    model = small(dropout=0.0, embedding_stddev=0.5)
    model.build()
    weights = model.trainable_weights
    before = [np.array(ops.convert_to_numpy(w)) for w in weights]
    model.compile(keras.optimizers.Adam(3e-2), weighted_metrics=[Perplexity()])
    inputs = batch()
    history = model.fit(
        inputs,
        inputs["targets"],
        sample_weight=inputs["sample_weight"],
        epochs=60,
        batch_size=3,
        verbose=0,
    ).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    np.testing.assert_allclose(
        history["perplexity"], np.exp(history["loss"]), rtol=1e-4
    )
    for weight, old in zip(weights, before, strict=True):
        assert np.any(ops.convert_to_numpy(weight) != old), weight.path


def test_dropout_acts_in_fit():
    """Under `fit` of every backend, not only in an eager call."""
    losses = []
    for dropout in (0.0, 0.9):
        model = small(dropout=dropout, embedding_stddev=1.0)
        model.build()
        model.set_weights(
            [
                np.sin(np.arange(w.size)).reshape(w.shape)
                for w in model.get_weights()
            ]
        )
        model.compile(keras.optimizers.SGD(0.0))
        inputs = batch()
        history = model.fit(inputs, inputs["targets"], batch_size=3, verbose=0)
        losses.append(history.history["loss"][0])
    assert abs(losses[0] - losses[1]) > 1e-2


def test_file(tmp_path):
    model = small()
    expected = ops.convert_to_numpy(model(TOKENS))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(
        ops.convert_to_numpy(loaded(TOKENS)), expected
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMLM(50, dim=0), "`dim` must be a positive integer"),
        (lambda: LSTMLM(50, num_layers=1.5), "`num_layers` must be"),
        (lambda: LSTMLM.of_size(100), "`parameters` must be at least"),
        (lambda: LSTMLM.of_size(1e7, num_layers=1), "`num_layers` must be"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def build(path):
    model = small(embedding_stddev=0.5)
    model(TOKENS)
    model.save(path)


def run(path):
    model = keras.saving.load_model(path)
    return {
        "logits": ops.convert_to_numpy(model(TOKENS)),
        "nll": ops.convert_to_numpy(model(batch())),
    }


@pytest.mark.cross_backend
def test_backends_agree(tmp_path):
    differences = compare_backends(__file__, tmp_path)
    assert differences["logits"].absolute < 1e-5
    assert differences["nll"].absolute < 1e-5
