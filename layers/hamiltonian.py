"""A block whose forward pass integrates its own Hamiltonian."""

import math

import keras
from keras import ops

from .._checks import check_integer, check_real
from .energy_account import EnergyAccount
from .mlp_potential import MLPPotential
from .potential import Potential
from .symplectic_integrator import SPLITTINGS, check_steps, integrate


@keras.saving.register_keras_serializable(package="orrery")
class HamiltonianBlock(keras.layers.Layer):
    """Moves every token along Hamilton's equations of a learned energy.

    The input is split in half, `h = (q, p)`, and integrated for a time
    `num_steps * step_size` under `H = 1/2 p^T M^-1 p + V(q; c)`, with
    `M = diag softplus(.) > 0`. The map from `(q, p)` to its output is
    symplectic, has an exact inverse, and keeps `H` up to an error of the
    order of the integrator. All this holds at a fixed context `c`, and not for
    the controls among the integrators, `"forward_euler"` and `"rk4"`.

    The context is computed once, at the entrance, and frozen while the block
    steps: `c = u + Dropout(mixer(u))` with `u = RMSNorm(h)`; `c = u` for a
    potential that looks at earlier tokens (`AttentionPotential`); nothing
    without either. A conservative pair force between tokens would obey Newton's
    third law: no single Hamiltonian of a whole sequence can be causal.

    In training an `EnergyAccount` measures the energies along the steps on part
    of the batch, and adds its loss with the weight that the callback
    `LagrangeMultiplier` gives it. The integration is float32 under any policy.

    Args:
        potential: a `Potential`; `None` is an `MLPPotential()`.
        mixer: a causal layer `(B, N, d) -> (B, N, d)` with the streaming
            methods `initial_state` and `step`, or `None` for tokens that feel
            no other. Defaults to `None`.
        num_steps: int, steps S. Defaults to `4`.
        step_size: float > 0, time of a step. Defaults to `0.25`.
        mass: `"diagonal"` (learned, from 1 on) or `"identity"`.
        integrator: one of `symplectic_integrator.METHODS`. Defaults to
            `"leapfrog"`.
        dropout: float in `[0, 1)`, rate on the mixer's output. Defaults to 0.
        energy_tokens: int, about how many tokens of a training batch to
            measure the energy on, in whole sequences; with 0 the block keeps
            no account of energy. Defaults to `128`.
        energy_weight: float >= 0, weight of the loss on energy, which
            `LagrangeMultiplier` may move. Defaults to `0`.
        spread_floor: float, see `EnergyConservation`. Defaults to `0.5`.
        rematerialize: bool, whether training computes the steps a second time
            on the way back, rather than keep what they need for it.
            `keras.remat` around the block would also hold the account and the
            dropout, whose state cannot leave it on JAX. Defaults to `False`.
        return_energies: bool, whether to return the energies too. Defaults to
            `False`.

    Call arguments:
        h: float tensor `(B, N, d)` or, without a mixer, `(B, d)`; d even.
        training: bool.

    Returns:
        Tensor of the shape of `h`; with `return_energies` also the float32
        energies `(B, N, S + 1)` or `(B, S + 1)` along the steps.

    Raises:
        ValueError: if an argument is out of its range, d is odd, or `h` has no
            axis of its batch.
        TypeError: if `potential` is not a `Potential`, or `mixer` not a layer.

    Example:

    ```python
    block = HamiltonianBlock(mixer=CausalSelfAttention(4))
    y = block(keras.random.normal((2, 16, 64)))  # (2, 16, 64)
    ```

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563)
        - [Galimberti et al., 2021](https://arxiv.org/abs/2105.13205)
    """

    def __init__(
        self,
        potential=None,
        mixer=None,
        num_steps=4,
        step_size=0.25,
        mass="diagonal",
        integrator="leapfrog",
        dropout=0.0,
        energy_tokens=128,
        energy_weight=0.0,
        spread_floor=0.5,
        rematerialize=False,
        return_energies=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_steps(step_size, num_steps, integrator)
        check_integer("energy_tokens", energy_tokens, 0)
        check_real("dropout", dropout, "in [0, 1)", lambda rate: 0 <= rate < 1)
        check_real(
            "energy_weight", energy_weight, "from 0 on", lambda w: w >= 0
        )
        check_real(
            "spread_floor", spread_floor, "in [0, 1]", lambda f: 0 <= f <= 1
        )
        if energy_weight and not energy_tokens:
            raise ValueError(
                "`energy_weight` needs `energy_tokens` above 0. Received: "
                f"energy_weight={energy_weight!r}, energy_tokens=0"
            )
        if mass not in ("diagonal", "identity"):
            raise ValueError(
                "`mass` must be 'diagonal' or 'identity'. "
                f"Received: mass={mass!r}"
            )
        if potential is None:
            potential = MLPPotential(name="potential")
        if not isinstance(potential, Potential):
            raise TypeError(
                "`potential` must be an orrery.layers.Potential, with the "
                "methods energy(q, context) and force(q, context). "
                f"Received: {potential!r}"
            )
        if mixer is not None and not isinstance(mixer, keras.layers.Layer):
            raise TypeError(
                "`mixer` must be a layer such as CausalSelfAttention(4), or "
                f"None. Received: {mixer!r}"
            )
        self.potential = potential
        self.mixer = mixer
        self.num_steps = int(num_steps)
        self.step_size = float(step_size)
        self.mass = mass
        self.integrator = integrator
        self.dropout_rate = float(dropout)
        self.energy_tokens = int(energy_tokens)
        self.energy_weight = float(energy_weight)
        self.spread_floor = float(spread_floor)
        self.rematerialize = rematerialize
        self.account = None
        if energy_tokens:
            self.account = EnergyAccount(
                energy_weight, spread_floor, name="energy_account"
            )
        self.return_energies = return_energies
        self.norm = None
        if mixer is not None or potential.reads_sequence:
            self.norm = keras.layers.RMSNormalization(
                dtype=self.dtype_policy, name="norm"
            )
        if mixer is not None:
            self.mixer_dropout = keras.layers.Dropout(
                dropout, dtype=self.dtype_policy, name="mixer_dropout"
            )

    def build(self, input_shape):
        width = input_shape[-1]
        if width is None or width % 2:
            raise ValueError(
                "The width of the input must be even: its halves are positions "
                f"and momenta. Received: width={width}"
            )
        if self.norm is not None and len(input_shape) != 3:
            raise ValueError(
                "A mixer, or a potential that looks at earlier tokens, needs "
                f"sequences (B, N, d). Received: shape {tuple(input_shape)}"
            )
        context_shape = None
        if self.norm is not None:
            self.norm.build(input_shape)
            context_shape = input_shape
        # Restored from a config, the given layers come already built.
        if self.mixer is not None and not self.mixer.built:
            self.mixer.build(input_shape)
        if not self.potential.built:
            q_shape = (*input_shape[:-1], width // 2)
            self.potential.build(q_shape, context_shape)
        if self.mass == "diagonal":
            # softplus(log(e - 1)) = 1
            self.mass_parameter = self.add_weight(
                shape=(width // 2,),
                initializer=keras.initializers.Constant(math.log(math.e - 1)),
                dtype="float32",
                autocast=False,
                name="mass",
            )
        if self.account is not None:
            self.account.build((*input_shape[:-1], self.num_steps + 1))

    # === The Hamiltonian ===
    def masses(self):
        """Diagonal of M, a float32 tensor `(d / 2,)`, or 1."""
        if self.mass == "identity":
            return 1.0
        return ops.softplus(ops.convert_to_tensor(self.mass_parameter))

    def kinetic_energy(self, p):
        """`T = 1/2 p^T M^-1 p`, `(..., d / 2) -> (...)`."""
        (p,) = self._tensors(p)
        return 0.5 * ops.sum(p * p / self.masses(), axis=-1)

    def energy(self, q, p, context=None):
        """`H = T + V`, float tensors `(..., d / 2) -> (...)`."""
        (q,) = self._tensors(q)
        return self.kinetic_energy(p) + self._landscape(context).energy(q)

    def force(self, q, context=None):
        """`-grad_q V`, float tensor `(..., d / 2)` of positions like it."""
        (q,) = self._tensors(q)
        return self._landscape(context).force(q)

    def context(self, h, training=False):
        """What the potential is given at the entrance, or `None`."""
        if self.norm is None:
            return None
        context = self.norm(h)
        if self.mixer is not None:
            mixed = self.mixer(context)
            context = context + self.mixer_dropout(mixed, training=training)
        return context

    def integrate(
        self, q, p, context=None, num_steps=None, step_size=None, reverse=False
    ):
        """Positions and momenta along the steps.

        Args:
            q: float32 tensor `(..., d / 2)`.
            p: float32 tensor `(..., d / 2)`.
            context: see `context`. Defaults to `None`.
            num_steps: int, or `None` for the block's own.
            step_size: float, or `None` for the block's own.
            reverse: bool, whether to undo the steps. Defaults to `False`.

        Returns:
            list of S + 1 pairs `(q, p)`, the given one first.

        Raises:
            ValueError: if the potential has a context and none is given, or
                the steps of an integrator that has no inverse are to be undone.
        """
        if reverse and self.integrator not in SPLITTINGS:
            raise ValueError(
                "`reverse` needs a symplectic integrator: the steps of "
                f"{self.integrator!r} backwards do not undo it"
            )
        return self._integrate(
            self._landscape(context),
            *self._tensors(q, p),
            num_steps=self.num_steps if num_steps is None else num_steps,
            step_size=self.step_size if step_size is None else step_size,
            reverse=reverse,
        )

    def trajectory(self, h, context=None):
        """`integrate` from the halves of a state `(..., d)`."""
        return self.integrate(*_halves(h), context)

    def energies(self, states, context=None):
        """`T` and `V` along `integrate`'s states, each `(..., S + 1)`."""
        landscape = self._landscape(context)
        kinetic = [self.kinetic_energy(p) for _, p in states]
        potential = [landscape.energy(q) for q, _ in states]
        return ops.stack(kinetic, axis=-1), ops.stack(potential, axis=-1)

    def inverse(self, h, context=None):
        """The input whose output is `h`, given that input's context.

        Raises:
            ValueError: see `integrate`.
        """
        q, p = self.integrate(*_halves(h), context, reverse=True)[-1]
        return ops.cast(ops.concatenate([q, p], axis=-1), self.compute_dtype)

    # === Forward pass ===
    def call(self, h, training=False):
        if len(h.shape) < 2:
            raise ValueError(
                "The input must be (B, N, d) or (B, d). "
                f"Received: shape {tuple(h.shape)}"
            )
        counted = training and self.account is not None

        def move(h, *context):
            states = self.trajectory(h, *context)
            moved = [ops.concatenate(states[-1], axis=-1)]
            if counted:
                moved.append(sum(self._first_energies(states, *context)))
            if self.return_energies:
                moved.append(sum(self.energies(states, *context)))
            return moved

        if training and self.rematerialize:
            move = keras.remat(move)
        context = self.context(h, training)
        moved = move(h) if context is None else move(h, context)
        if counted:
            self.account(moved.pop(1))
        moved[0] = ops.cast(moved[0], self.compute_dtype)
        return tuple(moved) if self.return_energies else moved[0]

    def _tensors(self, *arrays):
        if not self.built:
            raise ValueError(
                "The block has no weights yet: call build(input_shape) first"
            )
        return [ops.convert_to_tensor(a, dtype="float32") for a in arrays]

    def _landscape(self, context):
        if self.norm is not None and context is None:
            raise ValueError(
                "`context` is needed, for the potential depends on it: "
                "`block.context(h)` of the block's input h"
            )
        return self.potential.freeze(context)

    def _integrate(self, landscape, q, p, num_steps, step_size, reverse=False):
        inverse_mass = 1.0 / self.masses()
        return integrate(
            landscape.force,
            lambda p: p * inverse_mass,
            q,
            p,
            step_size,
            num_steps,
            self.integrator,
            reverse,
        )

    def _first_energies(self, states, context=None):
        """Of the batch's first sequences, for every potential has all keys."""
        q, _ = states[0]
        length = ops.shape(q)[1] if len(q.shape) == 3 else 1
        rows = (self.energy_tokens + length - 1) // length
        return self.energies(
            [(q[:rows], p[:rows]) for q, p in states],
            None if context is None else context[:rows],
        )

    # === Streaming ===
    def initial_state(self, batch_size, max_length):
        """The streaming states of the mixer and of the potential."""
        return tuple(
            () if part is None else part.initial_state(batch_size, max_length)
            for part in (self.mixer, self.potential)
        )

    def step(self, h, state, index):
        """One token `(B, 1, d)` at position `index`, without dropout."""
        mixer_state, potential_state = state
        context = None if self.norm is None else self.norm(h)
        if self.mixer is not None:
            mixed, mixer_state = self.mixer.step(context, mixer_state, index)
            context = context + mixed
        landscape, potential_state = self.potential.step(
            context, potential_state, index
        )
        states = self._integrate(
            landscape, *_halves(h), self.num_steps, self.step_size
        )
        out = ops.cast(ops.concatenate(states[-1], axis=-1), self.compute_dtype)
        return out, (mixer_state, potential_state)

    def compute_output_spec(self, h, training=False):
        out = keras.KerasTensor(h.shape, dtype=self.compute_dtype)
        if not self.return_energies:
            return out
        shape = (*h.shape[:-1], self.num_steps + 1)
        return out, keras.KerasTensor(shape, dtype="float32")

    # === Config ===
    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "potential": serialize(self.potential),
            "mixer": serialize(self.mixer),
            "num_steps": self.num_steps,
            "step_size": self.step_size,
            "mass": self.mass,
            "integrator": self.integrator,
            "dropout": self.dropout_rate,
            "energy_tokens": self.energy_tokens,
            "energy_weight": self.energy_weight,
            "spread_floor": self.spread_floor,
            "rematerialize": self.rematerialize,
            "return_energies": self.return_energies,
        }

    @classmethod
    def from_config(cls, config):
        restore = keras.saving.deserialize_keras_object
        parts = {name: restore(config[name]) for name in ("potential", "mixer")}
        return cls(**{**config, **parts})


def _halves(h):
    """Positions and momenta of a state, in float32."""
    h = ops.cast(h, "float32")
    half = h.shape[-1] // 2
    return h[..., :half], h[..., half:]
