"""Exits elsewhere: other backends, formats, precisions and processes."""

import hashlib
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from orrery._backend import compile_function
from orrery.optimizers import GuardedOptimizer, adamw_cosine
from orrery.testing import compare_backends, updated_weights
from orrery.testing.cross_backend import run_in_process
from orrery.zoo import EarlyExitLM, exit_routing
from orrery.zoo.ashem_configs import create_deep_supervision_config
from orrery.zoo.exit_decoding import ExitDecoder
from orrery.zoo.exit_measures import measure_route
from orrery.zoo.staged_training import StagedTraining, compute_loss

VOCABULARY_SIZE, LENGTH = 31, 12
RANDOM = np.random.default_rng(0)
TOKENS, OTHERS = RANDOM.integers(
    0, VOCABULARY_SIZE, (2, 4, LENGTH), dtype="int32"
)
TARGETS = np.roll(TOKENS, -1, axis=1)
BATCH = {"tokens": TOKENS, "targets": TARGETS}
# Three ids, each many times in the batch.
REPEATED = {name: ids % 3 for name, ids in BATCH.items()}
POLICIES = {"both": None, "propagate": None, "rows": 0.5, "capacity": 0.5}
BACKEND = keras.backend.backend()
only_jax = pytest.mark.skipif(
    BACKEND != "jax", reason="counts the traces of jax.jit"
)


def small(head="tied", blocks=(1, 2), seed=1, **kwargs):
    keras.utils.set_random_seed(seed)
    model = EarlyExitLM(
        VOCABULARY_SIZE,
        dim=16,
        blocks=blocks,
        num_heads=2,
        num_key_value_heads=1,
        hidden_dim=24,
        head=head,
        embedding_stddev=0.5,
        **kwargs,
    )
    model.build()
    return model


def numpy(structure):
    return keras.tree.map_structure(ops.convert_to_numpy, structure)


def flat(weights):
    return np.concatenate([np.ravel(weight) for weight in numpy(weights)])


def some_leave(model):
    """Put the threshold into the widest gap about the median confidence."""
    confidence = numpy(model.route(TOKENS)["confidence"])
    third = confidence.size // 3
    middle = np.sort(confidence.ravel())[third:-third]
    widest = np.argmax(np.diff(middle))
    model.set_threshold(float(middle[widest : widest + 2].mean()))


# === Losses ===
def losses_of_fit(model):
    model.compile(keras.optimizers.SGD(0.0))
    history = model.fit(BATCH, TARGETS, batch_size=len(TOKENS), verbose=0)
    return history.history["loss"]


@pytest.mark.parametrize(
    "head, distillation", [("tied", 0.0), ("separate", 0.5)]
)
def test_fit_adds_up_the_losses_of_all_exits(head, distillation):
    """On JAX a layer that a model calls again drops the losses it added."""
    model = small(head, (1, 1), distillation=distillation)
    model(BATCH, training=True)
    expected = float(sum(numpy(model.losses)))
    model(BATCH)
    assert expected > 1.1 * float(sum(numpy(model.losses)))
    assert losses_of_fit(model) == pytest.approx([expected], rel=1e-5)


def test_fit_adds_up_the_losses_of_all_stages():
    model = small(blocks=(1, 1))
    config = create_deep_supervision_config(model.num_layers)
    expected = float(numpy(compute_loss(model, TOKENS, TARGETS, config)))
    found = losses_of_fit(StagedTraining(model, config))
    assert found == pytest.approx([expected], rel=1e-5)


# === Across backends ===
CLIP_NORM = 0.5
OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(1.0, global_clipnorm=CLIP_NORM),
    "AdamW": lambda: keras.optimizers.AdamW(1e-3, global_clipnorm=CLIP_NORM),
    "guarded SGD": lambda: GuardedOptimizer(
        keras.optimizers.SGD(1.0), clip_norm=CLIP_NORM
    ),
    "guarded AdamW": lambda: adamw_cosine(20, clip_norm=CLIP_NORM),
}
# With a head of its own the embedding's gradient is sparse on TensorFlow, and
# Keras' own clipping squares it before it adds up a repeated id.
TRAINED = {
    "tied": ("SGD", "AdamW"),
    "separate": ("guarded SGD", "guarded AdamW"),
}
TOLERANCES = {"SGD": 1e-6, "AdamW": 1e-5}


def file_of(head, path):
    return Path(path).with_stem(f"{Path(path).stem}_{head}")


def build(path):
    """Models that a step without clipping moves far."""
    for head in TRAINED:
        model = small(head)
        for weight in model.trainable_variables:
            noise = RANDOM.normal(scale=0.1, size=weight.shape)
            weight.assign_add(noise.astype("float32"))
        some_leave(model)
        model.save(file_of(head, path))
        unclipped = one_step(file_of(head, path), keras.optimizers.SGD(1.0))
        assert unclipped["length"] > 2 * CLIP_NORM


def run(path):
    found = {}
    for head, names in TRAINED.items():
        file = file_of(head, path)
        for key, array in outputs(file).items():
            found[f"{head}: {key}"] = array
        for name in names:
            for key, array in one_step(file, OPTIMIZERS[name]()).items():
                found[f"{head}, {name}: {key}"] = array
            length = found[f"{head}, {name}: length"]
            if "SGD" in name:
                assert abs(length - CLIP_NORM) < 1e-5, (head, name, length)
    return found


def outputs(file):
    model = keras.saving.load_model(file, compile=False)
    found = {
        "weights": flat(model.weights),
        "logits": numpy(model(TOKENS)),
    }
    for policy, capacity in POLICIES.items():
        routed = numpy(model.route(TOKENS, policy, capacity))
        assert len(np.unique(routed["exit"])) == 2, policy
        found |= {f"{policy}, {key}": a for key, a in routed.items()}
    return found


def one_step(file, optimizer):
    """The weights after a step, and how far it went."""
    model = keras.saving.load_model(file, compile=False)
    before = flat(model.trainable_variables)
    targets = REPEATED["targets"]
    found = updated_weights(model, optimizer, REPEATED, targets, steps=1)
    moved = flat(model.trainable_variables) - before
    return {**found, "length": np.linalg.norm(moved)}


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    return compare_backends(__file__, tmp_path_factory.mktemp("portable"))


def of(differences, prefix):
    return {
        name.removeprefix(prefix): difference
        for name, difference in differences.items()
        if name.startswith(prefix)
    }


@pytest.mark.cross_backend
@pytest.mark.parametrize("head", TRAINED)
def test_one_file_on_all_backends(head, differences):
    found = of(differences, f"{head}: ")
    assert len(found) == 2 + 3 * len(POLICIES)
    assert found.pop("weights").absolute == 0.0
    for policy in POLICIES:
        assert found.pop(f"{policy}, exit").absolute == 0.0
    for name, difference in found.items():
        assert difference.absolute < 1e-5, (name, difference)


@pytest.mark.cross_backend
@pytest.mark.parametrize(
    "head, optimizer", [(h, name) for h in TRAINED for name in TRAINED[h]]
)
def test_one_clipped_step_on_repeated_tokens(head, optimizer, differences):
    """Dense gradients by Keras' own optimizers, sparse ones by the guarded.

    Keras' own end up elsewhere on TensorFlow with `head="separate"`: clipped
    SGD by 8e-4 at the most, AdamW without clipping by 2e-3.
    """
    found = of(differences, f"{head}, {optimizer}: ")
    assert found.pop("losses").absolute < 1e-5
    assert len(found) > 20
    for name, difference in found.items():
        tolerance = TOLERANCES[optimizer.split()[-1]]
        assert difference.absolute < tolerance, (name, difference)


# === Other formats ===
@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_runs_all_layers(tmp_path):
    converters = {"jax": "jax2onnx", "tensorflow": "tf2onnx"}
    if BACKEND not in converters:
        pytest.skip(f"{BACKEND}: slow, and does not know RMSNorm")
    pytest.importorskip(converters[BACKEND])
    onnxruntime = pytest.importorskip("onnxruntime")
    model = small(blocks=(1, 1), threshold=0.0)
    path = tmp_path / "model.onnx"
    model.export(path, format="onnx", verbose=False, length=LENGTH)
    session = onnxruntime.InferenceSession(str(path))
    for tokens in (TOKENS[:1], OTHERS):
        (logits,) = session.run(None, {"tokens": tokens})
        np.testing.assert_allclose(logits, numpy(model(tokens)), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_saved_model_runs_all_layers(tmp_path):
    if BACKEND == "torch":
        pytest.skip("PyTorch's exporter takes no such inputs")
    tensorflow = pytest.importorskip("tensorflow")
    model = small(threshold=0.0)
    model.export(tmp_path / "model", verbose=False, length=LENGTH)
    loaded = tensorflow.saved_model.load(tmp_path / "model")
    for tokens in (TOKENS[:1], OTHERS):
        found = np.asarray(loaded.serve(tokens))
        np.testing.assert_allclose(found, numpy(model(tokens)), atol=1e-4)


# === Lower precision ===
def low_and_whole(**kwargs):
    """A model in bfloat16 and one in float32, of the same weights."""
    whole = small(**kwargs)
    some_leave(whole)
    low = small(dtype="mixed_bfloat16", **kwargs)
    low.set_weights(whole.get_weights())
    return low, whole


def dtype(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def test_trains_in_bfloat16():
    model = small(blocks=(1, 1), dtype="mixed_bfloat16", distillation=0.5)
    model.compile(adamw_cosine(4, 1e-2))
    history = model.fit(BATCH, TARGETS, batch_size=4, epochs=4, verbose=0)
    losses = history.history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    model(BATCH, training=True)
    assert {dtype(loss) for loss in model.losses} == {"float32"}
    assert {dtype(weight) for weight in model.weights} == {"float32"}


@pytest.mark.parametrize("head", TRAINED)
def test_logits_in_bfloat16(head):
    low, whole = low_and_whole(head=head)
    expected = numpy(whole(TOKENS))
    error = np.abs(numpy(low(TOKENS)).astype("float32") - expected)
    assert 0 < error.max() < 0.15 * expected.std()


@pytest.mark.parametrize("policy", POLICIES)
def test_routes_in_bfloat16(policy):
    low, whole = low_and_whole()
    routed = low.route(TOKENS, policy, POLICIES[policy])
    assert dtype(routed["confidence"]) == "float32"
    routed = numpy(routed)
    assert np.isfinite(routed["logits"].astype("float32")).all()
    assert len(np.unique(routed["exit"])) == 2
    expected = numpy(whole.route(TOKENS, policy, POLICIES[policy]))
    np.testing.assert_allclose(
        routed["confidence"], expected["confidence"], atol=0.01
    )


def test_thresholds_in_bfloat16_are_float32():
    low, _ = low_and_whole()
    confidence = numpy(low.route(TOKENS)["confidence"])
    for level in np.sort(confidence.ravel())[::5]:
        low.set_threshold(float(level))
        assert low.thresholds == [float(level)]
        left = numpy(low.route(TOKENS, "both")["exit"])
        np.testing.assert_array_equal(left == 0, confidence >= level)


@pytest.mark.parametrize("policy", ["propagate", "defer"])
def test_decodes_in_bfloat16(policy):
    low, _ = low_and_whole()
    decoder, exits = ExitDecoder(low, policy), []
    state = decoder.initial_state(len(TOKENS), LENGTH)
    step = compile_function(decoder.step, low.variables)
    for t in range(LENGTH):
        token = ops.convert_to_tensor(TOKENS[:, t : t + 1])
        z, state = step(token, state, ops.convert_to_tensor(t, "int32"))
        assert np.isfinite(numpy(z).astype("float32")).all()
        exits.append(numpy(state["exit"]))
    assert len(np.unique(exits)) == 2


# === The same again ===
def digest(model):
    content = b"".join(weight.tobytes() for weight in model.get_weights())
    return hashlib.sha256(content).hexdigest()


def short_run(path=None):
    """A training with shuffling and dropout, from a seed."""
    model = small(blocks=(1, 1), dropout=0.1)
    first = digest(model)
    model.compile(adamw_cosine(4, 1e-2))
    history = model.fit(BATCH, TARGETS, batch_size=2, epochs=2, verbose=0)
    return {
        "first": first,
        "losses": history.history["loss"],
        "last": digest(model),
    }


def test_a_seed_determines_weights_and_training(tmp_path):
    here, again = short_run(), short_run()
    assert here == again
    assert here["first"] != here["last"]
    assert here["first"] != digest(small(blocks=(1, 1), seed=2))
    file = tmp_path / "run.npz"
    run_in_process(BACKEND, __file__, "short_run", tmp_path, file)
    with np.load(file) as fresh:
        assert {name: fresh[name].tolist() for name in fresh} == here


# === Compiled once ===
@pytest.fixture
def traces(monkeypatch):
    """Grows by one whenever tokens are chosen for a capacity."""
    calls, choose = [], exit_routing.least_confident

    def counted(confidence, count):
        calls.append(count)
        return choose(confidence, count)

    monkeypatch.setattr(exit_routing, "least_confident", counted)
    return calls


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs eagerly")
def test_capacity_is_traced_once(traces):
    model = small()
    expected = [
        numpy(model.route(tokens, "capacity", 0.5))
        for tokens in (TOKENS, OTHERS)
    ]
    assert (expected[0]["exit"] != expected[1]["exit"]).any()
    route = compile_function(
        lambda tokens: model.route(tokens, "capacity", 0.5), model.variables
    )
    traces.clear()
    for tokens, wanted in zip((TOKENS, OTHERS), expected, strict=True):
        routed = numpy(route(ops.convert_to_tensor(tokens)))
        np.testing.assert_array_equal(routed["exit"], wanted["exit"])
        np.testing.assert_allclose(
            routed["logits"], wanted["logits"], atol=1e-5
        )
    assert traces == [LENGTH // 2]
    route(ops.convert_to_tensor(TOKENS[:, 4:]))
    assert traces == [LENGTH // 2, (LENGTH - 4) // 2]


@only_jax
def test_measures_of_a_capacity_are_traced_once(traces):
    model = small()
    measured = measure_route(model, TOKENS, TARGETS, "capacity", 0.5)
    count = len(traces)
    assert count > 0
    other = measure_route(model, OTHERS, TARGETS, "capacity", 0.5)
    assert len(traces) == count
    assert (measured["exit"] != other["exit"]).any()
    measure_route(model, OTHERS, TARGETS, "capacity", 0.25)
    assert len(traces) > count
