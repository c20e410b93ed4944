"""Long roll-outs of known systems: energy in float32, order, and diffrax.

    python benchmarks/rollouts.py

10,000 steps of 0.1 of pendulum, Henon-Heiles and Kepler in float32 on every
backend, through `HamiltonianNet.rollout` with the known potential, beside the
same steps in float64 NumPy: the largest error of the energy, its drift, and its
ratio when the step is halved (from 0.4 to 0.2 over a time of 200, where float32
can show it). The saved pendulum network does the same with what it learned,
judged by the true energy. The second table sets the known systems beside the
solvers of diffrax, in one process in turn, 64 trajectories at a time, one state
in ten saved: median seconds of the calls behind the first, and the ratio to
Orrery's leapfrog in the same run.
"""

import argparse
import functools
import importlib.util
import json
import statistics
import sys
import time

from _measure import device, reply, results_file, run_task, write_csv

STEPS, STEP_SIZE, SAVE_EVERY = 10_000, 0.1, 10
COARSE, FINE, TIME = 0.4, 0.2, 200
METHODS = ("leapfrog", "yoshida4", "symplectic_euler", "rk4", "forward_euler")
LEARNED = "hamiltonian_pendulum"
# For each system: names of the starts, q and p.
STARTS = {
    "pendulum": (("q = 1", "q = 2.5"), [[1.0], [2.5]], [[0.0], [0.0]]),
    "henon_heiles": (
        ("E = 0.13", "E = 1/12"),
        [[0.1, 0.0], [0.0, 0.1]],
        [[0.0, 0.5], [0.396653, 0.0]],
    ),
    "kepler": (("v = 1.05",), [[1.0, 0.0]], [[0.0, 1.05]]),
}
BATCH, REPEATS = 64, 7


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--task", help=argparse.SUPPRESS)
    flags.add_argument("--backend", nargs="+", help="default: all installed")
    flags.add_argument("--out", help="folder of the CSVs, not results/")
    flags.add_argument(
        "--smoke", action="store_true", help="a hundredth of the steps"
    )
    arguments = flags.parse_args()
    if arguments.task:
        task = json.loads(arguments.task)
        reply({"rows": globals()[task.pop("function")](**task)})
        return
    from orrery.testing import installed_backends

    steps = STEPS // 100 if arguments.smoke else STEPS
    rows = reference(steps)
    for backend in arguments.backend or installed_backends():
        task = {"function": "accuracy", "backend": backend, "steps": steps}
        rows += run_task(__file__, task, backend, threads=1)["rows"]
        print(f"{backend}: done", flush=True)
    packages = ["keras", "jax", "torch", "tensorflow"]
    save("rollouts", packages, rows, arguments)
    if importlib.util.find_spec("diffrax") is None:
        print("No comparison: pip install diffrax brings the peer.")
        return
    task = {"function": "peers", "steps": steps}
    rows = run_task(__file__, task, "jax", threads=1)["rows"]
    save("diffrax_rollouts", ["keras", "jax", "diffrax"], rows, arguments)


def save(what, packages, rows, arguments):
    path = results_file(what, packages, arguments.out, smoke=arguments.smoke)
    write_csv(path, rows)
    print(f"Wrote {path}", flush=True)


def systems():
    """For each name: the true system in NumPy, and its potential in Keras."""
    from orrery.datasets import (
        henon_heiles_system,
        kepler_system,
        pendulum_system,
    )
    from orrery.layers import (
        HenonHeilesPotential,
        KeplerPotential,
        PendulumPotential,
    )

    return {
        "pendulum": (pendulum_system(), PendulumPotential()),
        "henon_heiles": (henon_heiles_system(), HenonHeilesPotential()),
        "kepler": (kepler_system(), KeplerPotential()),
    }


def reference(steps):
    """The symplectic integrators in NumPy, float64."""
    import numpy as np
    from orrery.layers.symplectic_integrator import integrate

    def roll_out(system, method, step_size, q, p, steps):
        states = integrate(
            system.force,
            system.velocity,
            np.array(q, "float64"),
            np.array(p, "float64"),
            step_size,
            steps,
            method,
        )
        return [np.stack(x, axis=1) for x in zip(*states, strict=True)]

    return measure("NumPy float64", roll_out, METHODS[:3], steps)


def accuracy(backend, steps):
    """Every integrator on one backend, and the saved network."""
    import orrery

    known = systems()

    def roll_out(system, method, step_size, q, p, steps):
        _, potential = known[system.name]
        return network(system, potential, method, step_size).rollout(
            q, p, steps
        )

    rows = measure(backend, roll_out, METHODS, steps)
    if LEARNED in orrery.list_models():
        system, _ = known["pendulum"]
        states = orrery.load(LEARNED).rollout([[1.0]], [[0.0]], steps)
        energy = energies(system, *states)
        method = "learned, yoshida4"
        rows.append(row(backend, "pendulum", "q = 1", method, energy, ""))
    return rows


def measure(arithmetic, roll_out, methods, steps):
    """Energy, drift and order of integrators, a row for each start."""
    rows = []
    time = TIME if steps == STEPS else TIME / 100
    for name, (starts, q, p) in STARTS.items():
        system, _ = systems()[name]
        for method in methods:
            run = functools.partial(roll_out, system, method)
            energy = energies(system, *run(STEP_SIZE, q, p, steps))
            coarse, fine = (
                largest(energies(system, *run(h, q, p, round(time / h))))
                for h in (COARSE, FINE)
            )
            for i, start in enumerate(starts):
                ratio = float(coarse[i] / fine[i])
                of_start = energy[i : i + 1]
                rows.append(
                    row(arithmetic, name, start, method, of_start, ratio)
                )
    return rows


def row(arithmetic, system, start, method, energy, ratio):
    return {
        "arithmetic": arithmetic,
        "system": system,
        "start": start,
        "method": method,
        "energy": float(energy[0, 0]),
        **drift_of(energy),
        "halving_ratio": ratio,
    }


def peers(steps):
    """Orrery and diffrax in turn, on JAX in float32."""
    import numpy as np
    from _diffrax_solvers import diffrax_calls

    rows = []
    for name, (system, potential) in systems().items():
        q, p = system.draw(np.random.default_rng(0), BATCH)
        calls = {
            f"Orrery {method}": functools.partial(
                network(system, potential, method, STEP_SIZE).rollout,
                q,
                p,
                steps,
                SAVE_EVERY,
            )
            for method in ("leapfrog", "yoshida4", "rk4")
        }
        calls |= diffrax_calls(
            system, potential, q, p, steps, STEP_SIZE, SAVE_EVERY
        )
        first, seconds, found = {}, {solver: [] for solver in calls}, {}
        for repeat in range(REPEATS + 1):
            for solver, call in calls.items():
                start = time.perf_counter()
                found[solver] = call()
                taken = time.perf_counter() - start
                if repeat:
                    seconds[solver].append(taken)
                else:
                    first[solver] = taken
        ours = statistics.median(seconds["Orrery leapfrog"])
        for solver, states in found.items():
            energy = energies(system, *states)
            median = statistics.median(seconds[solver])
            rows.append(
                {
                    "system": name,
                    "solver": solver,
                    **drift_of(energy),
                    "first_call": first[solver],
                    "seconds": median,
                    "ratio": median / ours,
                    "device": device("jax") or "cpu",
                }
            )
    return rows


def network(system, potential, method, step_size):
    from orrery.zoo import HamiltonianNet

    model = HamiltonianNet(
        system.dim,
        potential,
        mass=system.mass,
        integrator=method,
        step_size=step_size,
    )
    model.build()
    return model


def energies(system, q, p):
    """The true energy of float32 states, in float64."""
    import numpy as np

    with np.errstate(all="ignore"):
        return system.energy(q.astype("float64"), p.astype("float64"))


def largest(energy):
    from orrery.zoo.rollout_measures import secular_drift

    return secular_drift(energy)["error"]


def drift_of(energy):
    """Of several trajectories the worst."""
    from orrery.zoo.rollout_measures import is_steady, secular_drift

    drift = secular_drift(energy)
    return {
        "energy_error": float(drift["error"].max()),
        **{
            name: float(drift[name].max())
            for name in ("trend", "trend_over_oscillation", "growth")
        },
        "steady": float(is_steady(drift).mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
