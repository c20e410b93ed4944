"""What the original printed of a phase, and when it ended it."""

import math
import time

import keras

# What it printed, `e` from 1.
FORMATS = {
    "phase1_epoch": (
        "Epoch {}/{} - Train PPL: {:.4f} | Val PPL: {:.4f} | Val Acc: {:.2f}%"
    ),
    "phase1_best": "  → New best model (val_loss: {:.4f})",
    "no_improvement": "  → No improvement ({}/{})",
    "phase1_stop": "\nEarly stopping triggered at epoch {}",
    "stop_best": "Best model was at epoch {}",
    "phase1_restored": "\nRestored best model from epoch {}",
    "threshold": "✓ Computed confidence threshold: {:.4f}",
    "collected": "✓ Collected {:,} hard examples",
    "mean_confidence": "  Average confidence: {:.4f}",
    "ratio": "  Actual ratio: {:.1f}% (target: {:.0f}%)",
    "phase1_hard": "✓ Phase 1 Hard PPL: {:.2f}",
    "trainable": "  Trainable params: {:,} / {:,} ({:.1f}%)",
    "hard_batches": "  Hard example batches: {}",
    "phase2_epoch": (
        "Epoch {}/{} - Train PPL: {:.4f} | Val PPL: {:.2f} | "
        "Val Acc: {:.2f}% | Hard PPL: {:.2f}"
    ),
    "phase2_best": "  → New best (val_ppl: {:.2f})",
    "phase2_stop": "\nEarly stopping at epoch {}",
    "phase2_restored": "\nRestored best model from Phase 2",
    "compute_cost": "  Compute cost: {:.2%} of full model",
    "change": "  PPL change: {:+.2f}",
    "improvement": "  Hard PPL Improvement: {:+.2f} ({:+.1f}%)",
}


class EpochReport(keras.callbacks.Callback):
    """Evaluates after every epoch and says what the original said.

    Adds to the logs of an epoch `train_ppl`, the exponential of the mean of the
    batches' losses, and what `measure` returns. To stand before whatever
    reads these.

    Args:
        measure: function without arguments that returns a dict of floats, of
            which `val_ppl` decides, `val_acc` in 0 ... 1 is printed, and in
            phase 2 `hard_ppl`.
        phase: `"phase1"` or `"phase2"`.
        max_epochs: int.
        patience: int.
        say: function of a line.
    """

    def __init__(self, measure, phase, max_epochs, patience, say):
        super().__init__()
        self.measure = measure
        self.phase = phase
        self.max_epochs = max_epochs
        self.patience = patience
        self.say = say
        self.best = math.inf
        self.best_epoch = 0
        self.history = {}

    def on_epoch_end(self, epoch, logs=None):
        # On JAX this attaches the weights, which `measure` reads.
        assert self.model is not None
        found = {"train_ppl": logs["batch_mean_perplexity"], **self.measure()}
        logs.update(found)
        for name, value in found.items():
            self.history.setdefault(name, []).append(value)
        values = [found["train_ppl"], found["val_ppl"], 100 * found["val_acc"]]
        if self.phase == "phase2":
            values.append(found["hard_ppl"])
        self._say(f"{self.phase}_epoch", epoch + 1, self.max_epochs, *values)
        if found["val_ppl"] < self.best:
            self.best, self.best_epoch = found["val_ppl"], epoch
            shown = self.best if self.phase == "phase2" else math.log(self.best)
            self._say(f"{self.phase}_best", shown)
            return
        waited = epoch - self.best_epoch
        self._say("no_improvement", waited, self.patience)
        if waited >= self.patience:
            self._say(f"{self.phase}_stop", epoch + 1)
            self._say("stop_best", self.best_epoch + 1)

    def on_train_end(self, logs=None):
        self._say(f"{self.phase}_restored", self.best_epoch + 1)

    def _say(self, name, *values):
        self.say(FORMATS[name].format(*values))


def fit_until_worse(model, data, measure, phase, max_epochs, patience, say):
    """Fit until `val_ppl` has not improved for `patience` epochs.

    Args:
        model: a compiled model with the metric `BatchMeanPerplexity`, whose
            best weights are put back.
        data: what it is fitted to, in this order.
        measure: see `EpochReport`.
        phase: likewise.
        max_epochs: int.
        patience: int.
        say: function of a line.

    Returns:
        The history, a dict of lists; the best epoch, from 0; the seconds.
    """
    report = EpochReport(measure, phase, max_epochs, patience, say)
    stop = keras.callbacks.EarlyStopping(
        monitor="val_ppl",
        mode="min",
        patience=patience,
        restore_best_weights=True,
    )
    start = time.perf_counter()
    model.fit(
        data,
        epochs=max_epochs,
        shuffle=False,
        verbose=0,
        callbacks=[report, stop],
    )
    seconds = time.perf_counter() - start
    return report.history, report.best_epoch, seconds
