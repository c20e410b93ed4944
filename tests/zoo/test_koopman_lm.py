"""The Koopman language model: causality, convention, probe, learning."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.datasets import LanguageBatches
from orrery.layers import LinearRecurrence
from orrery.losses import KoopmanConsistency
from orrery.metrics import Perplexity
from orrery.optimizers import adamw_cosine
from orrery.zoo import LSTMLM, KoopmanLM
from orrery.zoo.backbone import MIXERS

VOCABULARY, LENGTH = 50, 12
KOOPMAN = {"lift_dim": 16, "delays": 1, "sample_tokens": 64}
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, VOCABULARY, (4, LENGTH)).astype("int32")


def make(**changes):
    config = {
        "vocabulary_size": VOCABULARY,
        "dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 24,
        "dropout": 0.0,
        **changes,
    }
    keras.utils.set_random_seed(1)
    model = KoopmanLM(**config)
    model.build()
    return model


def logits(model, tokens):
    return ops.convert_to_numpy(model(tokens))


def text(blocks=16, seed=0):
    """Blocks of a stream in which each token depends on the one before."""
    rng = np.random.default_rng(seed)
    step = rng.integers(1, 4, blocks * (LENGTH + 1))
    stream = (np.cumsum(step) % VOCABULARY).astype("int32")
    stream = stream.reshape(blocks, LENGTH + 1)
    return stream[:, :-1], stream[:, 1:]


def train(
    model,
    epochs=3,
    learning_rate=3e-3,
    data=None,
    callbacks=None,
    batch_size=4,
):
    batches = LanguageBatches(*(data or text()), batch_size, seed=0)
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
        callbacks=callbacks,
    ).history


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("replaced", [(), (0,), (0, 1)])
def test_later_tokens_change_no_earlier_logit(mixer, replaced):
    model = make(mixer=mixer, koopman={**KOOPMAN, "delays": 2})
    for operator in model.operators:
        shape = operator.kernel.shape
        operator.kernel.assign(
            0.1 * np.random.default_rng(3).normal(size=shape)
        )
    model.set_replaced(replaced)
    before = logits(model, TOKENS)
    for position in range(LENGTH - 1):
        changed = TOKENS.copy()
        changed[:, position + 1 :] = RNG.integers(
            0, VOCABULARY, changed[:, position + 1 :].shape
        )
        after = logits(model, changed)
        np.testing.assert_array_equal(
            before[:, : position + 1], after[:, : position + 1]
        )


@pytest.mark.parametrize("mixer", MIXERS)
def test_any_length(mixer):
    model = make(mixer=mixer)
    for length in (1, 5, LENGTH):
        part = TOKENS[:, :length]
        assert logits(model, part).shape == (4, length, VOCABULARY)
    np.testing.assert_allclose(
        logits(model, TOKENS[:, :5]), logits(model, TOKENS)[:, :5], atol=1e-5
    )


def test_initial_loss_is_that_of_a_uniform_guess():
    model = make(vocabulary_size=1000, dim=32)
    nll = model({"tokens": TOKENS, "targets": TOKENS})
    assert abs(ops.convert_to_numpy(nll).mean() - np.log(1000)) < 0.3


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("tie", [True, False])
def test_every_weight_receives_a_gradient(mixer, tie):
    model = make(
        mixer=mixer,
        tie_embeddings=tie,
        num_experts=2,
        koopman={**KOOPMAN, "operator": "gradient"},
        replacement=0.5,
    )
    model.koopman_weight.assign(0.1)
    x, y = text()
    before = [np.array(w) for w in model.get_weights()]
    model.compile(keras.optimizers.SGD(1.0))
    weight = np.ones(x.shape, "float32")
    model.fit(
        {"tokens": x, "targets": y, "sample_weight": weight},
        y,
        batch_size=16,
        verbose=0,
    )
    trainable = {id(w) for w in model.trainable_weights}
    for variable, old, new in zip(
        model.weights, before, model.get_weights(), strict=True
    ):
        assert np.isfinite(new).all(), variable.path
        if id(variable) in trainable:
            assert np.abs(new - old).max() > 0, variable.path


def test_replacing_nothing_is_the_model():
    base, with_operators = make(), make(koopman=KOOPMAN)
    np.testing.assert_array_equal(
        logits(base, TOKENS), logits(with_operators, TOKENS)
    )


def test_fresh_operators_leave_their_blocks_out():
    model = make(koopman=KOOPMAN)
    model.set_replaced((0, 1))
    h = model.final_norm(model.token_embedding(TOKENS))
    np.testing.assert_allclose(
        logits(model, TOKENS), ops.convert_to_numpy(model.head(h)), atol=1e-5
    )


def test_koopman_forward_is_the_tensor_of_the_loss():
    """The prediction in the loss and in the forward pass: the same bits."""
    model = make(koopman={**KOOPMAN, "sample_tokens": 4 * LENGTH})
    operator = model.operators[0]
    rng = np.random.default_rng(3)
    operator.kernel.assign(0.1 * rng.normal(size=operator.kernel.shape))
    h = model.token_embedding(TOKENS)
    in_loss = []

    class Recording(KoopmanConsistency):
        def __call__(self, z_next, z_predicted, x_next, x_predicted):
            in_loss.append(ops.convert_to_numpy(x_predicted))
            return super().__call__(z_next, z_predicted, x_next, x_predicted)

    operator.consistency(h, model.blocks[0](h), Recording())
    in_forward = ops.reshape(operator(h), (4 * LENGTH, -1))
    np.testing.assert_array_equal(in_loss[0], ops.convert_to_numpy(in_forward))


def test_operators_are_measured_on_text():
    model = make(koopman=KOOPMAN)
    model.fit_operators(TOKENS)
    found = model.evaluate_operators(TOKENS, batch_size=3)
    states = [ops.convert_to_numpy(h) for h in model.trajectory(TOKENS)]
    for index, operator in enumerate(model.operators):
        x, x_next = states[index : index + 2]
        error = np.sum((ops.convert_to_numpy(operator(x)) - x_next) ** 2)
        variance = np.sum((x_next - x_next.mean(axis=(0, 1))) ** 2)
        increment = np.sum((x_next - x) ** 2)
        for name, below in (("r_squared", variance), ("skill", increment)):
            expected = 1 - error / below
            assert found[name][index] == pytest.approx(expected, abs=1e-4)
            assert 0 < found[name][index] <= 1
    with pytest.raises(ValueError, match="koopman=None"):
        make().evaluate_operators(TOKENS)


@pytest.mark.parametrize("operator", ["edmd", "gradient"])
def test_a_detached_probe_leaves_the_model_bit_identical(operator):
    class Weigh(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.koopman_weight.assign(0.5)

    base = make(dropout=0.1)
    probed = make(
        dropout=0.1, koopman={**KOOPMAN, "operator": operator}, detach="both"
    )
    seeds = [v for v in base.variables if "seed" in v.path]
    for own, other in zip(
        seeds, [v for v in probed.variables if "seed" in v.path], strict=True
    ):
        other.assign(ops.convert_to_numpy(own))
    train(base, epochs=5)
    train(probed, epochs=5, callbacks=[Weigh()])
    assert probed.koopman_measures()["contribution"] > 0
    for own, other in zip(
        [w for layer in base._own_layers() for w in layer.get_weights()],
        [w for layer in probed._own_layers() for w in layer.get_weights()],
        strict=True,
    ):
        if keras.backend.backend() == "tensorflow":
            # Its graph optimizer regroups sums when the graph grows.
            np.testing.assert_allclose(own, other, atol=1e-6)
        else:
            np.testing.assert_array_equal(own, other)


def test_contribution_is_total_less_language_loss():
    class Weigh(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.koopman_weight.assign(0.3)
            self.model.reset_koopman_totals()

    model = make(koopman=KOOPMAN)
    history = train(model, epochs=1, callbacks=[Weigh()])
    language = np.log(history["perplexity"][0])
    contribution = model.koopman_measures()["contribution"]
    assert contribution == pytest.approx(
        history["loss"][0] - language, abs=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_fit_operators_does_not_depend_on_the_batches(batch_size):
    x, _ = text(40)
    model, other = (
        make(koopman=KOOPMAN, embedding_stddev=1.0) for _ in range(2)
    )
    model.fit_operators(x, batch_size)
    other.fit_operators(x, len(x))
    states = model.trajectory(x)[:-1]

    def difference(found, wanted):
        found, wanted = map(ops.convert_to_numpy, (found, wanted))
        return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)

    for one, all_at_once, h in zip(
        model.operators, other.operators, states, strict=True
    ):
        assert float(one.edmd.count) == x.size
        for name in ("gram", "cross"):
            sums = (getattr(o.edmd, name) for o in (one, all_at_once))
            assert difference(*sums) < 1e-6
        # The condition of the scaled sums, 5e3, times their rounding may be
        # in K; along the states there are, less of it is left.
        assert difference(one(h), all_at_once(h)) < 5e-5


def test_fitted_operators_beat_leaving_the_block_out():
    model = make(koopman={**KOOPMAN, "delays": 2, "lift_dim": 64})
    train(model, epochs=20)
    x, y = text(40, seed=1)

    def loss():
        nll = model({"tokens": x, "targets": y})
        return float(ops.convert_to_numpy(nll).mean())

    standard = loss()
    model.set_replaced((0, 1))
    for operator in model.operators:
        operator.kernel.assign(np.eye(operator.kernel.shape[0]))
    left_out = loss()
    model.fit_operators(text(40)[0])
    assert standard < left_out
    assert loss() < left_out


def test_rows_of_a_batch_run_the_first_operators():
    model = make(koopman=KOOPMAN, replacement=[0.75, 0.25])
    model.set_replaced(())
    h = model.token_embedding(TOKENS)
    measured = []
    first = model._training_step(h, 0, measured)
    second = model._training_step(first, 1, measured)
    wanted = []
    for row, depth in enumerate((2, 1, 1, 0)):
        x = h[row : row + 1]
        for index in range(2):
            layers = model.operators if index < depth else model.blocks
            x = layers[index](x)
        wanted.append(ops.convert_to_numpy(x))
    np.testing.assert_allclose(
        ops.convert_to_numpy(second), np.concatenate(wanted), atol=1e-5
    )
    assert len(measured) == 2


def test_operators_train_alone_and_leave_the_model_bit_identical():
    model = make(koopman={**KOOPMAN, "operator": "gradient"}, replacement=0.5)
    train(model, epochs=2)
    before = logits(model, TOKENS)
    old = [o.get_weights() for o in model.operators]
    model.train_operators_only([0.75, 0.75])
    model.koopman_weight.assign(0.05)
    losses = train(model, epochs=4)["loss"]
    np.testing.assert_array_equal(before, logits(model, TOKENS))
    assert losses[-1] < losses[0]
    for operator, weights in zip(model.operators, old, strict=True):
        for a, b in zip(operator.get_weights(), weights, strict=True):
            assert np.abs(a - b).max() > 0


def test_the_operators_own_phase_is_not_saved(tmp_path):
    model = make(koopman=KOOPMAN, replacement=0.5)
    model.train_operators_only([0.75, 0.75])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.row_shares == [0.5, 0.25]
    assert len(again.trainable_weights) > len(model.trainable_weights)


@pytest.mark.parametrize("operator", ["edmd", "gradient"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_changes_no_weight(operator, value):
    model = make(
        koopman={**KOOPMAN, "operator": operator, "solve_every": 1},
        num_experts=2,
    )
    x, y = text(8)

    def fit(bad):
        weight = np.ones(x.shape, "float32")
        weight[3, 5] = value if bad else 1.0
        batch = {"tokens": x, "targets": y, "sample_weight": weight}
        model.fit(batch, y, batch_size=8, verbose=0)

    def state():
        variables = [*model.weights, *model.optimizer.variables]
        counters = ("skipped", "updates")
        return {
            v.path: np.array(ops.convert_to_numpy(v))
            for v in variables
            if not v.path.endswith(counters)
        }

    model.compile(adamw_cosine(10))
    model.koopman_weight.assign(0.1)
    fit(bad=False)
    before = state()
    fit(bad=True)
    assert int(model.optimizer.skipped) == 1
    for path, array in state().items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)
    fit(bad=False)
    changed = [p for p, a in state().items() if (a != before[p]).any()]
    assert any("koopman_operator" in path for path in changed)
    assert any("block" in path for path in changed)


@pytest.mark.parametrize("shape", [(2, 0), (2,), (2, 3, 4)])
def test_ids_of_another_shape_are_named(shape):
    with pytest.raises(ValueError, match="`inputs`"):
        make()(np.zeros(shape, "int32"))


def test_ids_out_of_range_are_named():
    with pytest.raises(ValueError, match="`ids` must be between 0 and 49"):
        make(koopman=KOOPMAN).fit_operators(TOKENS + VOCABULARY)
    with pytest.raises(ValueError, match="`ids` must be between 0 and 49"):
        make()(TOKENS + VOCABULARY)
    with pytest.raises(ValueError, match="`ids` must be between 0 and 49"):
        make()({"tokens": TOKENS, "targets": TOKENS - VOCABULARY})


def test_without_operators_there_is_nothing_to_train_or_fit():
    with pytest.raises(ValueError, match="koopman=None"):
        make().train_operators_only(0.5)
    with pytest.raises(ValueError, match="koopman=None"):
        make().fit_operators(TOKENS)


def test_with_operators_keeps_the_language_model():
    model = make(koopman=KOOPMAN)
    other = model.with_operators({"lift_dim": 0, "delays": 3})
    np.testing.assert_array_equal(logits(model, TOKENS), logits(other, TOKENS))
    assert other.operators[0].lift.delays == 3


def test_memorises_random_text():
    rng = np.random.default_rng(0)
    x = rng.integers(0, VOCABULARY, (64, LENGTH + 1)).astype("int32")
    model = make(dim=64, hidden_dim=256, embedding_stddev=0.3)
    data = x[:, :-1], x[:, 1:]
    # 75 epochs of 4 batches: 300 steps.
    history = train(model, 75, 1e-2, data, batch_size=16)
    assert history["loss"][-1] < 1.0


def perplexity_of_random_text(leaks, **changes):
    """After one pass over text that never repeats, as the epoch saw it."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, VOCABULARY, (640, LENGTH + 1)).astype("int32")
    if leaks:
        x[:, 1::2] = x[:, :-1:2]
    model = make(embedding_stddev=0.3, **changes)
    history = train(model, 1, 1e-2, (x[:, :-1], x[:, 1:]))
    return history["perplexity"][-1]


@pytest.mark.parametrize("koopman", [None, KOOPMAN])
@pytest.mark.parametrize("mixer", MIXERS)
def test_fresh_random_text_stays_unpredictable(mixer, koopman):
    """A target leaked anywhere in the pipeline would beat the uniform guess."""
    changes = {"mixer": mixer, "koopman": koopman}
    assert perplexity_of_random_text(False, **changes) > 0.95 * VOCABULARY


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_leaked_target_would_be_found(mixer):
    """The control: where every second token repeats, the same steps show it."""
    assert perplexity_of_random_text(True, mixer=mixer) < 0.8 * VOCABULARY


def test_saved_file_holds_everything(tmp_path):
    model = make(koopman=KOOPMAN, mixer=["koopman", "attention"])
    train(model, epochs=1)
    model.set_replaced((1,))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.replaced == (1,)
    assert isinstance(again.blocks[0].mixer, LinearRecurrence)
    np.testing.assert_array_equal(logits(model, TOKENS), logits(again, TOKENS))


def test_preset_sizes():
    model = KoopmanLM.from_preset("koopman_lm_small", load_weights=False)
    model.build()
    operators = {id(w) for o in model.operators for w in o.trainable_weights}
    size = sum(
        int(np.prod(w.shape))
        for w in model.trainable_weights
        if id(w) not in operators
    )
    assert size <= 4_200_000


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"mixer": "fourier"}, "mixer"),
        ({"mixer": ["attention"]}, "mixer"),
        ({"replacement": 0.5}, "replacement"),
        ({"replaced": (0,)}, "replaced"),
        ({"koopman": KOOPMAN, "replaced": (2,)}, "replaced"),
        ({"koopman": KOOPMAN, "replacement": 1.0}, "replacement"),
        ({"koopman": KOOPMAN, "replacement": [0.5]}, "replacement"),
        (
            {"koopman": KOOPMAN, "replacement": 0.5, "detach": "both"},
            "replacement",
        ),
        ({"koopman": KOOPMAN, "replacement": [0.2, 0.5]}, "replacement"),
        ({"vocabulary_size": 0}, "vocabulary_size"),
        ({"num_layers": 0}, "num_layers"),
        ({"dim": 0}, "dim"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_arguments(changes, argument):
    with pytest.raises(ValueError, match=argument):
        make(**changes)


def test_unknown_preset():
    with pytest.raises(ValueError, match="koopman_lm_small"):
        KoopmanLM.from_preset("koopman_lm_tiny", load_weights=False)


def test_preset_of_another_class():
    with pytest.raises(ValueError, match="KoopmanLM"):
        LSTMLM.from_preset("koopman_lm_stdlib")
