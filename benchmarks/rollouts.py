"""Long roll-outs of known systems: energy in float32, order, and diffrax.

    python benchmarks/rollouts.py

10,000 steps of 0.1 of pendulum, Henon-Heiles and Kepler in float32 on every
backend, through `HamiltonianNet.rollout` with the known potential: the largest
error of the energy, its drift, and its ratio when the step is halved (from 0.4
to 0.2 over a time of 200, where float32 can show it). The second table sets the
same beside the solvers of diffrax, in one process in turn, 64 trajectories at a
time, one state in ten saved: median seconds of the calls behind the first, and
the ratio to Orrery's leapfrog in the same run.
"""

import argparse
import functools
import json
import statistics
import sys
import time

from _measure import device, reply, results_file, run_task, write_csv

STEPS, STEP_SIZE, SAVE_EVERY = 10_000, 0.1, 10
METHODS = ("leapfrog", "yoshida4", "rk4", "forward_euler")
# System, q and p where each roll-out starts.
STARTS = {
    "pendulum 1.0": ("pendulum", [1.0], [0.0]),
    "pendulum 2.5": ("pendulum", [2.5], [0.0]),
    "Henon-Heiles 0.13": ("henon_heiles", [0.1, 0.0], [0.0, 0.5]),
    "Henon-Heiles 1/12": ("henon_heiles", [0.0, 0.1], [0.397911, 0.0]),
    "Kepler 1.05": ("kepler", [1.0, 0.0], [0.0, 1.05]),
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
    rows = []
    for backend in arguments.backend or installed_backends():
        task = {"function": "accuracy", "backend": backend, "steps": steps}
        rows += run_task(__file__, task, backend, threads=1)["rows"]
        print(f"{backend}: done", flush=True)
    packages = ["keras", "jax", "torch", "tensorflow"]
    save("rollouts", packages, rows, arguments)
    task = {"function": "peers", "steps": steps}
    rows = run_task(__file__, task, "jax", threads=1)["rows"]
    save("rollouts_diffrax", ["keras", "jax", "diffrax"], rows, arguments)


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


def accuracy(backend, steps):
    """Energy, drift and order of every integrator on one backend."""
    rows = []
    known = systems()
    for start, (name, q, p) in STARTS.items():
        system, potential = known[name]
        for method in METHODS:
            model = network(system, potential, method, STEP_SIZE)
            energy = roll_out(model, system, [q], [p], steps)
            coarse, fine = (
                largest(
                    roll_out(
                        network(system, potential, method, step_size),
                        system,
                        [q],
                        [p],
                        round(200 / step_size) if steps == STEPS else 20,
                    )
                )
                for step_size in (0.4, 0.2)
            )
            rows.append(
                {
                    "backend": backend,
                    "start": start,
                    "method": method,
                    "energy": float(energy[0, 0]),
                    **drift_of(energy),
                    "halving_ratio": coarse / fine,
                }
            )
    return rows


def peers(steps):
    """Orrery and diffrax in turn, on JAX in float32."""
    import numpy as np

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
        calls |= diffrax_calls(system, potential, q, p, steps)
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


def diffrax_calls(system, potential, q, p, steps):
    """Functions without arguments that return q and p as `rollout` does."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import numpy as np

    times = STEP_SIZE * np.arange(0, steps + 1, SAVE_EVERY)
    state = jnp.asarray(q, "float32"), jnp.asarray(p, "float32")

    def velocity(t, p, _):
        return p / system.mass

    def force(t, q, _):
        return potential.force(q)

    def field(t, state, _):
        q, p = state
        return velocity(t, p, None), force(t, q, None)

    pair = diffrax.ODETerm(velocity), diffrax.ODETerm(force)
    one = diffrax.ODETerm(field)
    fixed = diffrax.ConstantStepSize()
    adaptive = diffrax.PIDController(rtol=1e-6, atol=1e-6)
    solvers = {
        "SemiImplicitEuler": (pair, diffrax.SemiImplicitEuler(), fixed),
        "LeapfrogMidpoint": (one, diffrax.LeapfrogMidpoint(), fixed),
        "Dopri8, 1e-6": (one, diffrax.Dopri8(), adaptive),
    }

    def call(terms, solver, controller):
        @jax.jit
        def solve(state):
            return diffrax.diffeqsolve(
                terms,
                solver,
                0.0,
                float(times[-1]),
                STEP_SIZE,
                state,
                saveat=diffrax.SaveAt(ts=jnp.asarray(times, "float32")),
                stepsize_controller=controller,
                max_steps=20 * steps,
            ).ys

        def run():
            found = jax.block_until_ready(solve(state))
            return tuple(np.moveaxis(np.asarray(x), 0, 1) for x in found)

        return run

    return {f"diffrax {name}": call(*parts) for name, parts in solvers.items()}


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


def roll_out(model, system, q, p, steps):
    return energies(system, *model.rollout(q, p, steps))


def energies(system, q, p):
    """The true energy of float32 states, in float64."""
    import numpy as np

    with np.errstate(all="ignore"):
        return system.energy(q.astype("float64"), p.astype("float64"))


def largest(energy):
    from orrery.zoo.rollout_measures import energy_drift

    return float(energy_drift(energy)["error"].max())


def drift_of(energy):
    """Of several trajectories the worst."""
    import numpy as np
    from orrery.zoo.rollout_measures import energy_drift, is_steady

    drift = energy_drift(energy)
    return {
        "energy_error": float(drift["error"].max()),
        "trend": float(drift["trend"].max()),
        "trend_over_oscillation": float(
            np.max(drift["trend"] / np.maximum(drift["oscillation"], 1e-30))
        ),
        "growth": float(drift["growth"].max()),
        "steady": float(is_steady(drift).mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
