"""One arm of `hamiltonian_mechanics.py`: build it, train it, judge it."""

import sys

import keras
import numpy as np
from _mechanics_setup import HORIZONS, shared_points
from _training import STATE, EpochSeconds, check_state, write_history
from orrery.callbacks import TrainingState
from orrery.datasets import TrajectoryWindows
from orrery.layers import RadialPotential
from orrery.zoo import HamiltonianNet, NeuralODE, PlainHNN
from orrery.zoo.rollout_measures import (
    is_steady,
    position_errors,
    secular_drift,
)

INTEGRATORS = {
    "separable_leapfrog": "leapfrog",
    "separable_rk4": "rk4",
    "separable_euler": "forward_euler",
}
# Of the steps, until the learning rate is at its highest.
WARM_UP = 0.05


def build(arm, problem, arguments):
    """A fresh model; every arm has about as many weights as the first."""
    keras.utils.set_random_seed(arguments.seed)
    shared = {
        "num_steps": arguments.window,
        "step_size": problem.step_size,
        "num_controls": problem.num_controls,
        "units": problem.units,
    }
    architecture = {"hidden_dim": arguments.hidden_dim}
    if arguments.preset:
        architecture = dict(HamiltonianNet.presets[arguments.preset])
        if architecture.pop("dim") != problem.dim:
            raise ValueError(
                f"--preset {arguments.preset} has another number of positions "
                f"than {problem.name}, which has {problem.dim}"
            )
    model = HamiltonianNet(
        problem.dim,
        friction=problem.friction,
        integrator=INTEGRATORS.get(arm, arguments.integrator),
        **architecture,
        **shared,
    )
    model.build()
    if arm == "radial":
        # Three weights for each hidden unit, a slope, and the masses.
        width = (model.count_params() - problem.dim - 1) // 3
        keras.utils.set_random_seed(arguments.seed)
        model = HamiltonianNet(
            problem.dim,
            RadialPotential(width, name="potential"),
            friction=problem.friction,
            integrator=arguments.integrator,
            **shared,
        )
        model.build()
    others = {"plain_hnn": PlainHNN, "neural_ode": NeuralODE}
    if arm in others:
        size = model.count_params() - problem.num_controls * problem.dim
        keras.utils.set_random_seed(arguments.seed)
        model = others[arm].of_size(size, problem.dim, **shared)
        model.build()
    return model


def settings_of(arm, problem, arguments):
    """What must agree between a run and its continuation."""
    names = "seed epochs batch_size learning_rate window hidden_dim preset"
    names += " trajectories noise friction control integrator backend"
    names += " learn_friction step_size"
    return {
        "arm": arm,
        "system": problem.name,
        "source": problem.source,
        **{name: getattr(arguments, name) for name in names.split()},
    }


def train(model, problem, folder, settings, resume):
    """Fit by the error over a window of steps, through the integrator."""
    check_state(folder, settings, resume)
    folder.mkdir(parents=True, exist_ok=True)
    window, batch_size = settings["window"], settings["batch_size"]
    windows = TrajectoryWindows(
        problem.parts["train"],
        window,
        batch_size=batch_size,
        seed=settings["seed"],
    )
    valid = TrajectoryWindows(
        problem.parts["valid"],
        window,
        stride=window,
        batch_size=batch_size,
        shuffle=False,
    )
    steps = settings["epochs"] * len(windows)
    warm_up = max(1, round(WARM_UP * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        0.01 * settings["learning_rate"],
        max(1, steps - warm_up),
        alpha=0.01,
        warmup_target=settings["learning_rate"],
        warmup_steps=warm_up,
    )
    # What fills up the last batch counts in neither loss nor measure.
    model.compile(
        keras.optimizers.Adam(rate),
        "mse",
        weighted_metrics=[keras.metrics.RootMeanSquaredError(name="rmse")],
    )
    state = TrainingState(
        folder / STATE,
        dataset=windows,
        seed=settings["seed"],
        config=settings,
    )
    model.fit(
        windows,
        validation_data=valid,
        initial_epoch=state.initial_epoch,
        epochs=settings["epochs"],
        shuffle=False,
        callbacks=[EpochSeconds(), state],
        verbose=1 if sys.stdout.isatty() else 0,
    )
    write_history(folder / "history.csv", state.history)
    model.save(folder / "model.keras")
    return state.history


def judge(model, problem, num_steps):
    """Roll out from the test states, and hold that against the truth.

    Args:
        model: a trained `MechanicalModel`.
        problem: the `Problem`.
        num_steps: int; where there is a control, no further than it is given.

    Returns:
        dict of JSON-plain measures, and dict of arrays for the pictures. What
        diverged is infinite.
    """
    test, known = problem.parts["test"], shared_points(problem)
    controls = None
    if problem.num_controls:
        num_steps = min(num_steps, known - 1)
        controls = test["u"][:, :num_steps]
    q, p = model.rollout(
        test["q"][:, 0], test["p"][:, 0], num_steps, controls=controls
    )
    points = min(known, num_steps + 1)
    true_q, true_p = test["q"][:, :points], test["p"][:, :points]
    at = [h for h in HORIZONS if h < points] or [points - 1]
    curve = np.geomspace(1, points - 1, 60).round().astype(int)
    curve = np.unique(curve)
    position, momentum, along = (
        position_errors(x[:, :points], truth, steps).tolist()
        for x, truth, steps in (
            (q, true_q, at),
            (p, true_p, at),
            (q, true_q, curve),
        )
    )
    measured = {
        "rollout_steps": num_steps,
        "position_error": dict(zip(map(str, at), position, strict=True)),
        "momentum_error": dict(zip(map(str, at), momentum, strict=True)),
        # How much further than the truth a roll-out ever goes.
        "reach": float(np.abs(q).max() / np.abs(true_q).max())
        if np.isfinite(q).all()
        else np.inf,
    }
    # The largest motion, a middle one and the smallest, drawn in this order.
    order = np.argsort(-np.abs(true_q).max(axis=(1, 2)))
    shown = list(dict.fromkeys(order[[0, len(order) // 2, -1]].tolist()))
    drawn = {
        "q": q[shown],
        "p": p[shown],
        "true_q": true_q[shown],
        "true_p": true_p[shown],
        "steps": curve,
        "position_error": along,
    }
    if problem.system:
        error = energy_of(problem.system, q, p) - test["energy"]
        size = np.where(np.isfinite(error), np.abs(error), np.inf)
        largest = size.max(axis=1)
        drawn["energy_error"] = np.median(size, axis=0)
        drawn["energy"] = error[shown]
        measured["energy_error"] = float(np.sqrt(np.mean(largest**2)))
        measured["energy_error_median"] = float(np.median(largest))
        if problem.conserves:
            drift = secular_drift(error)
            measured["steady"] = float(is_steady(drift).mean())
            for name in ("trend_over_oscillation", "growth"):
                measured[name] = float(drift[name].max())
    return measured, drawn


def energy_of(system, q, p):
    """The true energy of float32 states, in float64; no warning of infinity."""
    with np.errstate(all="ignore"):
        return system.energy(q.astype("float64"), p.astype("float64"))
