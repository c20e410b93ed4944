"""The solvers of diffrax that Orrery's roll-outs are held against."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np


def diffrax_calls(system, potential, q, p, steps, step_size, save_every):
    """Functions without arguments that return q and p as `rollout` does.

    Args:
        system: the `MechanicalSystem`.
        potential: its potential in Keras.
        q: array `(B, n)`, where the roll-outs start.
        p: array `(B, n)`.
        steps: int.
        step_size: float; the adaptive solver starts with it.
        save_every: int, steps between two states returned.
    """
    times = step_size * np.arange(0, steps + 1, save_every)
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
                step_size,
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
