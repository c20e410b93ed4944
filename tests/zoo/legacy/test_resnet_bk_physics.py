"""The original's physics run: its numbers, and each of its faults."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from orrery.testing import compare_backends
from orrery.zoo.legacy.resnet_bk import ResNetBK
from orrery.zoo.legacy.resnet_bk_adamw import LateAdamW
from orrery.zoo.legacy.resnet_bk_physics import PhysicsResNetBK
from orrery.zoo.legacy.resnet_bk_physics_training import EnergyMultipliers
from orrery.zoo.legacy.resnet_bk_training import (
    compile_as_published,
    published_callbacks,
)

# Keras names the gates on the backends that return no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")

VOCABULARY, LENGTH, ROWS, BLOCKS = 40, 16, 4, 2
START = 4


def small(cls=PhysicsResNetBK, dropout=0.0, **kwargs):
    keras.utils.set_random_seed(0)
    if cls is PhysicsResNetBK:
        kwargs["batch_size"] = ROWS
    model = cls(
        VOCABULARY, LENGTH, dim=8, num_layers=BLOCKS, dropout=dropout, **kwargs
    )
    model.build((None, LENGTH))
    return model


class Trained:
    """A model, compiled once, that each test begins with its first weights."""

    def __init__(self, optimizer=None):
        self.model = small()
        if optimizer is None:
            compile_as_published(self.model)
        else:
            self.model.compile(optimizer=optimizer)
        self.model.optimizer.build(self.model.trainable_variables)
        self.variables = self.model.variables + self.model.optimizer.variables
        self.first = arrays(self.variables)

    def restart(self):
        for variable, value in zip(self.variables, self.first, strict=True):
            variable.assign(value)
        return self.model


@pytest.fixture(scope="module")
def _published():
    return Trained()


@pytest.fixture(scope="module")
def _plain():
    return Trained(keras.optimizers.SGD(0.0))


@pytest.fixture
def published(_published):
    """Compiled as the original was."""
    return _published.restart()


@pytest.fixture
def plain(_plain):
    """Compiled with plain descent, at rate 0."""
    return _plain.restart()


def batches(count, last=ROWS):
    """So many batches, of the last the first `last` rows real."""
    rng = np.random.default_rng(0)
    shape = count * ROWS, LENGTH + 1
    text = rng.integers(0, VOCABULARY, shape).astype("int32")
    weight = np.ones((count * ROWS, LENGTH), "float32")
    weight[(count - 1) * ROWS + last :] = 0.0
    return {
        "tokens": text[:, :-1].copy(),
        "targets": text[:, 1:].copy(),
        "sample_weight": weight,
    }


def fit(model, data, epochs=1, first=START, callbacks=None):
    """Train epochs `first`, ...; the history."""
    if callbacks is None:
        callbacks = published_callbacks(model)
    return model.fit(
        x=data,
        y=data["targets"],
        sample_weight=data["sample_weight"],
        batch_size=ROWS,
        shuffle=False,
        verbose=0,
        initial_epoch=first,
        epochs=first + epochs,
        callbacks=callbacks,
    ).history


def arrays(weights):
    return [np.array(ops.convert_to_numpy(w)) for w in weights]


def name(weight):
    return weight.path.split("/", 1)[1]


def named(model):
    weights = model.trainable_weights
    return dict(zip(map(name, weights), arrays(weights), strict=True))


def multipliers(model):
    return np.array(arrays(energy.multiplier for energy in model.energies))


def set_multipliers(model, value):
    for energy in model.energies:
        energy.multiplier.assign(value)


def network(inputs, layers):
    (w0, b0), (w1, b1) = (layer.get_weights() for layer in layers)
    return (np.tanh(inputs @ w0 + b0) @ w1 + b1).sum((1, 2))


def reference(model, tokens, previous):
    """Per block E(x, x') and E(x'), from the formulas."""
    table = ops.convert_to_numpy(model.token_embedding).astype("float64")
    x, before = table[tokens], table[previous]
    return [
        (
            network(x - before, energy.kinetic) + network(x, energy.potential),
            network(before, energy.potential),
        )
        for energy in model.energies
    ]


def expected(model, tokens, previous):
    """Loss with its lambdas, drift and spread of a pair of batches."""
    energies = reference(model, tokens, previous)
    lambdas = multipliers(model)
    gaps = [now - before for now, before in energies]
    return (
        np.mean(
            [m * np.mean(g**2) for m, g in zip(lambdas, gaps, strict=True)]
        ),
        np.mean([np.abs(g) for g in gaps]),
        np.mean([now.std() for now, _ in energies]),
    )


# The network


def test_published_parameter_counts():
    model = PhysicsResNetBK.from_preset("resnet_bk_legacy_physics")
    model.build((None, 128))

    def count(weights):
        return sum(int(np.prod(w.shape)) for w in weights)

    assert count(model.trainable_weights) == 4_179_924
    for block, energy in zip(model.blocks, model.energies, strict=True):
        kinetic, potential = (
            sum(count(layer.weights) for layer in layers)
            for layers in (energy.kinetic, energy.potential)
        )
        assert kinetic == potential == 4_225
        weights = block.trainable_weights + energy.trainable_weights
        assert count(weights) == 75_401
    assert 4_179_924 - 4 * 75_401 == 3_878_320
    tokens = np.random.default_rng(0).integers(0, 30_000, (2, 129))
    tokens = tokens.astype("int32")
    nll = model({"tokens": tokens[:, :-1], "targets": tokens[:, 1:]})
    loss = ops.convert_to_numpy(nll).mean()
    assert loss == pytest.approx(np.log(30_000), abs=0.3)


def test_energies_start_as_pytorch_makes_them():
    model = small()
    for energy in model.energies:
        for layer in energy.kinetic + energy.potential:
            for weight in layer.get_weights():
                assert 0 < np.abs(weight).max() <= 8**-0.5
    assert multipliers(model) == pytest.approx(0.05)


def test_base_weights_are_those_of_the_base_network():
    base, model = named(small(ResNetBK)), named(small())
    for path, weight in base.items():
        np.testing.assert_array_equal(model.pop(path), weight)
    assert all(path.startswith("energy_") for path in model)


def test_logits_do_not_depend_on_the_energies():
    """Fault 4."""
    model = small()
    tokens = batches(1)["tokens"]
    before = np.array(ops.convert_to_numpy(model(tokens)))
    for energy in model.energies:
        for weight in energy.trainable_weights:
            weight.assign(np.ones(weight.shape))
    np.testing.assert_array_equal(ops.convert_to_numpy(model(tokens)), before)


# The loss


def test_loss_drift_and_spread_equal_the_formulas(plain):
    """Faults 1 to 3, on weights that stand still."""
    plain.energies[0].multiplier.assign(0.5)
    plain.energies[1].multiplier.assign(1.5)
    data = batches(3)
    tokens = np.split(data["tokens"], 3)
    logs = fit(plain, data, callbacks=[EnergyMultipliers(rate=0.0)])
    pairs = zip(tokens[1:], tokens[:-1], strict=True)
    loss, drift, spread = np.sum([expected(plain, *p) for p in pairs], axis=0)
    # The first batch has none before it.
    assert logs["energy_loss"][0] == pytest.approx(loss / 3, rel=1e-4)
    assert logs["energy_drift"][0] == pytest.approx(drift / 3, rel=1e-4)
    assert logs["energy_spread"][0] == pytest.approx(spread / 2, rel=1e-4)
    assert logs["energy_multiplier"][0] == pytest.approx(1.0)
    nll = ops.convert_to_numpy(plain(data)).mean()
    assert logs["loss"][0] == pytest.approx(nll + loss / 3, rel=1e-4)


def gradients(model, data, physics):
    """Path to gradient of the second batch; the weights are put back."""
    before = model.get_weights()
    model.begin_epoch(physics)
    for rate, half in ((0.0, slice(ROWS)), (1.0, slice(ROWS, None))):
        model.optimizer.learning_rate = rate
        start = named(model)
        fit(model, {k: v[half] for k, v in data.items()}, callbacks=[])
    change = {path: start[path] - w for path, w in named(model).items()}
    model.set_weights(before)
    return change


def test_energies_learn_from_the_energy_loss_only(plain):
    """And the tokens' table alone learns from the energies."""
    data = batches(2)
    # The two batches have no token in common.
    data["tokens"] = data["tokens"] % 10
    data["tokens"][ROWS:] += 10
    on, off = (gradients(plain, data, physics) for physics in (True, False))
    gates = {name(w) for w in plain.untrained_weights}
    for path, gradient in on.items():
        assert np.isfinite(gradient).all()
        if not path.startswith("energy_"):
            assert off[path].any() == (path not in gates)
            if path != "token_embedding":
                np.testing.assert_allclose(gradient, off[path], atol=1e-6)
        elif path.endswith("potential_1/bias"):
            # It cancels, to a rounding error.
            assert np.abs(gradient).max() < 1e-4
        else:
            assert gradient.any() and not off[path].any()
    pair = data["tokens"][ROWS:], data["tokens"][:ROWS]
    for i, (now, before) in enumerate(reference(plain, *pair)):
        loss = np.mean((now - before) ** 2)
        got = on[f"energy_{i}/multiplier"]
        assert got == pytest.approx(loss / BLOCKS, rel=1e-3)
    # Both batches are looked up anew: neither is a constant.
    felt = np.abs(on["token_embedding"] - off["token_embedding"]).max(1)
    assert (felt[:20] > 1e-4).all()
    assert not felt[20:].any()


def test_batches_of_other_sizes_are_passed_over(plain):
    """Fault 8, and the first batch of an epoch."""
    logs = fit(plain, batches(3, last=2))
    totals = ops.convert_to_numpy(plain.energy_totals)
    assert list(totals[:2]) == [3.0, 1.0]
    assert list(ops.convert_to_numpy(plain.last_drift)) == [0.0, 0.0]
    assert logs["energy_loss"][0] > 0
    logs = fit(plain, batches(1))
    assert logs["energy_loss"] == logs["energy_drift"] == [0.0]
    assert logs["energy_spread"] == [0.0]
    # Padding does not count where both batches are short alike.
    data = batches(2)
    data["sample_weight"][[2, 3, 6, 7]] = 0.0
    wanted = expected(plain, data["tokens"][4:6], data["tokens"][:2])[1]
    (drift,) = fit(plain, data)["energy_drift"]
    assert drift == pytest.approx(wanted / 2, rel=1e-4)


# The training


def test_rule_of_the_multiplier(plain):
    """Fault 7: +0.01 (drift - 0.1) after each step, between 0.01 and 10."""
    data = batches(3)
    # Two of the three steps have a pair; nothing else moves.
    drift = fit(plain, data)["energy_drift"][0] * 3
    wanted = 0.05 + 0.01 * (drift - 2 * 0.1)
    assert multipliers(plain) == pytest.approx(wanted, rel=1e-5)
    for first, limit, rate in ((9.99, 10.0, 1e3), (0.02, 0.01, -1e3)):
        set_multipliers(plain, first)
        fit(plain, data, callbacks=[EnergyMultipliers(rate=rate, target=0.0)])
        assert multipliers(plain) == pytest.approx(limit)


def test_multiplier_is_trained_twice(published):
    """AdamW descends and decays, then the rule: the first step of physics."""
    data = batches(2)
    fit(published, data, first=START - 1)
    (drift,) = fit(published, data)["energy_drift"]
    wanted = 0.05 * (1 - 1e-5) - 1e-3 + 0.01 * (2 * drift - 0.1)
    assert multipliers(published) == pytest.approx(wanted, rel=1e-4)


def test_nothing_happens_before_its_epoch(published):
    """Up to then the run is that of the base network."""
    base = small(ResNetBK)
    compile_as_published(base)
    data = batches(3, last=2)
    first = named(published)
    fit(base, data, epochs=START, first=0)
    logs = fit(published, data, epochs=START, first=0)
    assert logs["energy_loss"] == [0.0] * START
    assert logs["energy_multiplier"] == pytest.approx([0.05] * START)
    assert min(logs["energy_drift"] + logs["energy_spread"]) > 0
    trained = named(published)
    for path, weight in named(base).items():
        np.testing.assert_allclose(trained[path], weight, atol=1e-3)
    for path, weight in trained.items():
        if path.startswith("energy_"):
            np.testing.assert_array_equal(weight, first[path])
    assert fit(published, data)["energy_loss"][0] > 0
    for path, weight in named(published).items():
        if path.startswith("energy_") and "potential_1/bias" not in path:
            assert (weight != first[path]).any(), path


def test_collapse(published):
    """Fault 5: the loss falls because all texts get one energy."""
    published.optimizer.learning_rate = 1e-2
    set_multipliers(published, 1.0)
    logs = fit(published, batches(8), epochs=12)
    assert logs["energy_drift"][-1] < 0.3 * logs["energy_drift"][0]
    assert logs["energy_spread"][-1] < 0.5 * logs["energy_spread"][0]


def adamw_by_weight(gradients, decay):
    """As PyTorch: a weight without gradient is left alone."""
    weight, m, v, step = 1.0, 0.0, 0.0, 0
    for g in gradients:
        if g == 0:
            continue
        step += 1
        weight *= 1 - 1e-2 * decay
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        root = np.sqrt(v / (1 - 0.999**step)) + 1e-8
        weight -= 1e-2 * m / (1 - 0.9**step) / root
    return weight


def test_late_adamw():
    rows = np.random.default_rng(0).normal(size=(3, 12))
    rows[1, :7] = 0.0
    rows[2] = 0.0
    optimizer = LateAdamW(1e-2, weight_decay=0.1)
    weights = [keras.Variable(np.ones(2, "float32")) for _ in rows]
    for column in rows.T:
        optimizer.apply(
            [ops.full((2,), g, dtype="float32") for g in column], weights
        )
    for row, weight in zip(rows, weights, strict=True):
        wanted = adamw_by_weight(row, 0.1)
        got = ops.convert_to_numpy(weight)
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
    config = json.loads(json.dumps(optimizer.get_config()))
    assert LateAdamW.from_config(config).get_config() == config


def test_callbacks():
    assert published_callbacks(small(ResNetBK)) == []
    (callback,) = published_callbacks(small())
    assert (callback.start, callback.rate, callback.target) == (4, 0.01, 0.1)


# Interfaces


def test_config_and_file(published, tmp_path):
    config = small(mode="causal", dropout=0.2).get_config()
    config = json.loads(json.dumps(config))
    assert (config["batch_size"], config["mode"]) == (ROWS, "causal")
    assert PhysicsResNetBK.from_config(config).get_config() == config
    data = batches(3)
    fit(published, data)
    published.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    def compare(tolerance):
        for a, b in zip(
            loaded.get_weights(), published.get_weights(), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)

    compare(0)
    # The optimizer, with the steps of each weight, comes back as well.
    for model in (published, loaded):
        fit(model, data, first=START + 1)
    compare(1e-5)


def test_bad_calls():
    with pytest.raises(ValueError, match="`preset` must be one of"):
        PhysicsResNetBK.from_preset("resnet_bk_legacy")
    data = batches(2)
    with pytest.raises(ValueError, match="`batch_size`=4 rows"):
        small()(data, training=True)


def build(path):
    model = small()
    set_multipliers(model, 0.3)
    model.save(path)


def run(path):
    model = keras.saving.load_model(path)
    compile_as_published(model)
    logs = fit(model, batches(4, last=3))
    result = {key: np.array(values) for key, values in logs.items()}
    for weight in model.trainable_weights:
        if not weight.path.endswith("potential_1/bias"):
            result[f"weight/{name(weight)}"] = ops.convert_to_numpy(weight)
    return result


@pytest.mark.cross_backend
def test_backends_agree(tmp_path):
    differences = compare_backends(__file__, tmp_path)
    for key, difference in differences.items():
        assert difference.absolute < 1e-4, key
