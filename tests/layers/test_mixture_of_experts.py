import warnings

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers.mixture_of_experts import MixtureOfExperts
from orrery.testing import run_layer_contract

DIM, HIDDEN = 6, 5


def array(tensor):
    return ops.convert_to_numpy(tensor).astype("float64")


def silu(x):
    return x / (1 + np.exp(-x))


def token_by_token(layer, inputs):
    """Each token through the experts of its largest probabilities, alone."""
    gate, value, output = (
        array(part.kernel)
        for part in (layer.gate, layer.value, layer.output_projection)
    )
    width = gate.shape[1] // layer.num_experts
    result = np.zeros(inputs.shape)
    for index in np.ndindex(inputs.shape[:-1]):
        u = inputs[index].astype("float64")
        probabilities = np.ones(1)
        if layer.num_experts > 1:
            scores = np.exp(u @ array(layer.router.kernel))
            probabilities = scores / scores.sum()
        for expert in np.argsort(-probabilities)[: layer.top_k]:
            own = slice(expert * width, (expert + 1) * width)
            hidden = silu(u @ gate[:, own]) * (u @ value[:, own])
            result[index] += probabilities[expert] * (hidden @ output[own])
    return result


def built(num_experts, **options):
    layer = MixtureOfExperts(num_experts, HIDDEN, dropout=0.0, **options)
    layer.build((None, None, DIM))
    return layer


def tokens(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("num_experts, top_k", [(1, 1), (4, 1), (4, 2), (3, 3)])
def test_contract_and_equality_with_a_loop_over_tokens(num_experts, top_k):
    run_layer_contract(
        lambda: MixtureOfExperts(num_experts, HIDDEN, top_k, dropout=0.1),
        tokens(3, 8, DIM),
        reference=token_by_token,
        bfloat16_tolerance=0.05 if num_experts == 1 else None,
    )


@pytest.mark.parametrize("num_experts", [1, 4])
def test_parameters(num_experts):
    layer = built(num_experts)
    count = sum(np.prod(w.shape) for w in layer.trainable_weights)
    router = DIM * num_experts if num_experts > 1 else 0
    assert count == 3 * num_experts * DIM * HIDDEN + router
    layer = MixtureOfExperts(num_experts)
    layer.build((None, DIM))
    assert layer.gate.kernel.shape == (DIM, num_experts * 2 * DIM)


def test_one_expert_has_no_router_and_no_balance_loss():
    layer = built(1)
    layer(tokens(2, 3, DIM), training=True)
    assert not layer.losses
    assert len(layer.weights) == 3


def test_every_expert_starts_as_a_lone_one_would():
    for layer in (built(1), built(50)):
        for part in (layer.gate, layer.value, layer.output_projection):
            limit = np.sqrt(6 / (DIM + HIDDEN))
            largest = np.abs(array(part.kernel)).max()
            assert 0.8 * limit < largest <= limit


def test_balance_loss_is_its_weight_at_uniform_and_more_at_unequal_routing():
    layer = built(4, balance_weight=0.01)
    x = np.repeat(np.eye(4, DIM, dtype="float32"), 8, axis=0)
    router = np.zeros((DIM, 4), "float32")

    def balance(scale, rows):
        router[:4] = scale * np.eye(4)
        layer.router.kernel.assign(router)
        layer(x[rows], training=True)
        return float(array(layer.losses[0]))

    everyone = slice(None)
    assert balance(0.0, everyone) == pytest.approx(0.01, rel=1e-5)
    assert balance(20.0, everyone) == pytest.approx(0.01, rel=1e-5)
    assert float(layer.usage_entropy) == pytest.approx(np.log(4), rel=1e-5)
    assert balance(20.0, slice(0, 8)) == pytest.approx(0.04, rel=1e-4)
    assert float(layer.usage_entropy) == pytest.approx(0.0, abs=1e-6)


def test_balance_and_entropy_belong_to_training():
    layer = built(4)
    layer(tokens(2, 3, DIM))
    assert not layer.losses
    assert float(layer.usage_entropy) == 0.0


def test_tokens_do_not_meet():
    layer = built(4)
    x = tokens(2, 5, DIM)
    changed = x.copy()
    changed[:, 3:] += 1.0
    np.testing.assert_array_equal(
        array(layer(x))[:, :3], array(layer(changed))[:, :3]
    )


@pytest.mark.parametrize("num_experts", [1, 4])
def test_quantizes_to_int8(num_experts):
    inputs = keras.Input((5, DIM))
    layer = MixtureOfExperts(num_experts, HIDDEN, dropout=0.0)
    model = keras.Model(inputs, layer(inputs))
    x = tokens(4, 5, DIM)
    expected = array(model(x))
    router_choice = None
    if num_experts > 1:
        router_choice = array(layer.router(x)).argmax(-1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Layer .* does not have a `quantize`")
        model.quantize("int8")
    assert layer.gate.kernel.dtype == "int8"
    same = np.ones(x.shape[:2], bool)
    if num_experts > 1:
        same = array(layer.router(x)).argmax(-1) == router_choice
        assert same.mean() > 0.8
    error = array(model(x)) - expected
    assert np.abs(error[same]).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    "argument, value",
    [
        ("num_experts", 0),
        ("hidden_dim", 0),
        ("top_k", 5),
        ("balance_weight", -1.0),
        ("dropout", 1.0),
    ],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=argument):
        MixtureOfExperts(**{"num_experts": 4, argument: value})
