"""One forecaster: train it, resumably, with its curve drawn as it learns."""

import importlib.util
import sys
import time

import keras
from _training import STATE, EpochSeconds, check_state, write_history
from orrery.callbacks import TrainingState
from orrery.datasets import ForecastWindows
from orrery.optimizers import adamw_cosine
from orrery.zoo.legacy.kovae import EffectiveKoVAE, published_optimizer

# Batches of an epoch at most, so that it ends in time to be seen.
BATCHES = 42
# Epochs between two models that are kept.
KEPT = 10


class LossCurve(keras.callbacks.Callback):
    """Draws every term of the loss, while it falls, on a logarithmic axis."""

    def __init__(self, path, state, every=5.0):
        super().__init__()
        self.path, self.state, self.every = path, state, every
        self.drawn = 0.0

    def on_epoch_end(self, epoch, logs=None):
        if time.perf_counter() - self.drawn > self.every:
            self._draw({n: [*v] for n, v in self.state.history.items()})
            self.drawn = time.perf_counter()

    def on_train_end(self, logs=None):
        self._draw(self.state.history)

    def _draw(self, history):
        if importlib.util.find_spec("matplotlib") is None or not history:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        names = [n for n in history if not n.startswith("val_")]
        for index, name in enumerate(n for n in names if n != "seconds"):
            color = f"C{index}"
            for prefix, line in (("", "-"), ("val_", "--")):
                values = history.get(prefix + name)
                if values and min(values) > 0:
                    axes.plot(
                        range(1, len(values) + 1),
                        values,
                        line,
                        color=color,
                        label=prefix + name,
                    )
        axes.set(xlabel="epoch", ylabel="loss and its terms", yscale="log")
        axes.legend(fontsize="small", ncols=2)
        figure.savefig(self.path, dpi=120)


def train(model, data, folder, config, resume=False, keep=True):
    """Fit a forecaster; see `_training.train` for what is written.

    Args:
        model: a `Forecaster`.
        data: a `SeriesData`.
        folder: path, receives `state.npz`, `history.csv`, `model.keras`,
            `loss.png`, and every ten epochs `checkpoints/epoch_0010.keras`.
        config: dict, what must agree between a run and its continuation: of it
            are used `epochs`, `batch_size`, `seed`, `smoke`, and, but for the
            report's own model, `learning_rate`, `warmup`, `final` and
            `clip_norm` (see `adamw_cosine`).
        resume: bool, whether to continue from `state.npz`.
        keep: bool, whether models on the way are kept.

    Returns:
        The history, a dict of lists with one entry per epoch.
    """
    check_state(folder, config, resume)
    model.adapt(data)
    windows = batches(data, "train", model, config)
    valid = None
    if data.splits.get("valid"):
        valid = batches(data, "valid", model, config)
    if isinstance(model, EffectiveKoVAE):
        model.compile(published_optimizer(len(windows)))
    else:
        model.compile(
            adamw_cosine(
                config["epochs"] * len(windows),
                config["learning_rate"],
                warmup=config["warmup"],
                final=config["final"],
                clip_norm=config["clip_norm"],
            )
        )
    return fit(model, windows, folder, config, valid, keep)


def fit(model, series, folder, config, valid=None, keep=True):
    """Fit a compiled model, from `state.npz` on if there is one.

    Args:
        model: a compiled `keras.Model`.
        series: a `keras.utils.PyDataset` of batches.
        folder: path, receives what `train` says.
        config: dict, see `train`.
        valid: a `PyDataset` for validation. Defaults to `None`.
        keep: bool, whether models on the way are kept.

    Returns:
        The history, a dict of lists with one entry per epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = TrainingState(
        folder / STATE, dataset=series, seed=config["seed"], config=config
    )
    callbacks = [EpochSeconds(), keras.callbacks.TerminateOnNaN()]
    if keep:
        callbacks.append(kept_models(folder, KEPT))
    model.fit(
        series,
        validation_data=valid,
        initial_epoch=state.initial_epoch,
        epochs=config["epochs"],
        shuffle=False,
        callbacks=[*callbacks, state, LossCurve(folder / "loss.png", state)],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    write_history(folder / "history.csv", state.history)
    model.save(folder / "model.keras")
    return state.history


def batches(data, split, model, config):
    """Windows of a split, in epochs of at most `BATCHES` batches."""
    size = (model.history_rows, model.horizon)
    train = split == "train"
    stride = 1
    if config["smoke"]:
        stride = max(1, len(data.starts(split, *size)) // 32)
    elif not train:
        stride = max(1, len(data.starts(split, *size)) // 2048)
    count = len(data.starts(split, *size, stride))
    return ForecastWindows(
        data,
        split,
        *size,
        stride=stride,
        batch_size=config["batch_size"],
        shuffle=train,
        seed=config["seed"],
        parts=-(-count // (config["batch_size"] * BATCHES)) if train else 1,
    )


def kept_models(folder, every):
    """A callback that saves `checkpoints/epoch_0010.keras` and so on."""

    def save(epoch, logs):
        if (epoch + 1) % every == 0:
            (folder / "checkpoints").mkdir(exist_ok=True)
            path = folder / "checkpoints" / f"epoch_{epoch + 1:04d}.keras"
            callback.model.save(path)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=save)
    return callback
