"""The Hamiltonian language model: causality, gradients, energy, saving."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.callbacks import LagrangeMultiplier
from orrery.datasets import LanguageBatches
from orrery.layers import EnergyAccount
from orrery.metrics import Perplexity
from orrery.optimizers import adamw_cosine
from orrery.zoo import HamiltonianLM, KoopmanLM
from orrery.zoo.hamiltonian_lm import COUPLINGS

VOCABULARY, LENGTH = 50, 12
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, VOCABULARY, (4, LENGTH)).astype("int32")
KOOPMAN = {"lift_dim": 16, "delays": 1, "sample_tokens": 64}
couplings = pytest.mark.parametrize("coupling", COUPLINGS)


def make(**changes):
    keras.utils.set_random_seed(1)
    model = HamiltonianLM(
        **{
            "vocabulary_size": VOCABULARY,
            "dim": 16,
            "num_layers": 2,
            "num_heads": 2,
            "hidden_dim": 24,
            "num_steps": 2,
            "dropout": 0.0,
            **changes,
        }
    )
    model.build()
    return model


def text(blocks=16, seed=0):
    """Blocks of a stream in which each token depends on the one before."""
    rng = np.random.default_rng(seed)
    step = rng.integers(1, 4, blocks * (LENGTH + 1))
    stream = (np.cumsum(step) % VOCABULARY).astype("int32")
    stream = stream.reshape(blocks, LENGTH + 1)
    return stream[:, :-1], stream[:, 1:]


def train(model, epochs=3, learning_rate=3e-3, callbacks=(), data=None):
    batches = LanguageBatches(*(data or text()), 4, seed=0)
    keras.utils.set_random_seed(2)
    model.compile(
        adamw_cosine(epochs * len(batches), learning_rate),
        weighted_metrics=[Perplexity()],
    )
    return model.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    ).history


def logits(model, tokens):
    return ops.convert_to_numpy(model(tokens))


@couplings
def test_later_tokens_change_no_earlier_logit(coupling):
    model = make(coupling=coupling)
    before = logits(model, TOKENS)
    for t in (0, 3, LENGTH - 2):
        changed = TOKENS.copy()
        changed[:, t + 1 :] = RNG.integers(0, VOCABULARY, (4, LENGTH - t - 1))
        after = logits(model, changed)
        np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])
    if coupling != "none":
        changed = TOKENS.copy()
        changed[:, 0] = (changed[:, 0] + 1) % VOCABULARY
        assert np.abs(logits(model, changed) - before)[:, -1].max() > 1e-6


@couplings
def test_every_weight_receives_a_gradient(coupling):
    model = make(coupling=coupling)
    before = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    model.compile(keras.optimizers.SGD(1.0))
    x, y = text(4)
    model.fit({"tokens": x, "targets": y}, verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        moved = ops.convert_to_numpy(weight) - old
        assert np.isfinite(moved).all() and np.any(moved), weight.path


@pytest.fixture(scope="module", params=COUPLINGS)
def trained(request):
    """A model of each coupling with its multiplier, and its history."""
    model = make(coupling=request.param)
    multiplier = LagrangeMultiplier(initial=1.0)
    history = train(
        model, epochs=20, learning_rate=1e-2, callbacks=[multiplier]
    )
    return model, history


def test_learns(trained):
    model, history = trained
    has_past = model.get_config()["coupling"] != "none"
    assert history["perplexity"][-1] < (6.0 if has_past else 12.0)  # least: 3
    assert history["perplexity"][0] > 25.0


def test_fresh_random_text_stays_unpredictable(trained):
    """What is to be predicted does not leak into the prediction."""
    model, _ = trained
    x, y = RNG.integers(0, VOCABULARY, (2, 64, LENGTH)).astype("int32")
    nll = ops.convert_to_numpy(model({"tokens": x, "targets": y}))
    assert nll.mean() > np.log(VOCABULARY) - 0.05


def test_saved_file_holds_everything(trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(logits(loaded, TOKENS), logits(model, TOKENS))
    for ours, theirs in zip(model.blocks, loaded.blocks, strict=True):
        assert theirs.account.measures() == ours.account.measures()


@couplings
def test_streaming_equals_the_full_pass(coupling):
    model = make(coupling=coupling)
    full = logits(model, TOKENS)
    state = model.initial_state(4, LENGTH)
    for t in range(LENGTH):
        out, state = model.step(
            ops.convert_to_tensor(TOKENS[:, t : t + 1]), state, t
        )
        np.testing.assert_allclose(
            ops.convert_to_numpy(out)[:, 0], full[:, t], 1e-4, 1e-5
        )


def test_generates():
    pytest.importorskip("keras_hub")
    ids = make().generate([5, 7], max_length=6, seed=0)
    assert ids.shape == (6,) and list(ids[:2]) == [5, 7]


def test_the_account_is_kept_in_training_alone():
    model = make()
    x, y = text(4)
    model({"tokens": x, "targets": y}, training=False)
    accounts = [block.account for block in model.blocks]
    assert all(isinstance(a, EnergyAccount) for a in accounts)
    assert all(np.isnan(a.measures()["drift"]) for a in accounts)
    train(model, epochs=1)
    assert all(a.measures()["drift"] > 0 for a in accounts)


def test_the_loss_is_float32_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make(energy_weight=1.0)
        history = train(model, epochs=1)
        loss = model({"tokens": TOKENS, "targets": TOKENS}, training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history["loss"]).all()
    dtype = keras.backend.standardize_dtype
    assert {dtype(x.dtype) for x in (loss, *model.losses)} == {"float32"}
    assert all(b.compute_dtype == "bfloat16" for b in model.blocks)


def test_accounting_for_energy_changes_no_weight_at_lambda_zero():
    weights = []
    for energy_tokens in (0, 48):
        model = make(energy_tokens=energy_tokens)
        train(model)
        weights.append(
            [ops.convert_to_numpy(w) for w in model.trainable_weights]
        )
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_operators_stand_beside_hamiltonian_blocks():
    model = make(koopman={**KOOPMAN, "operator": "gradient"}, replacement=0.5)
    history = train(model, epochs=2)
    assert np.isfinite(history["loss"]).all()
    model.set_replaced((0, 1))
    assert np.isfinite(logits(model, TOKENS)).all()


def test_shares_names_and_shapes_with_the_koopman_model():
    """What `KoopmanLM` and `HamiltonianLM` have in common can be copied."""

    def shapes(model):
        return {
            w.path.split("/", 1)[1]: tuple(w.shape)
            for w in model.trainable_weights
        }

    keras.utils.set_random_seed(1)
    koopman = KoopmanLM(VOCABULARY, 16, 2, 2, hidden_dim=24)
    koopman.build()
    ours, theirs = shapes(make()), shapes(koopman)
    common = ours.keys() & theirs.keys()
    assert {"token_embedding/embeddings", "final_norm/scale"} <= common
    assert all(ours[name] == theirs[name] for name in common)
    assert sum("mixer" in name for name in common) >= 4


def test_a_last_batch_of_another_size_changes_nothing():
    """Energies are compared within a token's own trajectory alone."""
    x, y = text(4)
    losses = {}
    # Blocks of a single token: the fifth is a batch of one trajectory.
    for rows in (4, 5):
        model = make(energy_tokens=4, energy_weight=1.0)
        model.compile(keras.optimizers.SGD(0.0))
        ones = np.resize(x[:, :1], (rows, 1)), np.resize(y[:, :1], (rows, 1))
        losses[rows] = model.fit(
            dict(zip(("tokens", "targets"), ones, strict=True)),
            batch_size=4,
            shuffle=False,
            verbose=0,
        ).history["loss"]
        measures = [block.account.measures() for block in model.blocks]
        losses[rows] += [m["drift"] for m in measures]
        losses[rows] += [m["contribution"] for m in measures]
    # The loss itself is a mean over one token more.
    assert losses[5][0] == pytest.approx(losses[4][0], rel=0.1)
    assert losses[5][1:] == pytest.approx(losses[4][1:], rel=1e-6)
    assert losses[4][-1] > 0


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"coupling": "sequence"}, "coupling"),
        ({"step_size": 0.0}, "step_size"),
        ({"num_steps": 0}, "num_steps"),
        ({"integrator": "euler"}, "integrator"),
        ({"dim": 15, "coupling": "none"}, "even"),
        ({"hidden_dim": 0}, "hidden_dim"),
        ({"mixer": "x"}, "mixer"),
        ({"energy_tokens": -1}, "energy_tokens"),
        ({"energy_weight": -1.0}, "energy_weight"),
        ({"energy_weight": 1.0, "energy_tokens": 0}, "energy_tokens"),
        ({"koopman": True}, "koopman"),
        ({"mixer": None}, "mixer"),
    ],
)
def test_bad_arguments(changes, argument):
    with pytest.raises(ValueError, match=argument):
        make(**changes)
