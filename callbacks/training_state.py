"""The state of a run in one file, from which it resumes bit for bit."""

import json
import os
import pathlib
import zipfile
import zlib

import keras
import numpy as np
from keras import ops

_VERSION = 1
# What NumPy raises, by way of zipfile, for files that are cut or changed.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


class TrainingState(keras.callbacks.Callback):
    """Saves everything a run needs to go on after a kill at any moment.

    After each epoch one file is written beside `path`, flushed to disk and
    renamed over it, so `path` always holds one complete epoch: all variables
    of the model (seed generators and running statistics among them) and of
    the optimizer, the state of the given callbacks and the history. An
    interrupted epoch is replayed from its begin, so whatever else it depends
    on is made a function of (seed, epoch): `dataset.set_epoch(epoch)` sets the
    data order, and the global random states (Python, NumPy and the backend,
    from which unseeded dropout draws on PyTorch) are seeded at each begin.

    Put it last in the list of callbacks: it stores what those before it wrote
    into the logs. After a resume `fit` returns the history of all epochs.

    Args:
        path: String or path of the file. If it exists, `fit` resumes from it.
        dataset: Object with `set_epoch(epoch)`, called at each epoch's begin,
            or None. Defaults to `None`.
        seed: Integer, not negative, first half of the key (seed, epoch) of
            the global random states. Defaults to `0`.
        callbacks: Sequence of callbacks with `get_state()`, which returns
            JSON-plain data, and `set_state(state)`. Defaults to `()`.
        config: Dict of JSON-plain values that make up the run (seed, batch
            size, preset, ...), stored and compared on resuming. Defaults to
            `None`, an empty dict.

    Attributes:
        initial_epoch: Integer, first epoch to run: 0, or the number of epochs
            in the file. Give it to `fit`.
        history: Dict from name to the list of values of all epochs.

    Raises:
        TypeError: If a callback has no `get_state` and `set_state`.
        ValueError: If the file is not readable as a state, was written with
            another `config` (the keys are named) or for another model, if the
            model to resume is not built, or if `fit` starts at another epoch
            than `initial_epoch`.

    Example:
    ```python
    state = TrainingState("run/state.npz", dataset, config={"seed": 0})
    model.fit(
        dataset,
        initial_epoch=state.initial_epoch,
        epochs=10,
        shuffle=False,
        callbacks=[state],
    )
    ```
    """

    def __init__(self, path, dataset=None, seed=0, callbacks=(), config=None):
        super().__init__()
        self.path = pathlib.Path(path)
        self.dataset = dataset
        self.seed = seed
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not (
                hasattr(callback, "get_state")
                and hasattr(callback, "set_state")
            ):
                raise TypeError(
                    "Each of `callbacks` must have `get_state()` and "
                    f"`set_state(state)`. Received: {callback!r}"
                )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.config = json.loads(json.dumps(config or {}))
        self.initial_epoch = 0
        self.history = {}
        if self.path.exists():
            meta = self._read()[0]
            self._check_config(meta["config"])
            self.initial_epoch = meta["epoch"]
            self.history = meta["history"]
        self._next_epoch = self.initial_epoch

    def on_train_begin(self, logs=None):
        if not self.path.exists():
            return
        meta, arrays = self._read()
        self._check_config(meta["config"])
        model = self.model
        if not model.built:
            raise ValueError(
                "The model must be built before `fit` resumes it from "
                f"{self.path}: call model.build(input_shape)."
            )
        optimizer = model.optimizer
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        self._assign("model", model.variables, arrays)
        self._assign("optimizer", optimizer.variables, arrays)
        for callback, state in zip(
            self.callbacks, meta["callbacks"], strict=True
        ):
            callback.set_state(state)
        self.history = meta["history"]
        model.history.history = {k: list(v) for k, v in self.history.items()}

    def on_epoch_begin(self, epoch, logs=None):
        if epoch != self._next_epoch:
            raise ValueError(
                f"`fit` must start at epoch {self._next_epoch}, where "
                f"{self.path} ends: give it initial_epoch=state.initial_epoch."
                f" Received: {epoch}"
            )
        key = np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]
        keras.utils.set_random_seed(int(key))
        if self.dataset is not None:
            self.dataset.set_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        self._next_epoch = epoch + 1
        self._write()

    def _write(self):
        model = self.model
        meta = {
            "version": _VERSION,
            "epoch": self._next_epoch,
            "config": self.config,
            "history": self.history,
            "callbacks": [c.get_state() for c in self.callbacks],
        }
        arrays = {"meta": np.array(json.dumps(meta))}
        for group, variables in (
            ("model", model.variables),
            ("optimizer", model.optimizer.variables),
        ):
            for i, variable in enumerate(variables):
                value = ops.convert_to_numpy(variable)
                if value.dtype.kind not in "biuf":  # bfloat16 to NumPy
                    value = value.astype("float32")
                arrays[f"{group}/{i}"] = value
        partial = self.path.with_name(self.path.name + ".partial")
        with open(partial, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def _read(self):
        # NumPy leaves a file open that it fails to read.
        with open(self.path, "rb") as file:
            try:
                with np.load(file) as stored:
                    arrays = dict(stored)
                meta = json.loads(str(arrays.pop("meta")))
            except _DAMAGED as error:
                raise ValueError(
                    f"{self.path} is not a training state, or is damaged: "
                    f"{error}. Delete it to start afresh."
                ) from error
        if meta["version"] != _VERSION:
            raise ValueError(
                f"{self.path} has version {meta['version']}; this version of "
                f"orrery reads version {_VERSION}."
            )
        return meta, arrays

    def _check_config(self, stored):
        absent = "absent"
        # As a file would give them back: lists for tuples.
        now = json.loads(json.dumps(self.config))
        stored, now = dict(_leaves(stored)), dict(_leaves(now))
        differing = [
            f"{key} ({stored.get(key, absent)!r} in the file, "
            f"{now.get(key, absent)!r} now)"
            for key in sorted(stored.keys() | now.keys())
            if stored.get(key, absent) != now.get(key, absent)
        ]
        if differing:
            raise ValueError(
                f"{self.path} was written with another configuration. "
                f"Differing: {', '.join(differing)}. Resume with the same "
                "values or choose another path."
            )

    def _assign(self, group, variables, arrays):
        stored = sum(key.startswith(f"{group}/") for key in arrays)
        if stored != len(variables):
            raise ValueError(
                f"{self.path} holds {stored} {group} variables; this {group} "
                f"has {len(variables)}."
            )
        for i, variable in enumerate(variables):
            value = arrays[f"{group}/{i}"]
            if value.shape != tuple(variable.shape):
                raise ValueError(
                    f"{self.path} holds shape {value.shape} for {group} "
                    f"variable {variable.path}, which has shape "
                    f"{tuple(variable.shape)}."
                )
            variable.assign(value)


def _leaves(config, prefix=""):
    """Values of a dict of dicts, by names such as `model.dim`."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
