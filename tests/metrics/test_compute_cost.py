"""Multiply-accumulates: the published sums, and those that a program makes."""

import keras
import numpy as np
import pytest
from orrery.metrics import exit_compute_cost
from orrery.zoo import EarlyExitLM
from orrery.zoo.exit_decoding import ExitDecoder

# 64 wide, 2 + 2 layers, 69,830 words, 70.36 % of the tokens leave.
ORIGINAL = {
    "vocabulary_size": 69_830,
    "dim": 64,
    "hidden_dim": 256,
    "blocks": (2, 2),
    "exit_fractions": [0.7036],
}


def percent(policy, confidence="max_prob", **changes):
    cost = exit_compute_cost(
        **{**ORIGINAL, **changes}, confidence=confidence, policy=policy
    )
    return {name: 100 * value for name, value in cost.items()}


def test_what_the_original_saved():
    cost = percent("selected")
    assert cost["layers_only"] == pytest.approx(64.82, abs=0.005)
    assert cost["macs_with_head"] == pytest.approx(126.0, abs=0.05)
    assert cost["macs_executed"] == pytest.approx(194.5, abs=0.05)
    learned = percent("selected", "learned", units=1)["macs_with_head"]
    assert learned == pytest.approx(98.1, abs=0.05)
    learned = percent("propagate", "learned", units=1)["macs_with_head"]
    assert learned == pytest.approx(98.3, abs=0.05)
    alone = percent("selected", blocks=(2,), exit_fractions=[])
    layer, head = 65_536, 69_830 * 64
    full = 4 * layer + head
    assert alone["macs_with_head"] == pytest.approx(100)
    assert (2 * layer + head) / full == pytest.approx(0.972, abs=5e-4)


@pytest.mark.parametrize("policy", ["both", "propagate", "defer", "selected"])
@pytest.mark.parametrize("confidence", ["learned", "max_prob"])
def test_limits(policy, confidence):
    def cost(share):
        return exit_compute_cost(
            256, 192, 768, (3, 7), [share], confidence, policy
        )["macs_with_head"]

    full = 10 * 589_824 + 49_152
    measure = 193 * 64 if confidence == "learned" else 49_152
    if policy == "both":
        more = 49_152 + (measure if confidence == "learned" else 0)
        assert cost(0.0) == cost(1.0) == pytest.approx(1 + more / full)
        return
    assert cost(0.0) == pytest.approx(1 + measure / full)
    shallow = 3 * 589_824 + 49_152 + (measure if confidence == "learned" else 0)
    still = {"propagate": 2 * 192**2, "defer": 589_824}.get(policy, 0)
    assert cost(1.0) == pytest.approx((shallow + 7 * still) / full)


def test_three_exits_by_hand():
    cost = exit_compute_cost(
        11, 8, 16, (1, 2, 3), [0.5, 0.25], "state_similarity", "selected"
    )
    layer, head = 4 * 64 + 3 * 128, 88
    full = 6 * layer + head
    depth = 1 + 0.5 * 2 + 0.25 * 3
    macs = depth * layer + head + 24 * (1 + 0.5)
    assert cost["layers_only"] == pytest.approx(depth / 6)
    assert cost["macs_with_head"] == pytest.approx(macs / full)


@pytest.mark.parametrize("confidence", ["max_prob", "learned"])
@pytest.mark.parametrize("key_value_heads", [None, 1])
@pytest.mark.parametrize("policy", ["both", "capacity"])
def test_counts_what_is_multiplied(
    monkeypatch, key_value_heads, confidence, policy
):
    """Every product with a matrix of weights, as it happens."""
    model = EarlyExitLM(
        31,
        dim=16,
        blocks=(1, 2),
        num_heads=2,
        num_key_value_heads=key_value_heads,
        hidden_dim=24,
        confidence=confidence,
        head="separate",
    )
    model.build()
    products, call = [], keras.layers.Dense.call

    def counted(self, inputs, *args, **kwargs):
        products.append(int(np.prod(inputs.shape)) * self.units)
        return call(self, inputs, *args, **kwargs)

    monkeypatch.setattr(keras.layers.Dense, "call", counted)
    capacity = 0.5 if policy == "capacity" else None
    tokens = np.zeros((2, 8), "int32")
    _, stats = model.forward_inference(tokens, policy, capacity)
    per_token = sum(products) / 16
    key_value_dim = 16 if key_value_heads is None else 8
    layer = 2 * 16**2 + 2 * 16 * key_value_dim + 3 * 16 * 24
    attention = 3 * 2 * 16 * (8 + 1) / 2
    # Half of the tokens go on, each to attend to half as many.
    per_token += attention if policy == "both" else attention * (1 + 2 / 4) / 3
    full = 3 * layer + attention + 31 * 16
    assert stats["compute_cost_executed"] == pytest.approx(per_token / full)


@pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="counted step by step; elsewhere all branches are compiled",
)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("policy", ["propagate", "defer"])
@pytest.mark.parametrize("confidence", ["learned", "max_prob"])
def test_counts_what_decoding_multiplies(confidence, policy, rows):
    """Every product of matrices, attention's own among them, step by step.

    Where nobody or everybody of a batch leaves: between, the last block takes
    some that have left along, to fill one of its shapes.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = EarlyExitLM(
        31,
        dim=16,
        blocks=(1, 2),
        num_heads=2,
        num_key_value_heads=1,
        hidden_dim=24,
        confidence=confidence,
    )
    model.build()
    decoder = ExitDecoder(model, policy)
    length = 8
    tokens = np.zeros((rows, length), "int32")
    layer = 2 * 16**2 + 2 * 16 * 8 + 3 * 16 * 24

    def macs(share, context):
        cost = model.compute_cost([share], policy, context, rows > 1)
        full = 3 * (layer + 2 * 16 * context) + 31 * 16
        return cost["macs_with_head"] * full

    for level, share in ((None, 0.0), (0.0, 1.0)):
        model.set_threshold(level)
        state = decoder.initial_state(rows, length)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            for t in range(length):
                token = keras.ops.convert_to_tensor(tokens[:, t : t + 1])
                _, state = decoder.step(token, state, t)
        counted = counter.get_total_flops() / 2 / rows / length
        # Who comes together is looked at beside the cache.
        beside = decoder.window if policy == "defer" else 1
        assert macs(share, length) <= counted <= macs(share, length + beside)


def test_bad_arguments():
    for name, value in (
        ("vocabulary_size", 0),
        ("policy", "recompute"),
        ("confidence", "entropy"),
        ("exit_fractions", [0.5, 0.5]),
        ("exit_fractions", [1.5]),
        ("exit_fractions", 0.5),
        ("blocks", (0, 7)),
        ("blocks", (2.5, 7)),
        ("blocks", ()),
        ("units", -1),
        ("key_value_dim", 0),
        ("context", -5),
    ):
        with pytest.raises(ValueError, match=name):
            exit_compute_cost(**{**ORIGINAL, name: value})
