import keras
import numpy as np
import pytest
from orrery.datasets.blocks import blocks
from orrery.datasets.language_batches import LanguageBatches

VOCABULARY = 50
X, Y = blocks(np.random.default_rng(0).integers(2, VOCABULARY, 22 * 9), 8)


class Recorder(LanguageBatches):
    """Notes the epoch and the real rows of every batch `fit` asks for."""

    def __init__(self, *args, **kwargs):
        self.seen = {}
        self.current = None
        super().__init__(*args, **kwargs)

    def __getitem__(self, index):
        batch = super().__getitem__(index)
        inputs, _, weight = batch
        if self.current is not None:
            rows = inputs["tokens"][weight[:, 0] > 0]
            self.seen.setdefault(self.current, []).append(rows)
        return batch

    def watch(self):
        return keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: setattr(self, "current", epoch),
            on_epoch_end=lambda epoch, logs: setattr(self, "current", None),
        )


def follow(batches):
    """Gives the batches the number of every epoch that `fit` begins."""
    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.set_epoch(epoch)
    )


def tiny_model(seed=0):
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    targets = keras.Input((None,), dtype="int32", name="targets")
    weight = keras.Input((None,), name="sample_weight")
    hidden = keras.layers.Embedding(VOCABULARY, 4)(tokens)
    logits = keras.layers.Dense(VOCABULARY)(hidden)
    inputs = {"tokens": tokens, "targets": targets, "sample_weight": weight}
    model = keras.Model(inputs, logits)
    model.compile(
        keras.optimizers.SGD(0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["sparse_categorical_accuracy"],
    )
    return model


def expected(seed, epoch):
    return X[np.random.default_rng([seed, epoch]).permutation(len(X))]


@pytest.mark.parametrize("wrong", [-1, VOCABULARY])
def test_ids_out_of_range(wrong):
    for place in ((0, 0), (3, -1)):
        ids = np.concatenate([X, Y[:, -1:]], axis=1)
        ids[place] = wrong
        with pytest.raises(ValueError, match=f"Received: {wrong}"):
            LanguageBatches(ids[:, :-1], ids[:, 1:], vocabulary_size=VOCABULARY)


def test_shapes_and_padding():
    batches = LanguageBatches(X, Y, batch_size=8, shuffle=False)
    assert len(batches) == 3
    rows, weights = [], []
    for index in range(3):
        inputs, targets, weight = batches[index]
        assert set(inputs) == {"tokens", "targets", "sample_weight"}
        assert inputs["tokens"].shape == targets.shape == weight.shape == (8, 8)
        assert inputs["tokens"].dtype == targets.dtype == "int32"
        assert weight.dtype == "float32"
        assert inputs["targets"] is targets
        assert inputs["sample_weight"] is weight
        rows.append(inputs["tokens"])
        weights.append(weight)
    rows, weights = np.concatenate(rows), np.concatenate(weights)
    np.testing.assert_array_equal(rows[:22], X)
    np.testing.assert_array_equal(rows[22:], X[:2])
    assert weights[:22].min() == 1 and weights[22:].max() == 0


def test_a_batch_larger_than_the_data():
    inputs, _, weight = LanguageBatches(X, Y, 64, shuffle=False)[0]
    np.testing.assert_array_equal(inputs["tokens"], np.resize(X, (64, 8)))
    assert weight.sum() == X.size


def test_a_batch_is_a_copy():
    batches = LanguageBatches(X.copy(), Y.copy(), 8, shuffle=False)
    batches[0][0]["tokens"][:] = 0
    np.testing.assert_array_equal(batches[0][0]["tokens"], X[:8])


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        batches = LanguageBatches(X, Y, batch_size=22, seed=seed)
        batches.set_epoch(epoch)
        return batches[0][0]["tokens"]

    np.testing.assert_array_equal(order(3, 5), expected(3, 5))
    assert not np.array_equal(order(3, 5), order(3, 6))
    assert not np.array_equal(order(3, 5), order(4, 5))


def test_parts_make_up_a_pass():
    """Three of two batches, where five hold all: the sixth is drawn again."""
    whole = LanguageBatches(X, Y, batch_size=5, seed=3, epoch=1)
    parts = LanguageBatches(X, Y, batch_size=5, seed=3, parts=3)
    assert (len(whole), len(parts)) == (5, 2)
    found = []
    for epoch in (3, 4, 5):
        parts.set_epoch(epoch)
        found += [parts[0], parts[1]]
    for batch, wanted in zip(found[:4], list(whole)[:4], strict=True):
        np.testing.assert_array_equal(batch[1], wanted[1])
        assert batch[2].all()
    np.testing.assert_array_equal(found[4][1][:2], whole[4][1][:2])
    assert found[4][2][:2].all() and not found[4][2][2:].any()
    np.testing.assert_array_equal(found[5][1][0], whole[0][1][3])
    assert found[5][2].all()


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("callback", [True, False])
def test_fit_visits_every_epoch_in_its_order(first, callback):
    batches = Recorder(
        X, Y, batch_size=8, seed=7, epoch=0 if callback else first
    )
    valid = LanguageBatches(X, Y, batch_size=8, shuffle=False)
    callbacks = [batches.watch()] + [follow(batches)] * callback
    tiny_model().fit(
        batches,
        epochs=first + 3,
        initial_epoch=first,
        shuffle=False,
        callbacks=callbacks,
        validation_data=valid,
        verbose=0,
    )
    assert sorted(batches.seen) == [first, first + 1, first + 2]
    for epoch, rows in batches.seen.items():
        np.testing.assert_array_equal(np.concatenate(rows), expected(7, epoch))


def test_an_interrupted_epoch_is_repeated():
    batches = Recorder(X, Y, batch_size=2, seed=7)
    model = tiny_model()

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model.fit(batches, shuffle=False, callbacks=[Stop()], verbose=0)
    model.fit(
        batches,
        epochs=1,
        shuffle=False,
        callbacks=[follow(batches), batches.watch()],
        verbose=0,
    )
    np.testing.assert_array_equal(
        np.concatenate(batches.seen[0]), expected(7, 0)
    )


def test_a_resumed_run_has_the_history_of_an_uninterrupted_one():
    def fit(model, first, last):
        batches = LanguageBatches(X, Y, batch_size=8, seed=1)
        return model.fit(
            batches,
            initial_epoch=first,
            epochs=last,
            shuffle=False,
            callbacks=[follow(batches)],
            verbose=0,
        ).history["loss"]

    whole = fit(tiny_model(), 0, 4)
    model = tiny_model()
    start = fit(model, 0, 2)
    resumed = tiny_model(seed=9)
    for variable, source in zip(resumed.weights, model.weights, strict=True):
        variable.assign(keras.ops.convert_to_numpy(source))
    assert start + fit(resumed, 2, 4) == whole


def test_padding_has_no_weight_in_evaluation():
    model = tiny_model()
    logits = model.predict(
        {"tokens": X, "targets": Y, "sample_weight": np.ones(X.shape)},
        verbose=0,
    )
    accuracy = np.mean(logits.argmax(-1) == Y)
    measured = model.evaluate(
        LanguageBatches(X, Y, batch_size=8, shuffle=False), verbose=0
    )[1]
    assert measured == pytest.approx(accuracy, abs=1e-6)


def test_the_shuffle_of_keras_is_an_error():
    x, y = blocks(np.arange(9 * 200) % VOCABULARY, 8)
    keras.utils.set_random_seed(0)
    with pytest.raises(Exception, match="shuffle=False"):
        tiny_model().fit(LanguageBatches(x, y, batch_size=2), verbose=0)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\(22, 8\) and \(22, 7\)"):
        LanguageBatches(X, Y[:, :-1])
    with pytest.raises(ValueError, match="n > 0"):
        LanguageBatches(X[:0], Y[:0])
    with pytest.raises(ValueError, match="next tokens"):
        LanguageBatches(X, X)
    with pytest.raises(TypeError, match="float64"):
        LanguageBatches(X * 1.0, Y)
    with pytest.raises(ValueError, match="batch_size=0"):
        LanguageBatches(X, Y, batch_size=0)
    with pytest.raises(ValueError, match="parts=0"):
        LanguageBatches(X, Y, parts=0)
    with pytest.raises(ValueError, match="seed=-1"):
        LanguageBatches(X, Y, seed=-1)
    with pytest.raises(ValueError, match="epoch=-1"):
        LanguageBatches(X, Y).set_epoch(-1)
    with pytest.raises(IndexError, match="Batch 1 of 1"):
        LanguageBatches(X, Y)[1]
