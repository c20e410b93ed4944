"""A learned mechanical system whose roll-outs keep their energy."""

import math
import numbers

import keras
import numpy as np
from keras import ops

from .._checks import check_integer
from ..layers.potential import Landscape
from ..layers.symplectic_integrator import check_steps, integrate
from ..layers.two_layer_potential import TwoLayerPotential
from .compensated import plain
from .mechanical_model import MechanicalModel

# softplus(log(e - 1)) = 1, softplus(-3) = 0.049
_ONE, _SMALL = math.log(math.e - 1), -3.0


@keras.saving.register_keras_serializable(package="orrery")
class HamiltonianNet(MechanicalModel):
    """Learns `H = 1/2 p^T M^-1 p + V(q)` from trajectories.

    `dq/dt = M^-1 p`, `dp/dt = -grad V(q) - D p + B u`, with diagonal M > 0 and
    D >= 0. The integrator is symplectic, so what a roll-out conserves, whatever
    its length, is an energy close to H; and because the loss goes through the
    integrator, it is the integrated system that fits the data, at the step that
    it was measured with. Friction is its own exact flow, half of it before
    every step and half behind.

    One network may hold many bodies: n = number of bodies times their
    dimension, with a `PairwisePotential`, which conserves their momentum.

    Args:
        dim: int, n >= 1, number of positions.
        potential: `None` for a `TwoLayerPotential(hidden_dim)`; a `Potential`;
            or any object with the methods `energy(q, context=None)` and
            `force(q, context=None)`. To be saved, its class is registered with
            Keras and has a `get_config`. Defaults to `None`.
        hidden_dim: int, width of that default potential. Defaults to `32`.
        mass: `"diagonal"` for masses that are learned, from 1 on; or the known
            ones, a positive number or n of them. Defaults to `"diagonal"`.
        friction: bool, whether to learn a friction. Defaults to `False`.
        integrator: one of `orrery.layers.symplectic_integrator.METHODS`.
            Defaults to `"yoshida4"`.
        substeps: int >= 1, integrator steps between two points. Defaults to
            `1`.
        num_steps: int, S >= 1. Defaults to `10`.
        step_size: float > 0. Defaults to `0.1`.
        num_controls: int, m >= 0. Defaults to `0`.
        units: dict, see `MechanicalModel`. A given potential and given masses
            are in these units. Defaults to `None`, 1 for all.

    Call arguments:
        inputs: a dict with `"q"`, `"p"` `(B, n)` and, with m > 0,
            `"controls"` `(B, S, m)`, held from each point to the next; a
            tuple of these; or one tensor `(B, 2 n)`, q beside p.
        training: bool.

    Returns:
        Trajectory `(B, S + 1, 2 n)`, q beside p, the given state first.

    Raises:
        ValueError: if an argument is out of its range, or the width of a
            state odd or not that of the model.
        TypeError: if `potential` lacks one of its two methods.

    Example:

    ```python
    data = orrery.datasets.pendulum(num_trajectories=4, num_points=20)
    windows = orrery.datasets.TrajectoryWindows(data, 10, step_size=0.1)
    model = HamiltonianNet(dim=1, hidden_dim=32)
    model.compile("adam", "mse")
    model.fit(windows, epochs=1, shuffle=False, verbose=0)
    q, p = model.rollout(np.ones((1, 1)), np.zeros((1, 1)), num_steps=1000)
    ```

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563)
        - [Chen et al., 2020](https://arxiv.org/abs/1909.13334), the loss
          through a symplectic integrator.
    """

    presets = {
        "hamiltonian_pendulum": {"dim": 1, "hidden_dim": 32},
        "hamiltonian_spring": {"dim": 1, "hidden_dim": 32},
        "hamiltonian_kepler": {"dim": 2, "hidden_dim": 32},
        "hamiltonian_henon_heiles": {"dim": 2, "hidden_dim": 32},
    }

    def __init__(
        self,
        dim,
        potential=None,
        hidden_dim=32,
        mass="diagonal",
        friction=False,
        integrator="yoshida4",
        substeps=1,
        num_steps=10,
        step_size=0.1,
        num_controls=0,
        units=None,
        **kwargs,
    ):
        super().__init__(
            dim, num_steps, step_size, num_controls, units, **kwargs
        )
        check_integer("hidden_dim", hidden_dim, 1)
        check_integer("substeps", substeps, 1)
        check_steps(step_size, substeps, integrator)
        if potential is None:
            potential = TwoLayerPotential(
                hidden_dim, dtype=self.dtype_policy, name="potential"
            )
        for method in ("energy", "force"):
            if not callable(getattr(potential, method, None)):
                raise TypeError(
                    "`potential` must have the methods energy(q, context) and "
                    f"force(q, context). Received: {potential!r}"
                )
        if not isinstance(friction, bool):
            raise ValueError(
                "`friction` must be True, to learn one, or False. "
                f"Received: friction={friction!r}"
            )
        self.potential = potential
        self.hidden_dim = int(hidden_dim)
        self.mass = _check_mass(mass, self.dim)
        self.friction = friction
        self.integrator = integrator
        self.substeps = int(substeps)

    def build(self, input_shape=None):
        super().build(input_shape)
        if isinstance(self.potential, keras.layers.Layer):
            # Restored from a config, it comes already built.
            if not self.potential.built:
                self.potential.build((None, self.dim))
        for name, start, wanted in (
            ("mass_parameter", _ONE, self.mass == "diagonal"),
            ("friction_parameter", _SMALL, self.friction),
        ):
            if wanted:
                weight = self.add_weight(
                    shape=(self.dim,),
                    initializer=keras.initializers.Constant(start),
                    name=name,
                )
                setattr(self, name, weight)

    # === The Hamiltonian, in the model's units ===
    def masses(self):
        """Diagonal of M, a tensor `(n,)`, in units of `p t / q`."""
        if self.mass == "diagonal":
            self.ensure_built()
            return ops.softplus(ops.convert_to_tensor(self.mass_parameter))
        return ops.convert_to_tensor(self.mass, self.compute_dtype)

    def frictions(self):
        """Diagonal of D, a tensor `(n,)`, in units of `1 / t`; or zeros."""
        if not self.friction:
            return ops.zeros((self.dim,), self.compute_dtype)
        self.ensure_built()
        return ops.softplus(ops.convert_to_tensor(self.friction_parameter))

    def energy(self, q, p):
        """H of states `(..., n)`, a tensor `(...)`, in the data's units."""
        unit = self.units
        self.ensure_built()
        q, p = self.in_own_units(q, p)
        kinetic = 0.5 * ops.sum(p * p / self.masses(), axis=-1)
        scale = unit["q"] * unit["p"] / unit["t"]
        return scale * (kinetic + self._landscape().energy(q))

    def derivatives(self, q, p):
        force = self._landscape().force(q)
        return p / self.masses(), force - self.frictions() * p

    def stepper(self):
        landscape, inverse_mass = self._landscape(), 1.0 / self.masses()
        step_size = self.step_size / self.units["t"] / self.substeps
        damping = None
        if self.friction:
            damping = ops.exp(-0.5 * step_size * self.frictions())

        def step(q, p, push, num_steps):
            def force(q):
                pull = landscape.force(plain(q))
                return pull if push is None else pull + push

            def advance(q, p, num_steps):
                return integrate(
                    force,
                    lambda p: plain(p) * inverse_mass,
                    q,
                    p,
                    step_size,
                    num_steps,
                    self.integrator,
                )

            num_steps *= self.substeps
            if damping is None:
                states = advance(q, p, num_steps)
            else:
                states = [(q, p)]
                for _ in range(num_steps):
                    q, p = advance(q, p * damping, 1)[-1]
                    p = p * damping
                    states.append((q, p))
            return states[:: self.substeps]

        return step

    def _constants(self):
        config = getattr(self.potential, "get_config", dict)
        return super()._constants(), config()

    def _landscape(self):
        if hasattr(self.potential, "freeze"):
            return self.potential.freeze()
        return Landscape(self.potential.energy, self.potential.force)

    # === Config ===
    def get_config(self):
        for method in ("get_config", "from_config"):
            if not callable(getattr(self.potential, method, None)):
                raise TypeError(
                    "To be saved, a potential must have the methods get_config "
                    f"and from_config. Received: {self.potential!r}"
                )
        return {
            **super().get_config(),
            "potential": keras.saving.serialize_keras_object(self.potential),
            "hidden_dim": self.hidden_dim,
            "mass": self.mass,
            "friction": self.friction,
            "integrator": self.integrator,
            "substeps": self.substeps,
        }

    @classmethod
    def from_config(cls, config):
        restore = keras.saving.deserialize_keras_object
        return cls(**{**config, "potential": restore(config["potential"])})


def _check_mass(mass, dim):
    """`"diagonal"`, or a list of n positive floats."""
    if isinstance(mass, str) and mass == "diagonal":
        return mass
    masses = np.asarray(mass, dtype=object)
    if masses.shape not in ((), (dim,)) or not all(
        isinstance(m, numbers.Real)
        and not isinstance(m, bool)
        and 0 < m < math.inf
        for m in masses.flat
    ):
        raise ValueError(
            f"`mass` must be 'diagonal', or positive: a number or {dim} of "
            f"them. Received: mass={mass!r}"
        )
    return np.broadcast_to(masses.astype("float64"), (dim,)).tolist()
