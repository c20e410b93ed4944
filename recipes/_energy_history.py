"""What the energies of a model do from epoch to epoch, on text held out."""

import csv
import os

import keras
from orrery.zoo.energy_measures import evaluate_energies

MEASURES = ("drift", "spread_ratio", "shuffled_ratio", "step_angle")


class EnergyHistory(keras.callbacks.Callback):
    """Writes the drift of every block and its controls after each epoch.

    A row of the CSV has `epoch`, 0 before training, `block`, from 1 on, and
    `MEASURES`, see `evaluate_energies`. A run that is resumed goes on with the
    rows of the epochs before. Nothing that training depends on is touched.

    Args:
        path: path of the CSV.
        tracer: the `energy_tracer` of the model, not yet trained.
        tokens: int array `(n, N)`.
        batch_size: int.
    """

    def __init__(self, path, tracer, tokens, batch_size):
        super().__init__()
        self.path = path
        self.tracer = tracer
        self.tokens = tokens
        self.batch_size = batch_size
        self.first = evaluate_energies(tracer, tokens, batch_size)

    def on_epoch_end(self, epoch, logs=None):
        _ = self.model  # On JAX the variables hold the state from here on.
        now = evaluate_energies(
            self.tracer, self.tokens, self.batch_size, self.first
        )
        first = [{**row, "spread_ratio": 1.0} for row in self.first]
        rows = [
            *_rows(0, first),
            *(row for row in self._read() if 0 < int(row["epoch"]) <= epoch),
            *_rows(epoch + 1, now),
        ]
        partial = self.path.with_suffix(".partial")
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ("epoch", "block", *MEASURES))
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, self.path)

    def _read(self):
        return read_energies(self.path) if self.path.exists() else []


def _rows(epoch, measured):
    for block, row in enumerate(measured, 1):
        measures = {name: row[name] for name in MEASURES}
        yield {"epoch": epoch, "block": block, **measures}


def read_energies(path):
    """The rows that `EnergyHistory` wrote, dicts of strings."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
