"""Lower precision: int8 and bfloat16 beside float32, on a trained model."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.metrics.perplexity import Perplexity
from orrery.zoo.koopman_lm import KoopmanLM

VOCABULARY_SIZE, ROWS, LENGTH = 512, 48, 33


def text():
    """Blocks of a random walk: each id has eight likely successors."""
    generator = np.random.default_rng(0)
    successors = generator.integers(0, VOCABULARY_SIZE, (VOCABULARY_SIZE, 8))
    ids = np.zeros((ROWS, LENGTH), "int32")
    ids[:, 0] = generator.integers(0, VOCABULARY_SIZE, ROWS)
    for t in range(1, LENGTH):
        choice = np.minimum(generator.geometric(0.5, ROWS), 8) - 1
        ids[:, t] = successors[ids[:, t - 1], choice]
    return ids[:, :-1], ids[:, 1:]


def perplexity(model):
    tokens, targets = text()
    model.compile(weighted_metrics=[Perplexity()])
    inputs = {"tokens": tokens, "targets": targets}
    return model.evaluate(
        inputs, targets, batch_size=16, verbose=0, return_dict=True
    )["perplexity"]


def make_model(**options):
    keras.utils.set_random_seed(0)
    return KoopmanLM(
        VOCABULARY_SIZE,
        dim=32,
        num_layers=2,
        num_heads=2,
        mixer=["koopman", "attention"],
        num_experts=2,
        koopman={"operator": "gradient", "delays": 1, "lift_dim": 8},
        dropout=0.0,
        **options,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trained model's file, and its perplexity."""
    model = make_model(replacement=0.5)
    tokens, targets = text()
    model.compile(keras.optimizers.Adam(1e-2))
    inputs = {"tokens": tokens, "targets": targets}
    model.fit(inputs, targets, batch_size=16, epochs=12, verbose=0)
    path = tmp_path_factory.mktemp("float") / "model.keras"
    model.save(path)
    value = perplexity(model)
    # It has learned: the perplexity of a uniform guess is 512.
    assert value < 200
    return path, value


def load(saved):
    return keras.saving.load_model(saved[0], compile=False)


def test_int8_keeps_the_perplexity_within_one_percent(saved):
    model = load(saved)
    model.quantize("int8")
    assert perplexity(model) == pytest.approx(saved[1], rel=0.01)


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_the_integer_head(tied):
    model = make_model(tie_embeddings=tied, embedding_stddev=0.5)
    model.build()
    # Not a multiple of a chunk, and weights of zero.
    tokens, targets = (part[:17, :31] for part in text())
    weight = np.ones(tokens.shape, "float32")
    weight[:5] = 0.0
    inputs = {"tokens": tokens, "targets": targets, "sample_weight": weight}
    before = ops.convert_to_numpy(model(inputs))
    model.quantize("int8")
    kernel = (model.head.projection or model.token_embedding).weights[0]
    assert kernel.dtype == "int8"
    nll = ops.convert_to_numpy(model(inputs))
    loss = ops.convert_to_numpy(model.losses[0])
    logits = ops.cast(model(tokens), "float32")
    picked = ops.take_along_axis(logits, targets[..., None], axis=-1)
    expected = ops.logsumexp(logits, axis=-1) - picked[..., 0]
    expected = ops.convert_to_numpy(expected)
    np.testing.assert_allclose(nll, expected, atol=2e-5)
    np.testing.assert_allclose(loss, np.mean(expected * weight), rtol=1e-5)
    assert np.abs(nll - before).max() > 1e-4


def test_a_quantized_model_is_saved_smaller(saved, tmp_path):
    model = load(saved)
    model.quantize("int8")
    tokens, _ = text()
    path = tmp_path / "model.keras"
    model.save(path)
    assert path.stat().st_size < 0.6 * saved[0].stat().st_size
    loaded = keras.saving.load_model(path)
    assert loaded.head.quantization == "int8"
    np.testing.assert_array_equal(
        loaded.predict(tokens, verbose=0), model.predict(tokens, verbose=0)
    )


def test_operators_and_recurrences_stay_float(saved):
    model = load(saved)
    before = [weight.dtype for weight in model.operators[0].weights]
    skill = model.evaluate_operators(text()[0])["skill"]
    model.quantize("int8")
    # They are measured against the quantized blocks.
    assert (model.evaluate_operators(text()[0])["skill"] != skill).all()
    assert [weight.dtype for weight in model.operators[0].weights] == before
    assert model.blocks[0].mixer.nu.dtype == "float32"


def test_a_quantized_model_is_not_trained(saved):
    model = load(saved)
    model.quantize("int8")
    hidden, targets = np.zeros((1, 4, 32), "float32"), text()[1][:1, :4]
    with pytest.raises(ValueError, match="quantize after training"):
        model.head(hidden, targets, training=True)


def test_a_quantized_model_generates(saved):
    pytest.importorskip("keras_hub")
    model = load(saved)
    before = model.generate([5, 6], 16, sampler="greedy")
    model.quantize("int8")
    after = model.generate([5, 6], 16, sampler="greedy")
    logits = ops.convert_to_numpy(model(after[None, :-1]))[0]
    logits[:, :2] = -np.inf
    np.testing.assert_array_equal(after[2:], logits[1:].argmax(-1))
    assert before.shape == after.shape


def test_bfloat16_keeps_the_perplexity_within_one_percent(saved):
    whole = load(saved)
    config = {**whole.get_config(), "dtype": "mixed_bfloat16"}
    model = KoopmanLM.from_config(config)
    model.build()
    model.load_weights(saved[0])
    assert model.compute_dtype == "bfloat16"
    assert perplexity(model) == pytest.approx(saved[1], rel=0.01)
