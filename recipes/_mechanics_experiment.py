"""The experiment of `hamiltonian_mechanics.py`: arms, and what is written."""

import json

import numpy as np
from _command_line import distribute, open_folder, versions, write_json
from _mechanics_arms import build, judge, settings_of, train
from _mechanics_names import NAMES
from _mechanics_report import write_report
from _mechanics_setup import complete, load_problem
from _training import check_state
from orrery.zoo import HamiltonianNet


def run(arguments):
    """Train the arms, judge them, write everything to `--out`."""
    complete(arguments)
    folder = arguments.out
    if arguments.preset not in (None, *HamiltonianNet.presets):
        raise ValueError(
            f"--preset must be one of {', '.join(HamiltonianNet.presets)}. "
            f"Received: {arguments.preset!r}"
        )
    problem = load_problem(arguments)
    settings = {
        arm: settings_of(arm, problem, arguments) for arm in arguments.arms
    }
    open_folder(folder)
    distribute(arguments.devices)
    for arm in arguments.arms:
        check_state(folder / arm, settings[arm], arguments.resume)
    announce(arguments, problem)
    write_json(
        folder / "config.json",
        {
            "arguments": vars(arguments),
            "dim": problem.dim,
            "step_size": problem.step_size,
            "units": problem.units,
            "source": problem.source,
            "system_known": problem.system is not None,
            "versions": versions(),
        },
    )
    measured = {"arms": {}}
    if arguments.resume:
        measured = former_measures(folder, arguments.rollout_steps)
    for arm in arguments.arms:
        print(f"\n=== {arm}: {NAMES[arm]} ===", flush=True)
        model = build(arm, problem, arguments)
        history = train(
            model, problem, folder / arm, settings[arm], arguments.resume
        )
        found, drawn = judge(model, problem, arguments.rollout_steps)
        np.savez_compressed(folder / arm / "rollout.npz", **drawn)
        measured["arms"][arm] = {
            "parameters": model.count_params(),
            "seconds": sum(history["seconds"]),
            "train_rmse": history["rmse"][-1],
            "valid_rmse": history["val_rmse"][-1],
            **found,
        }
        write_json(folder / "metrics.json", measured)
        if arm == "hamiltonian":
            model.save(folder / "model.keras")
        print(
            f"valid rmse {history['val_rmse'][-1]:.2e}; position error after "
            + ", ".join(
                f"{steps} steps {error:.2e}"
                for steps, error in found["position_error"].items()
            ),
            flush=True,
        )
    write_report(folder)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")


def former_measures(folder, rollout_steps):
    """Of the arms that were judged by roll-outs as long as these."""
    path = folder / "metrics.json"
    if not path.exists():
        return {"arms": {}}
    arms = json.loads(path.read_text(encoding="utf-8"))["arms"]
    return {
        "arms": {
            arm: measured
            for arm, measured in arms.items()
            if measured["rollout_steps"] == rollout_steps
        }
    }


def announce(arguments, problem):
    train = problem.parts["train"]["q"]
    extra = [
        f"{name} {value:g}"
        for name in ("noise", "friction", "control")
        if (value := getattr(arguments, name))
    ]
    print(
        f"Learning mechanics: {problem.name}, {problem.dim} position(s), "
        f"{train.shape[0]} training trajectories of {train.shape[1]} points "
        f"{problem.step_size:g} apart"
        + (f" ({', '.join(extra)})" if extra else "")
        + f"; loss over windows of {arguments.window} steps, "
        f"{arguments.epochs} epochs, backend {arguments.backend}, "
        f"{arguments.devices} device(s), arms {', '.join(arguments.arms)}; "
        f"then roll-outs of {arguments.rollout_steps:,} steps. Ten to "
        "thirty seconds for each arm on two cores with JAX. Results go to "
        f"{arguments.out}.",
        flush=True,
    )
