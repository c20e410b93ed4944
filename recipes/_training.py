"""One arm of a language-model experiment: train it, resumably, and score it."""

import csv
import math
import sys
import time

import keras
import numpy as np
from orrery.callbacks import ExpertUsage, TrainingState
from orrery.datasets import LanguageBatches
from orrery.metrics import Perplexity
from orrery.optimizers import adamw_cosine

STATE = "state.npz"
SMOKE_BLOCKS = 64


class EpochSeconds(keras.callbacks.Callback):
    """Logs the wall-clock seconds of every epoch, validation included."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = time.perf_counter() - self.start


def train(
    model, data, folder, config, callbacks=(), resume=False, compile_model=None
):
    """Fit `model` on `data`, one resumable file of state per epoch.

    Args:
        model: a language model with the inputs of `KoopmanLM`.
        data: a `TextData`.
        folder: path, receives `state.npz`, `history.csv`, `model.keras`.
        config: dict, what must agree between a run and its continuation. Of
            it are used `epochs`, `batch_size` (sequences), `learning_rate`
            (the highest), `warmup` (fraction of the steps, 0.05 if not there),
            `seed` (of order and dropout), `limit` (blocks of each split, or
            `None`) and `saves_per_epoch` (1 if not there): an epoch of Keras
            is that part of a pass over the data.
        callbacks: further callbacks, before the state is written.
        resume: bool, whether to continue from `state.npz`.
        compile_model: function of the model that compiles it; `None` is AdamW
            under a warm-up and cosine schedule, with `Perplexity`.

    Returns:
        The history, a dict of lists with one entry per epoch of Keras.
    """
    check_state(folder, config, resume)
    folder.mkdir(parents=True, exist_ok=True)
    limit, batch_size = config["limit"], config["batch_size"]
    parts = config.get("saves_per_epoch", 1)
    epochs = config["epochs"] * parts
    x, y = data.blocks("train")
    size = len(data.vocabulary)
    batches = LanguageBatches(
        x[:limit],
        y[:limit],
        batch_size,
        seed=config["seed"],
        vocabulary_size=size,
        parts=parts,
    )
    x, y = data.blocks("valid")
    valid = LanguageBatches(
        x[:limit], y[:limit], batch_size, shuffle=False, vocabulary_size=size
    )
    if compile_model is not None:
        compile_model(model)
    else:
        model.compile(
            optimizer=adamw_cosine(
                epochs * len(batches),
                config["learning_rate"],
                warmup=config.get("warmup", 0.05),
            ),
            weighted_metrics=[Perplexity()],
        )
    callbacks = [*callbacks, ExpertUsage(), EpochSeconds()]
    state = TrainingState(
        folder / STATE,
        dataset=batches,
        seed=config["seed"],
        callbacks=[c for c in callbacks if hasattr(c, "get_state")],
        config=config,
    )
    model.fit(
        batches,
        validation_data=valid,
        initial_epoch=state.initial_epoch,
        epochs=epochs,
        shuffle=False,
        callbacks=[*callbacks, state],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    write_history(folder / "history.csv", state.history)
    model.save(folder / "model.keras")
    return state.history


def cut_blocks(data, smoke):
    """The examples of every split, a few of them for a smoke run."""
    limit = SMOKE_BLOCKS if smoke else None
    return {
        split: tuple(array[:limit] for array in data.blocks(split))
        for split in ("train", "valid", "test")
    }


def check_state(folder, config, resume):
    """Refuse to overwrite a run, or to continue another one.

    Raises:
        SystemExit: there is a run, and `resume` is not set.
        ValueError: its configuration differs; the message says where.
    """
    path = folder / STATE
    if path.exists() and not resume:
        raise SystemExit(
            f"{path} holds a run already: continue it with --resume, or "
            "choose another --out"
        )
    TrainingState(path, config=config)


def token_losses(model, x, y, batch_size):
    """Negative log-likelihood of every target, float32 `(n, length)`."""
    batches = LanguageBatches(
        x, y, batch_size, shuffle=False, vocabulary_size=model.vocabulary_size
    )
    return model.predict(batches, verbose=0)[: len(x)]


def perplexity(model, x, y, batch_size):
    """Of every target alike."""
    losses = token_losses(model, x, y, batch_size)
    return math.exp(float(np.mean(losses, dtype="float64")))


def score(model, data, blocks, batch_size):
    """The perplexity of every split of `blocks` but the one to train on."""
    return {
        split: summarize(
            token_losses(model, x, y, batch_size), y, data.vocabulary.unknown_id
        )
        for split, (x, y) in blocks.items()
        if split != "train"
    }


def summarize(losses, targets, unknown_id):
    """Perplexity with and without `<unk>` targets, from per-token losses."""
    known = losses[targets != unknown_id]
    return {
        "perplexity": math.exp(float(np.mean(losses, dtype="float64"))),
        "perplexity_without_unknown": math.exp(
            float(np.mean(known, dtype="float64"))
        )
        if known.size
        else math.nan,
    }


def count_weights(model):
    """Trainable weights: the language model's, and the operators' apart."""
    operators = sum(
        math.prod(weight.shape)
        for operator in getattr(model, "operators", ())
        for weight in operator.trainable_weights
    )
    total = sum(math.prod(w.shape) for w in model.trainable_weights)
    return {
        "parameters": total - operators,
        "operator_parameters": operators,
    }


def write_history(path, history):
    """One row per epoch, numbered from 1."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *history])
        writer.writerows(
            [epoch + 1, *row]
            for epoch, row in enumerate(zip(*history.values(), strict=True))
        )
