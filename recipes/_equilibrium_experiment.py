"""The experiment of `equilibrium_propagation.py`: arms, and what is written."""

import json
import sys
import time

import keras
import numpy as np
from _command_line import (
    default_folder,
    distribute,
    open_folder,
    versions,
    write_json,
)
from _equilibrium_report import write_report
from _training import STATE, EpochSeconds, check_state, write_history
from orrery.callbacks import TrainingState
from orrery.datasets import LabelledBatches, digits, noisy_patterns
from orrery.zoo import EquilibriumClassifier, UnrolledClassifier

ARMS = {
    "equilibrium": "equilibrium propagation, symmetric nudge",
    "one_sided": "equilibrium propagation, one-sided nudge",
    "backprop": "back-propagation through the same energy",
    "mlp": "ordinary network, back-propagation",
}
SMOKE = {"epochs": 2, "hidden_dims": [12], "unrolled_steps": 3}
# Of the highest learning rate, what is left at the end.
LAST_RATE = 0.05
# Test examples whose relaxation the pictures show, and for how many steps.
DRAWN, DRAWN_STEPS = 64, 150


def run(arguments):
    """Train the arms, judge them, write everything to `--out`."""
    if arguments.smoke:
        for flag, value in SMOKE.items():
            setattr(arguments, flag, value)
    if arguments.out is None:
        name = f"equilibrium_propagation-{arguments.dataset}"
        arguments.out = default_folder(
            f"{name}-{arguments.backend}", arguments.resume
        )
    folder = arguments.out
    parts = load(arguments)
    settings = {arm: settings_of(arm, arguments) for arm in arguments.arms}
    for arm in arguments.arms:
        build(arm, parts, arguments)  # Complains before anything is written.
    open_folder(folder)
    distribute(arguments.devices)
    for arm in arguments.arms:
        check_state(folder / arm, settings[arm], arguments.resume)
    announce(arguments, parts)
    write_json(
        folder / "config.json",
        {
            "arguments": vars(arguments),
            "examples": {name: len(y) for name, (_, y) in parts.items()},
            "versions": versions(),
        },
    )
    measured = former_measures(folder) if arguments.resume else {}
    for arm in arguments.arms:
        print(f"\n=== {arm}: {ARMS[arm]} ===", flush=True)
        model = build(arm, parts, arguments)
        drawn = {"start": trace(model, parts)} if has_energy(model) else {}
        history = train(
            model, parts, folder / arm, settings[arm], arguments.resume
        )
        found = judge(model, parts, arguments.batch_size)
        if drawn:
            drawn["end"] = trace(model, parts)
            flat = {
                f"{when}_{name}": values
                for when, curves in drawn.items()
                for name, values in curves.items()
            }
            np.savez_compressed(folder / arm / "relaxation.npz", **flat)
        measured[arm] = {
            "parameters": model.count_params(),
            "seconds": sum(history["seconds"]),
            "processor_seconds": sum(history["processor_seconds"]),
            **found,
        }
        write_json(folder / "metrics.json", measured)
        if arm == "equilibrium":
            model.save(folder / "model.keras")
        print(f"test accuracy {found['test']['accuracy']:.2%}", flush=True)
    write_report(folder)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")


def load(arguments):
    """The examples in three parts; every seed has a split of its own."""
    if arguments.dataset == "digits":
        return digits(arguments.seed)
    return noisy_patterns(seed=arguments.seed)


def build(arm, parts, arguments):
    """A fresh model; those with an energy start from the same weights."""
    keras.utils.set_random_seed(arguments.seed)
    x, y = parts["train"]
    classes = int(y.max()) + 1
    if arm == "mlp":
        model = keras.Sequential([keras.Input((x.shape[1],))])
        for width in arguments.hidden_dims:
            model.add(keras.layers.Dense(width, activation="tanh"))
        model.add(keras.layers.Dense(classes))
        return model
    options = {
        "beta": arguments.beta,
        "rho": arguments.rho,
        "step_size": arguments.step_size,
        "max_steps": arguments.max_steps,
        "tolerance": arguments.tolerance,
    }
    kind = EquilibriumClassifier
    if arm == "one_sided":
        options["nudging"] = "one_sided"
    if arm == "backprop":
        kind = UnrolledClassifier
        options["unrolled_steps"] = arguments.unrolled_steps
    model = kind(x.shape[1], arguments.hidden_dims, classes, **options)
    model.build()
    return model


def has_energy(model):
    return isinstance(model, EquilibriumClassifier)


def settings_of(arm, arguments):
    """What must agree between a run and its continuation."""
    names = "seed epochs batch_size dataset hidden_dims backend"
    if arm == "mlp":
        names += " mlp_learning_rate"
    else:
        names += " learning_rate beta rho step_size max_steps tolerance"
    if arm == "backprop":
        names += " unrolled_steps"
    found = {name: getattr(arguments, name) for name in names.split()}
    return {"arm": arm, **found}


class ProcessorSeconds(keras.callbacks.Callback):
    """Logs the seconds that this process, not the machine, took."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        logs["processor_seconds"] = time.process_time() - self.start


def train(model, parts, folder, settings, resume):
    """AdamW under a cosine; only where the gradient comes from differs.

    Returns:
        The history.
    """
    check_state(folder, settings, resume)
    folder.mkdir(parents=True, exist_ok=True)
    batches = LabelledBatches(
        *parts["train"], settings["batch_size"], seed=settings["seed"]
    )
    valid = LabelledBatches(
        *parts["valid"], settings["batch_size"], shuffle=False
    )
    energy = has_energy(model)
    rate = keras.optimizers.schedules.CosineDecay(
        settings["learning_rate" if energy else "mlp_learning_rate"],
        settings["epochs"] * len(batches),
        alpha=LAST_RATE,
    )
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.AdamW(rate),
        loss=None if energy else crossentropy,
        weighted_metrics=["accuracy"],
    )
    state = TrainingState(
        folder / STATE,
        dataset=batches,
        seed=settings["seed"],
        config=settings,
    )
    model.fit(
        batches,
        validation_data=valid,
        initial_epoch=state.initial_epoch,
        epochs=settings["epochs"],
        shuffle=False,
        callbacks=[EpochSeconds(), ProcessorSeconds(), state],
        verbose=1 if sys.stdout.isatty() else 0,
    )
    write_history(folder / "history.csv", state.history)
    model.save(folder / "model.keras")
    return state.history


def judge(model, parts, batch_size):
    """Accuracy, and how the relaxations ended, on examples not trained on."""
    return {
        name: model.evaluate(
            LabelledBatches(*parts[name], batch_size, shuffle=False),
            verbose=0,
            return_dict=True,
        )
        for name in ("valid", "test")
    }


def trace(model, parts):
    """A free relaxation of test examples, step by step.

    Returns:
        Dict of arrays: the residual `(steps,)` of the worst example, and the
        energies `(steps, examples)`.
    """
    relaxation = model.relaxation
    x = keras.ops.convert_to_tensor(parts["test"][0][:DRAWN])
    slope = relaxation.energy.slope(x, constant=True)
    states = relaxation.energy.initial_states(x)
    residuals, energies = [], []
    for _ in range(DRAWN_STEPS):
        residual = relaxation.residual(states, slope(states))
        energy = keras.ops.stop_gradient(relaxation.energy.energy(states, x))
        residuals.append(float(residual))
        energies.append(keras.ops.convert_to_numpy(energy))
        states = [
            keras.ops.stop_gradient(state)
            for state in relaxation.descend(x, states, 1)
        ]
    return {"residual": np.array(residuals), "energy": np.stack(energies)}


def former_measures(folder):
    path = folder / "metrics.json"
    if not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def announce(arguments, parts):
    print(
        f"Equilibrium propagation: {arguments.dataset}, "
        + ", ".join(f"{len(y):,} {name}" for name, (_, y) in parts.items())
        + f"; hidden states of width {arguments.hidden_dims}, beta "
        f"{arguments.beta:g}, {arguments.rho}, descents of at most "
        f"{arguments.max_steps} steps; {arguments.epochs} epochs, backend "
        f"{arguments.backend}, {arguments.devices} device(s), arms "
        f"{', '.join(arguments.arms)}. Ten seconds or so for each arm on two "
        f"cores with JAX. Results go to {arguments.out}.",
        flush=True,
    )
