r"""Turn a finished run of `hamiltonian_mechanics.py` into a saved model.

    python recipes/publish_hamiltonian_mechanics.py \
        runs/hamiltonian_mechanics-pendulum-jax-1 hamiltonian_pendulum

Writes `saved_models/<name>/` (checked on every installed backend) and the run's
pictures under `results/`.
"""

import shutil

import _publishing
from _publishing import ROOT

PICTURES = ("energy", "errors", "phase")
GOLDEN_STATES = 4


def main():
    arguments, config, metrics = _publishing.arguments(__doc__.splitlines()[0])
    settings = config["arguments"]
    if (
        not config["system_known"]
        or settings["friction"]
        or settings["control"]
    ):
        raise SystemExit(
            "Only a network of a simulated system that keeps its energy is "
            "published."
        )
    for picture in PICTURES:
        path = arguments.run / f"{picture}.png"
        if path.exists():
            name = f"{arguments.name}_{picture}.png"
            shutil.copy(path, ROOT / "results" / name)
    if arguments.tables_only:
        return

    import numpy as np
    import orrery
    from orrery.zoo.publishing import publish

    model = orrery.load(arguments.run / "model.keras")
    q, p = np.random.default_rng(0).uniform(
        -0.8, 0.8, (2, GOLDEN_STATES, model.dim)
    )
    publish(
        ROOT / "saved_models" / arguments.name,
        model,
        {"q": q.astype("float32"), "p": p.astype("float32")},
        metadata(arguments, config, metrics["arms"]["hamiltonian"], model),
    )
    print(f"Wrote saved_models/{arguments.name}")


def metadata(arguments, config, measured, model):
    from _mechanics_setup import SYSTEMS

    settings, system = config["arguments"], config["arguments"]["system"]
    state = f"(batch, {model.dim})"
    return {
        "description": f"A network that has learned the motion of a {system} "
        "from trajectories, as a separable Hamiltonian under a symplectic "
        f"integrator ({model.integrator}).",
        "task": "states of a mechanical system in, the trajectory behind "
        f"them out, {model.num_steps} steps of {model.step_size:g}; "
        "model.rollout(q, p, num_steps) goes on for any number",
        "inputs": [
            {
                "name": name,
                "shape": state,
                "dtype": "float32",
                "range": f"{what}, as in training",
            }
            for name, what in (("q", "positions"), ("p", "momenta"))
        ],
        "outputs": [
            {
                "name": "trajectory",
                "shape": f"(batch, {model.num_steps + 1}, {2 * model.dim})",
                "dtype": "float32",
                "range": "q beside p, the given state first",
            }
        ],
        "data": {
            "name": f"{system}, {settings['trajectories']} trajectories, "
            f"points {model.step_size:g} apart, seed {settings['seed']}",
            "source": "simulated anew by orrery.datasets."
            f"{SYSTEMS[system].__name__}; {config['source']['simulated']}",
            "licence": "Apache-2.0",
            "sha256": None,
        },
        "training": {
            "command": command(settings),
            "seconds": round(measured["seconds"]),
            "hardware": arguments.hardware,
            "epochs": settings["epochs"],
        },
        "metrics": list(rows(measured, settings["seed"])),
        "intended_use": "Research on learned mechanics, and an example of a "
        "network whose long roll-outs keep their energy; tests and examples.",
        "limits": "One system in units of order one, where training showed it "
        "(see orrery.datasets.mechanical_systems); outside of that it "
        "conserves an energy of its own, not the true one.",
        "licence": "Apache-2.0",
    }


def rows(measured, seed):
    """The card's measures; a lone seed has no interval."""
    values = {
        f"position error after {steps} steps, root mean square": error
        for steps, error in measured["position_error"].items()
    }
    steps = f"{measured['rollout_steps']:,} steps"
    values[f"largest error of the true energy in {steps}"] = measured[
        "energy_error"
    ]
    values[f"share of roll-outs of {steps} without drift"] = measured["steady"]
    for name, value in values.items():
        yield {
            "name": name,
            "split": "test",
            "value": float(f"{value:.3g}"),
            "seeds": str(seed),
            "interval": "one seed",
        }


def command(settings):
    """The call that repeats the run, without paths of this machine."""
    names = ("system", "epochs", "batch_size", "learning_rate", "window")
    names += ("hidden_dim", "integrator", "trajectories", "step_size")
    names += ("noise", "rollout_steps")
    values = [
        f"--{name.replace('_', '-')} {settings[name]}"
        for name in (*names, "seed", "backend")
    ]
    arms = " ".join(settings["arms"])
    return (
        f"python recipes/hamiltonian_mechanics.py {' '.join(values)} "
        f"--arms {arms}"
    )


if __name__ == "__main__":
    main()
