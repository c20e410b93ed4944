"""A run killed by SIGKILL and resumed equals one that was never interrupted.

The file is the script of the killed runs as well: `python <file> <state>
[<moment>]`.
"""

import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from orrery.callbacks.training_state import TrainingState
from orrery.datasets import LanguageBatches
from orrery.metrics import Perplexity
from orrery.optimizers import adamw_cosine

EPOCHS = 5
CONFIG = {"seed": 3, "width": 8}


class Counter(keras.callbacks.Callback):
    """A callback with a state of its own, which shows in the logs."""

    def __init__(self, kill_at=None):
        super().__init__()
        self.batches = 0
        self.kill_at = kill_at

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == self.kill_at:
            kill()

    def on_epoch_end(self, epoch, logs=None):
        logs["batches"] = self.batches

    def get_state(self):
        return {"batches": self.batches}

    def set_state(self, state):
        self.batches = state["batches"]


def kill(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def make_model(width=8):
    """Dropout with a seed and without, and statistics that are no weights."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(7, width),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(width, "tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2, seed=5),
            keras.layers.Dense(7),
        ]
    )
    model.compile(
        adamw_cosine(EPOCHS * 4, 1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[Perplexity()],
    )
    return model


class Batches(LanguageBatches):
    def __getitem__(self, index):
        inputs, targets, weight = super().__getitem__(index)
        return inputs["tokens"], targets, weight


def make_batches():
    tokens = np.random.default_rng(0).integers(7, size=(14, 5))
    return Batches(tokens[:, :-1], tokens[:, 1:], batch_size=4, seed=3)


def train(path, epochs=EPOCHS, config=CONFIG, model=None, kill_at=None):
    model = model or make_model()
    batches, counter = make_batches(), Counter(kill_at)
    state = TrainingState(path, batches, 3, [counter], config)
    record = model.fit(
        batches,
        initial_epoch=state.initial_epoch,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[counter, state],
    ).history
    assert record == state.history
    return record, model


def in_process(path, moment=None):
    """Runs this file, which kills itself at the moment given."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(path), str(moment)],
        capture_output=True,
        text=True,
    )
    expected = 0 if moment is None else -signal.SIGKILL
    assert process.returncode == expected, process.stderr
    return None if moment else json.loads(process.stdout.splitlines()[-1])


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    whole = in_process(tmp_path / "whole.npz")
    path = tmp_path / "killed.npz"
    in_process(path, 10)  # batch 10: in the third of five epochs
    assert TrainingState(path, config=CONFIG).initial_epoch == 2
    in_process(path, "write")  # the third epoch is written, not renamed
    assert TrainingState(path, config=CONFIG).initial_epoch == 2
    resumed = in_process(path)
    assert resumed == whole
    assert len(whole["history"]["loss"]) == EPOCHS
    assert whole["history"]["batches"] == [4, 8, 12, 16, 20]


def test_a_finished_run_gives_its_history_and_weights(tmp_path):
    path = tmp_path / "state.npz"
    record, model = train(path, epochs=2)
    again, restored = train(path, epochs=2)
    assert again == record
    for one, other in zip(
        model.get_weights(), restored.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_failed_write_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    train(path, epochs=1)
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        train(path, epochs=2)
    assert path.read_bytes() == before


def test_another_configuration_is_refused_by_its_keys(tmp_path):
    path = tmp_path / "state.npz"
    train(path, epochs=1)
    with pytest.raises(ValueError, match="width") as error:
        TrainingState(path, config={"seed": 3, "width": 9, "dropout": 0.1})
    message = str(error.value)
    assert "width (8 in the file, 9 now)" in message
    assert "dropout ('absent' in the file, 0.1 now)" in message
    assert "seed" not in message


def test_another_model_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    train(path, epochs=1)
    with pytest.raises(ValueError, match="shape"):
        train(path, epochs=2, model=make_model(width=9))
    smaller = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    smaller.compile(adamw_cosine(4), "mse")
    with pytest.raises(ValueError, match="variables"):
        train(path, epochs=2, model=smaller)


def test_a_model_must_be_built_to_resume(tmp_path):
    path = tmp_path / "state.npz"
    train(path, epochs=1)
    state = TrainingState(path, config=CONFIG, callbacks=[Counter()])
    state.set_model(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="built"):
        state.on_train_begin()


def test_fit_must_start_where_the_state_ends(tmp_path):
    path = tmp_path / "state.npz"
    train(path, epochs=1)
    state = TrainingState(path, config=CONFIG, callbacks=[Counter()])
    with pytest.raises(ValueError, match="initial_epoch"):
        make_model().fit(
            make_batches(),
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[state],
        )


@pytest.mark.parametrize("content", [b"", b"no state", None])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "state.npz"
    if content is None:
        train(path, epochs=1)
        content = path.read_bytes()[:-200]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="state.npz is not a training state"):
        TrainingState(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_byte_may_be_damaged(tmp_path, save):
    """It is noticed, or it was of no account; nothing else is raised."""
    path = tmp_path / "state.npz"
    meta = {"version": 1, "epoch": 1, "config": {}, "history": {}}
    save(path, meta=np.array(json.dumps(meta)), **{"model/0": np.ones(3)})
    whole = path.read_bytes()
    noticed = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 8
        path.write_bytes(damaged)
        try:
            TrainingState(path)
        except ValueError as error:
            assert "state.npz is not a training state" in str(error)
            noticed += 1
    assert noticed > 0.5 * len(whole)


def test_a_callback_without_state_is_refused(tmp_path):
    with pytest.raises(TypeError, match="get_state"):
        TrainingState(tmp_path / "a", callbacks=[keras.callbacks.Callback()])


def digest(model):
    return [float(np.sum(w, dtype="float64")) for w in model.get_weights()]


if __name__ == "__main__":
    _, state_path, moment = sys.argv
    if moment == "write":
        os.replace = kill
    history, trained = train(
        state_path, kill_at=int(moment) if moment.isdigit() else None
    )
    print(json.dumps({"history": history, "digest": digest(trained)}))
