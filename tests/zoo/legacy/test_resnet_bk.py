"""The original network: its numbers, and each of its faults."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.testing import compare_backends
from orrery.zoo.legacy.resnet_bk import ResNetBK
from orrery.zoo.legacy.resnet_bk_blocks import ArgmaxExperts
from orrery.zoo.legacy.resnet_bk_koopman import (
    KoopmanBranch,
    operator_change,
    wrong_pseudo_inverse,
)
from orrery.zoo.legacy.resnet_bk_resolvent import MODES, resolvent_diagonal
from orrery.zoo.legacy.resnet_bk_training import (
    BatchMeanPerplexity,
    DynamicModeDecomposition,
    PublishedSchedule,
    compile_as_published,
    published_callbacks,
)

# Keras names the gates and psi on the backends that return no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")

VOCABULARY, LENGTH = 40, 16


def generator():
    return np.random.default_rng(0)


def small(**kwargs):
    keras.utils.set_random_seed(0)
    model = ResNetBK(VOCABULARY, LENGTH, dim=8, num_layers=2, **kwargs)
    model.build((None, LENGTH))
    return model


def batch(rows=4, real=None):
    """A batch whose rows after the first `real` are padding."""
    text = generator().integers(0, VOCABULARY, (rows, LENGTH + 1))
    text = text.astype("int32")
    weight = np.ones((rows, LENGTH), "float32")
    weight[rows if real is None else real :] = 0.0
    return {
        "tokens": text[:, :-1],
        "targets": text[:, 1:],
        "sample_weight": weight,
    }


def fit_arguments(data):
    return {
        "x": data,
        "y": data["targets"],
        "sample_weight": data["sample_weight"],
        "batch_size": len(data["tokens"]),
        "shuffle": False,
        "verbose": 0,
    }


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


def gradients(model, data):
    """Path to gradient: one step of plain descent at rate 1 moves by it."""
    before = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    before = [np.array(w) for w in before]
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    model.fit(**fit_arguments(data))
    return {
        w.path.split("/", 1)[1]: old - ops.convert_to_numpy(w)
        for w, old in zip(model.trainable_weights, before, strict=True)
    }


# The resolvent


def inverse(potential):
    """The resolvent at z = i, dense, float64."""
    matrix = np.diag(potential.astype("float64") - 2.0 - 1j)
    ones = np.ones(len(potential) - 1)
    return np.linalg.inv(matrix + np.diag(ones, 1) + np.diag(ones, -1))


def dense_diagonal(potential, mode):
    if mode == "bidirectional":
        return np.diag(inverse(potential))
    return np.array(
        [inverse(potential[:i])[-1, -1] for i in range(1, len(potential) + 1)]
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [2, 3, 8, 128])
def test_resolvent_equals_the_dense_inverse(mode, length):
    rows = [generator().uniform(-3, 3, length)]
    rows += [np.full(length, v) for v in (-3.0, 0.0, 2.0, 3.0)]
    potential = np.stack(rows).astype("float32")
    got = ops.convert_to_numpy(
        resolvent_diagonal(ops.convert_to_tensor(potential), mode)
    )
    wanted = np.stack([dense_diagonal(row, mode) for row in potential])
    np.testing.assert_allclose(got[..., 0], wanted.real, atol=1e-6)
    np.testing.assert_allclose(got[..., 1], wanted.imag, atol=1e-6)


@keras.saving.register_keras_serializable(package="orrery_tests")
class Probe(keras.layers.Layer):
    """Holds v as a weight; adds the inner product of G with a cotangent."""

    def __init__(self, potential, cotangent, mode, gradient):
        super().__init__()
        self.potential = self.add_weight(
            shape=potential.shape, initializer="zeros"
        )
        self.potential.assign(potential)
        self.cotangent = cotangent
        self.arguments = (mode, gradient)

    def call(self, inputs):
        g = resolvent_diagonal(
            ops.convert_to_tensor(self.potential), *self.arguments
        )
        cotangent = ops.convert_to_tensor(self.cotangent)
        self.add_loss(ops.sum(g * cotangent))
        return inputs


def potential_gradient(potential, cotangent, mode, gradient):
    """dL/dv as the backward pass has it; g = dL/dRe G + i dL/dIm G."""
    parts = np.stack([cotangent.real, cotangent.imag], -1).astype("float32")
    probe = Probe(potential.astype("float32"), parts, mode, gradient)
    model = keras.Sequential([keras.Input((1,)), probe])
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    model.fit(np.zeros((1, 1)), verbose=0)
    # In float64: the step rounds v, and the gradients are of order one.
    after = ops.convert_to_numpy(probe.potential).astype("float64")
    return potential.astype("float32") - after


def exact_gradient(potential, cotangent, mode):
    """From dG_ii / dv_j = -G_ij G_ji, float64."""
    if mode == "bidirectional":
        g = inverse(potential)
        return -np.real(np.conj(cotangent) @ (g * g.T))
    result = np.zeros(len(potential))
    for i, c in enumerate(cotangent):
        g = inverse(potential[: i + 1])
        result[: i + 1] -= np.real(np.conj(c) * g[-1] * g[:, -1])
    return result


def published(diagonal, cotangent):
    square = diagonal**2
    theory = -np.real(cotangent * square)
    size = np.abs(square)
    held = np.where(size < 1e-3, square / (size + 1e-9) * 1e-3, square)
    hypothesis = -np.real(cotangent / (held + 1e-6))
    return {
        "theory": theory,
        "hypothesis7": hypothesis,
        "blend": np.clip(0.5 * theory + 0.5 * hypothesis, -1000, 1000),
    }


def cotangents(length):
    """Random; touching Im G only; touching one position only."""
    rng = generator()
    full = rng.normal(size=length) + 1j * rng.normal(size=length)
    single = np.zeros(length, complex)
    single[length // 2] = full[length // 2]
    return np.stack([full, 1j * full.imag, single])


@pytest.mark.parametrize("mode", MODES)
def test_exact_gradient(mode):
    potential = generator().uniform(-3, 3, 24).astype("float32")
    rows = cotangents(24)
    got = potential_gradient(np.tile(potential, (3, 1)), rows, mode, "exact")
    wanted = [exact_gradient(potential, row, mode) for row in rows]
    np.testing.assert_allclose(got, wanted, atol=3e-6)


def test_published_gradients_and_their_angle_to_the_truth():
    """Fault 4: -0.475, +0.788, +0.785; the size 20 times too large."""
    rng = generator()
    potential = 0.47 * rng.normal(size=1000).astype("float32")
    cotangent = rng.normal(size=1000) + 1j * rng.normal(size=1000)
    truth = exact_gradient(potential, cotangent, "bidirectional")
    reference = published(np.diag(inverse(potential)), cotangent)
    angles, sizes = {}, {}
    for gradient, wanted in reference.items():
        got = potential_gradient(
            potential, cotangent, "bidirectional", gradient
        )
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
        size = np.linalg.norm(got)
        angles[gradient] = got @ truth / size / np.linalg.norm(truth)
        sizes[gradient] = size / np.linalg.norm(truth)
    assert angles["theory"] == pytest.approx(-0.475, abs=0.08)
    assert angles["hypothesis7"] == pytest.approx(0.788, abs=0.05)
    assert angles["blend"] == pytest.approx(0.785, abs=0.05)
    assert 15 < sizes["hypothesis7"] < 25


def test_published_gradient_is_clipped():
    cotangent = np.full(8, 1e6 + 0j)
    got = potential_gradient(np.zeros(8), cotangent, "causal", "blend")
    np.testing.assert_array_equal(np.abs(got), 1000.0)


# The network


@pytest.mark.parametrize(
    "preset, total, block",
    [
        ("resnet_bk_legacy", 4_146_120, 66_950),
        ("resnet_bk_legacy_koopman", 5_066_952, 297_158),
    ],
)
def test_published_parameter_counts(preset, total, block):
    model = ResNetBK.from_preset(preset)
    model.build((None, 128))

    def count(weights):
        return sum(int(np.prod(w.shape)) for w in weights)

    assert count(model.trainable_weights) == total
    assert total - 4 * block == 3_878_320
    for each in model.blocks:
        assert count(each.trainable_weights) == block
        assert count(each.experts.trainable_weights) == 66_564
        if each.koopman is not None:
            phi, psi = each.koopman.phi, each.koopman.psi
            assert sum(count(layer.weights) for layer in phi) == 82_432
            assert sum(count(layer.weights) for layer in psi) == 82_240
            assert count([each.koopman.operator]) == 65_536
    frozen = count(model.untrained_weights)
    assert frozen == 1_040 + (4 * 82_240 if model.koopman else 0)


def test_initialisation_is_that_of_pytorch():
    keras.utils.set_random_seed(0)
    model = ResNetBK.from_preset("resnet_bk_legacy_koopman")
    model.build((None, 128))
    table = ops.convert_to_numpy(model.token_embedding)
    assert table.std() == pytest.approx(1.0, abs=0.01)
    for layer, fan_in in (
        (model.head, 64),
        (model.blocks[0].experts.expand, 64),
        (model.blocks[0].experts.contract, 128),
        (model.blocks[0].experts.expert_bias, 128),
        (model.blocks[0].koopman.phi[1], 256),
    ):
        limit = fan_in**-0.5
        for weight in layer.get_weights():
            assert np.abs(weight).max() <= limit
            assert weight.std() == pytest.approx(limit / 3**0.5, rel=0.2)
    operator = ops.convert_to_numpy(model.blocks[0].koopman.operator)
    assert np.linalg.norm(operator) == pytest.approx(16.2, abs=0.1)
    tokens = generator().integers(0, 30_000, (2, 129)).astype("int32")
    nll = model({"tokens": tokens[:, :-1], "targets": tokens[:, 1:]})
    loss = ops.convert_to_numpy(nll).mean()
    assert loss == pytest.approx(np.log(30_000), abs=0.3)


@pytest.mark.parametrize("weight", [0.0, 0.01])
def test_exactly_the_gates_and_psi_get_no_gradient(weight):
    model = small(koopman=True, dropout=0.0)
    model.koopman_weight.assign(weight)
    untrained = {w.path.split("/", 1)[1] for w in model.untrained_weights}
    assert all("gate" in path or "psi" in path for path in untrained)
    if weight == 0.0:
        untrained |= {
            w.path.split("/", 1)[1]
            for w in model.trainable_weights
            if "/koopman/" in w.path
        }
    found = gradients(model, batch())
    assert all(np.isfinite(g).all() for g in found.values())
    assert {k for k, g in found.items() if not g.any()} == untrained


def test_clip_stops_the_gradient_of_the_potential():
    """Fault 5."""
    model = small(dropout=0.0)
    for block in model.blocks:
        block.potential.bias.assign([50.0])
    found = gradients(model, batch())
    assert not found["block_0/potential/kernel"].any()
    assert not found["block_1/potential/bias"].any()


def test_experts_equal_a_loop_over_tokens():
    keras.utils.set_random_seed(0)
    layer = ArgmaxExperts(6)
    x = generator().normal(size=(3, 5, 6)).astype("float32")
    got = ops.convert_to_numpy(layer(x)).reshape(-1, 6)
    gate, gate_bias = layer.gate.get_weights()
    expand, expand_bias = layer.expand.get_weights()
    contract = layer.contract.get_weights()[0]
    bias = layer.expert_bias.get_weights()[0]
    used = set()
    for token, y in zip(x.reshape(-1, 6), got, strict=True):
        e = int(np.argmax(token @ gate + gate_bias))
        part = slice(12 * e, 12 * (e + 1))
        hidden = np.maximum(token @ expand[:, part] + expand_bias[part], 0)
        np.testing.assert_allclose(
            y, hidden @ contract[part] + bias[e], atol=1e-5
        )
        used.add(e)
    assert len(used) > 1


def test_expert_dropout_keeps_the_mean():
    layer = ArgmaxExperts(6, dropout=0.5)
    x = np.tile(generator().normal(size=(1, 1, 6)), (400, 5, 1))
    x = x.astype("float32")
    kept = ops.convert_to_numpy(layer(x, training=True))
    plain = ops.convert_to_numpy(layer(x))
    assert kept.std(axis=(0, 1)).max() > 0.01
    np.testing.assert_allclose(kept.mean((0, 1)), plain.mean((0, 1)), atol=0.03)


def future_influence(model):
    """Largest change at positions <= 7 when the tokens after 7 change."""
    tokens = batch()["tokens"]
    other = tokens.copy()
    other[:, 8:] = (other[:, 8:] + 1) % VOCABULARY
    change = ops.convert_to_numpy(model(tokens) - model(other))
    return np.abs(change).max(axis=(0, 2))[:8]


def test_the_target_leaks_in_bidirectional_mode_only():
    """Fault 1: the influence of the future falls off within a few tokens."""
    leak = future_influence(small())
    assert leak[7] > 1e-3 > leak[0]
    np.testing.assert_array_equal(future_influence(small(mode="causal")), 0)


# Loss and metric


def test_loss_is_the_mean_over_the_tokens_of_the_batch():
    """Fault 15: padding is left out, so a short batch counts in full."""
    model = small()
    data = batch(rows=4, real=1)
    logits = ops.convert_to_numpy(model(data["tokens"]))
    top = logits.max(-1, keepdims=True)
    normaliser = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    picked = np.take_along_axis(logits, data["targets"][..., None], -1)
    wanted = normaliser - picked[..., 0]
    nll = ops.convert_to_numpy(model(data))
    np.testing.assert_allclose(nll, wanted, atol=1e-5)
    assert number(model.losses[0]) == pytest.approx(wanted[0].mean(), abs=1e-5)
    del data["sample_weight"]
    model(data)
    assert number(model.losses[0]) == pytest.approx(wanted.mean(), abs=1e-5)


def test_perplexity_of_batch_means():
    metric = BatchMeanPerplexity()
    y = np.zeros((2, 2), "int32")
    metric.update_state(y, np.full((2, 2), 1.0, "float32"))
    metric.update_state(
        y, np.array([[4.0, 9.0], [9.0, 9.0]], "float32"), [[1, 0], [0, 0]]
    )
    # Weighted by tokens it would be exp(8 / 5).
    assert number(metric.result()) == pytest.approx(np.exp(2.5), rel=1e-6)
    metric.reset_state()
    metric.update_state(y, np.full((2, 2), 1.0, "float32"))
    assert number(metric.result()) == pytest.approx(np.e, rel=1e-6)


# Koopman


def branch(**kwargs):
    keras.utils.set_random_seed(0)
    layer = KoopmanBranch(6, **{"lift_dim": 12, "ring": 5, **kwargs})
    layer.build(None)
    return layer


def lifted(layer, x):
    (w0, b0), (w1, b1) = (part.get_weights() for part in layer.phi)
    return np.tanh(x @ w0 + b0) @ w1 + b1


def test_loss_transposes_the_operator_and_the_forward_mode_does_not():
    """Fault 10."""
    layer = branch()
    layer.operator.assign(3 * generator().normal(size=(12, 12)))
    rng = generator()
    h, following = rng.normal(size=(2, 3, 4, 6)).astype("float32")
    weight = np.full((3, 4), 1 / 8, "float32")
    weight[2] = 0.0
    operator = ops.convert_to_numpy(layer.operator)

    loss, pair = layer.consistency(
        *map(ops.convert_to_tensor, (h, following, weight))
    )
    z, target = lifted(layer, h), lifted(layer, following)
    error = np.abs(z @ operator.T - target)[:2]
    assert (error < 1).any() and (error > 1).any()
    smooth = np.where(error < 1, 0.5 * error**2, error - 0.5)
    assert number(loss) == pytest.approx(smooth.mean(), rel=1e-5)
    wanted = np.stack([z[:2].mean((0, 1)), target[:2].mean((0, 1))])
    np.testing.assert_allclose(ops.convert_to_numpy(pair), wanted, atol=1e-6)

    (w0, b0), (w1, b1) = (part.get_weights() for part in layer.psi)
    wanted = np.tanh(z @ operator @ w0 + b0) @ w1 + b1
    got = ops.convert_to_numpy(layer(h))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_ring_keeps_the_last_columns():
    layer = branch()
    pairs = generator().normal(size=(7, 2, 12)).astype("float32")
    for pair in pairs:
        layer.push(ops.convert_to_tensor(pair), True)
    layer.push(ops.convert_to_tensor(pairs[0]), False)
    assert int(layer.pushes) == 7
    columns = ops.convert_to_numpy(layer.columns)
    for slot, i in enumerate([5, 6, 2, 3, 4]):
        np.testing.assert_array_equal(columns[..., slot], pairs[i])


def test_pseudo_inverse_takes_the_wrong_vectors():
    """Fault 7: it fits nothing, and is far too large on nearby columns."""
    rng = generator()
    base = rng.normal(size=(30, 1))
    matrix = base + 1e-2 * rng.normal(size=(30, 12))
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    v = vt.T
    wrong = wrong_pseudo_inverse(matrix)
    np.testing.assert_allclose(wrong, v[:12, :].T / s @ u.T, rtol=1e-9)
    right = np.linalg.pinv(matrix)
    operator = rng.normal(size=(30, 30)) @ np.diag(0.9 ** np.arange(30))
    following = operator @ matrix

    def misfit(inverse):
        error = following @ inverse @ matrix - following
        return np.linalg.norm(error) / np.linalg.norm(following)

    assert misfit(right) < 1e-12
    assert misfit(wrong) > 0.5
    assert np.linalg.norm(following @ wrong) > 20 * np.linalg.norm(
        following @ right
    )
    assert wrong_pseudo_inverse(np.zeros((4, 3))) is None


def test_update_blends_and_passes_over_failures():
    layer = branch()
    before = np.array(ops.convert_to_numpy(layer.operator))
    columns = generator().normal(size=(2, 12, 5)).astype("float32")
    layer.columns.assign(columns)
    layer.pushes.assign(4)
    assert not layer.update()
    layer.pushes.assign(5)
    assert layer.update()
    wanted = 0.9 * before + 0.1 * columns[1] @ wrong_pseudo_inverse(columns[0])
    got = ops.convert_to_numpy(layer.operator)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    layer.columns.assign(np.zeros((2, 12, 5)))
    assert not layer.update()
    layer.columns.assign(np.full((2, 12, 5), np.nan))
    assert not layer.update()
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.operator), got)


def test_schedule():
    schedule = PublishedSchedule()
    got = [schedule.weight(epoch) for epoch in range(10)]
    wanted = [0] * 5 + [0.008333, 0.016667, 0.025, 0.033333, 0.041667]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_training_with_schedule_fallback_and_decomposition():
    model = small(koopman=True)
    compile_as_published(model)
    data = batch(rows=8)
    data = {k: np.concatenate([v] * 3) for k, v in data.items()}
    arguments = {**fit_arguments(data), "batch_size": 8}
    callbacks = published_callbacks(model)
    assert [type(c) for c in callbacks] == [
        PublishedSchedule,
        DynamicModeDecomposition,
    ]
    history = model.fit(
        **arguments, callbacks=callbacks, initial_epoch=4, epochs=5
    ).history
    assert history["koopman_weight"] == history["koopman_loss"] == [0.0]
    assert history["dmd_updates"] == [0]
    assert int(model.blocks[0].koopman.pushes) == 0

    model.blocks[1].koopman.pushes.assign(98)
    history = model.fit(
        **arguments, callbacks=callbacks, initial_epoch=9, epochs=10
    ).history
    weight = 0.05 * 5 / 6
    assert history["koopman_weight"][0] == pytest.approx(weight)
    assert history["koopman_effective_weight"][0] == pytest.approx(weight)
    assert 0 < history["koopman_loss"][0] < 8
    assert history["koopman_fallback_fraction"] == [0.0]
    assert history["koopman_contribution"][0] == pytest.approx(
        weight * history["koopman_loss"][0], rel=1e-5
    )
    # The pushes 99, 100 and 101: full after the second.
    assert int(model.blocks[0].koopman.pushes) == 3
    assert int(model.blocks[1].koopman.pushes) == 101
    assert history["dmd_updates"] == [2]

    for block in model.blocks:
        block.koopman.operator.assign(1000 * np.eye(256))
    history = model.fit(
        **arguments, callbacks=callbacks, initial_epoch=9, epochs=10
    ).history
    assert history["koopman_loss"][0] > 8
    assert history["koopman_fallback_fraction"] == [1.0]
    assert history["koopman_effective_weight"][0] == pytest.approx(
        0.01 * weight, rel=1e-5
    )
    assert history["koopman_contribution"][0] == pytest.approx(
        0.01 * weight * history["koopman_loss"][0], rel=1e-4
    )


def test_total_loss_is_the_sum_and_training_reduces_it():
    model = small(dropout=0.0)
    compile_as_published(model)
    history = model.fit(**fit_arguments(batch(8)), epochs=30).history
    perplexity = np.array(history["batch_mean_perplexity"])
    np.testing.assert_allclose(np.log(perplexity), history["loss"], rtol=1e-4)
    assert perplexity[-1] < 0.8 * perplexity[0]


def test_decay_spares_only_what_has_no_gradient():
    model = small(koopman=True)
    compile_as_published(model)
    spared = [
        w
        for w in model.trainable_weights
        if not model.optimizer._use_weight_decay(w)
    ]
    assert [w.path for w in spared] == [
        w.path
        for w in model.trainable_weights
        if "/gate/" in w.path or "/psi_" in w.path
    ]


def test_replaced_blocks_run_their_branch():
    model = small(koopman=True)
    tokens = batch()["tokens"]
    standard = model.predict(tokens, verbose=0)
    model.set_replaced([1])
    assert model.replaced == (1,)
    h = model._states(tokens)[1]
    block = model.blocks[1]
    h = h + block.koopman(block.norm(h))
    wanted = ops.convert_to_numpy(model.head(model.final_norm(h)))
    got = model.predict(tokens, verbose=0)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert np.abs(got - standard).max() > 1e-2
    model.set_replaced(())
    np.testing.assert_array_equal(model.predict(tokens, verbose=0), standard)


def test_success_metric():
    """Fault 13."""
    change = operator_change(np.eye(4), 3 * np.eye(4))
    assert change["relative"] == pytest.approx(2.0)
    assert change["reported"] == pytest.approx(8 / 16 / 6)


# Interfaces


def test_config_and_file(tmp_path):
    model = small(koopman=True, mode="causal", gradient="exact")
    config = json.loads(json.dumps(model.get_config()))
    clone = ResNetBK.from_config(config)
    clone.build((None, LENGTH))
    clone.set_weights(model.get_weights())
    tokens = batch()["tokens"]
    wanted = ops.convert_to_numpy(model(tokens))
    np.testing.assert_array_equal(ops.convert_to_numpy(clone(tokens)), wanted)
    model.blocks[0].koopman.pushes.assign(7)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(tokens)), wanted)
    assert int(loaded.blocks[0].koopman.pushes) == 7


@pytest.mark.parametrize(
    "arguments, named",
    [({"mode": "both"}, "mode"), ({"gradient": "adjoint"}, "gradient")],
)
def test_bad_arguments(arguments, named):
    with pytest.raises(ValueError, match=f"`{named}` must be one of"):
        ResNetBK(**arguments)


def test_bad_calls():
    model = small()
    with pytest.raises(ValueError, match="sequences of 16 tokens only"):
        model(batch()["tokens"][:, :-1])
    with pytest.raises(ValueError, match="`indices` must be among"):
        model.set_replaced([0])
    with pytest.raises(ValueError, match="`preset` must be one of"):
        ResNetBK.from_preset("resnet_bk")


def build(path):
    model = small(koopman=True, dropout=0.0)
    model.koopman_weight.assign(0.03)
    model.save(path)


def run(path):
    model = keras.saving.load_model(path)
    data = batch(rows=4, real=3)
    arrays = {
        "logits": ops.convert_to_numpy(model(data["tokens"])),
        "nll": ops.convert_to_numpy(model(data)),
    }
    model.set_replaced([0, 1])
    arrays["koopman_logits"] = ops.convert_to_numpy(model(data["tokens"]))
    model.set_replaced(())
    compile_as_published(model)
    model.fit(**fit_arguments(data), epochs=3)
    for i, weight in enumerate(model.get_weights()):
        arrays[f"weight_{i}"] = weight
    return arrays


@pytest.mark.cross_backend
def test_backends_agree(tmp_path):
    differences = compare_backends(__file__, tmp_path)
    assert differences["logits"].absolute < 1e-5
    assert differences["koopman_logits"].absolute < 1e-5
    assert differences["nll"].absolute < 1e-5
    trained = [d for name, d in differences.items() if "weight" in name]
    assert max(d.absolute for d in trained) < 1e-4
