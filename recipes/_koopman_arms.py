"""One arm of `koopman_lm.py`: build it, train it, score it."""

import keras
import numpy as np
from _training import count_weights, score, train
from orrery.callbacks import KoopmanMonitor, KoopmanSchedule, NonFiniteGuard
from orrery.zoo import LSTMLM, KoopmanLM
from orrery.zoo.registry import load

# In the operators' own epochs: nine rows of ten start with an operator, most
# of them run nothing else.
OPERATOR_SCHEDULE = {"warmup": 0, "ramp": 1}
FIRST_SHARE, LAST_SHARE = 0.9, 0.75
MOST_FALLBACK = 0.2
# Of the validation text, enough to see each epoch how operators predict.
HELD_OUT_BLOCKS = 64
WITHOUT_OPERATORS = {"koopman": None, "replacement": 0.0}


def build(arm, arguments, architecture, source=None):
    """A fresh model; arms of one seed share the weights they have in common."""
    keras.utils.set_random_seed(arguments.seed)
    if arm == "koopman" and source is not None:
        return load(source)
    changes = {} if arm == "koopman" else WITHOUT_OPERATORS
    model = KoopmanLM(**{**architecture, **changes})
    model.build()
    if arm == "lstm":
        model = LSTMLM.of_size(
            model.count_params(),
            model.vocabulary_size,
            model.dim,
            dropout=model.dropout,
        )
        model.build()
    return model


def train_arm(arm, model, data, blocks, arguments, settings):
    """Train one arm, its operators' own epochs included; what was measured."""
    measured = count_weights(model)
    folder = arguments.out / arm
    held_out = blocks["valid"][0][:HELD_OUT_BLOCKS]
    guard = NonFiniteGuard("disable")
    callbacks = [guard]
    if arm == "koopman":
        monitor = KoopmanMonitor(folder / "operators", held_out)
        schedule = settings[arm]["schedule"]
        callbacks = [KoopmanSchedule(**schedule), guard, monitor]
    history = train(
        model, data, folder, settings[arm], callbacks, arguments.resume
    )
    measured["seconds"] = sum(history["seconds"])
    if arm == "koopman":
        measured["fallback_fraction"] = in_fallback(history)
    if arm == "koopman" and arguments.operator_epochs:
        folder = folder / "operators_only"
        model.train_operators_only(
            np.linspace(FIRST_SHARE, LAST_SHARE, model.num_layers).tolist()
        )
        callbacks = [
            KoopmanSchedule(**{**schedule, **OPERATOR_SCHEDULE}),
            NonFiniteGuard("disable"),
            KoopmanMonitor(folder / "operators", held_out),
        ]
        history = train(
            model,
            data,
            folder,
            settings["operators_only"],
            callbacks,
            arguments.resume,
        )
        measured["operator_seconds"] = sum(history["seconds"])
        measured["fallback_fraction"] = max(
            measured["fallback_fraction"], in_fallback(history)
        )
    return {**measured, **score(model, data, blocks, arguments.batch_size)}


def in_fallback(history):
    """The share of its epochs that a phase's Koopman loss was off."""
    return history["koopman_fallback_fraction"][-1]


def fallback_complaint(measured):
    """Why a run does not count, or `""`: its Koopman loss was switched off.

    Args:
        measured: what `train_arm` returned; said once that is written.
    """
    fraction = measured.get("fallback_fraction", 0.0)
    if fraction <= MOST_FALLBACK:
        return ""
    return (
        f"The Koopman loss was in fallback for {fraction:.0%} of its epochs, "
        f"more than {MOST_FALLBACK:.0%}: the operators do not follow their "
        "blocks"
    )
