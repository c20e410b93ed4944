"""One arm of a language-model experiment: train it, resumably, and score it."""

import csv
import math
import sys
import time

import keras
import numpy as np
from orrery.callbacks import NonFiniteGuard, TrainingState
from orrery.datasets import LanguageBatches
from orrery.metrics import Perplexity
from orrery.optimizers import adamw_cosine


class EpochSeconds(keras.callbacks.Callback):
    """Logs the wall-clock seconds of every epoch, validation included."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = time.perf_counter() - self.start


def train(
    model,
    data,
    folder,
    *,
    epochs,
    batch_size,
    learning_rate,
    seed,
    callbacks=(),
    resume=False,
    config=None,
    limit=None,
    compile_model=None,
):
    """Fit `model` on `data`, one resumable file of state per epoch.

    Args:
        model: a language model with the inputs of `KoopmanLM`.
        data: a `TextData`.
        folder: path, receives `state.npz`, `history.csv`, `model.keras`.
        epochs: int.
        batch_size: int, sequences per step.
        learning_rate: float, the highest of the warm-up and cosine schedule.
        seed: int, of the order of the batches and of dropout.
        callbacks: further callbacks, before the state is written.
        resume: bool, whether to continue from `state.npz`.
        config: dict, what must agree between a run and its continuation.
        limit: int or `None`, the number of blocks to use of each split.
        compile_model: function of the model that compiles it; `None` is AdamW
            under a warm-up and cosine schedule, with `Perplexity`.

    Returns:
        The history, a dict of lists with one entry per epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_path = folder / "state.npz"
    if state_path.exists() and not resume:
        raise SystemExit(
            f"{state_path} holds a run already: continue it with --resume, or "
            "choose another --out"
        )
    x, y = data.blocks("train")
    batches = LanguageBatches(x[:limit], y[:limit], batch_size, seed=seed)
    x, y = data.blocks("valid")
    valid = LanguageBatches(x[:limit], y[:limit], batch_size, shuffle=False)
    if compile_model is not None:
        compile_model(model)
    else:
        model.compile(
            optimizer=adamw_cosine(epochs * len(batches), learning_rate),
            weighted_metrics=[Perplexity()],
        )
    callbacks = [*callbacks, NonFiniteGuard("disable"), EpochSeconds()]
    state = TrainingState(
        state_path,
        dataset=batches,
        seed=seed,
        callbacks=[c for c in callbacks if hasattr(c, "get_state")],
        config={
            **(config or {}),
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
            "limit": limit,
        },
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


def token_losses(model, x, y, batch_size):
    """Negative log-likelihood of every target, float32 `(n, length)`."""
    batches = LanguageBatches(x, y, batch_size, shuffle=False)
    return model.predict(batches, verbose=0)[: len(x)]


def summarize(losses, targets, unknown_id):
    """Perplexity with and without `<unk>` targets, from per-token losses."""
    known = targets != unknown_id
    return {
        "perplexity": math.exp(float(np.mean(losses, dtype="float64"))),
        "perplexity_without_unknown": math.exp(
            float(np.mean(losses[known], dtype="float64"))
        ),
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
