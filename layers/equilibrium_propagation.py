"""Relaxation to an energy's minimum, and learning from two of them."""

from typing import Any, NamedTuple

import keras
from keras import ops

from .._checks import check_integer, check_real

NUDGINGS = ("symmetric", "one_sided")


class Relaxation(NamedTuple):
    """Where a descent came to rest, after how many steps, and how well."""

    states: Any
    steps: Any
    residual: Any


@keras.saving.register_keras_serializable(package="orrery")
class EquilibriumPropagation(keras.layers.Layer):
    """Settles the states of an energy, and learns by nudging their output.

    The answer to an input is the output `s_K` of the free equilibrium `s*`,
    found from zero by gradient descent on E. To learn, the descent goes on from
    there on `E + beta C`, `C = 1/2 |s_K - y|^2`, once with beta and once with
    `-beta`. The difference of the two equilibria holds the gradient:

        g = (dE/dtheta(s^{+beta}) - dE/dtheta(s^{-beta})) / (2 beta)

    tends to `dC(s*)/dtheta`, with an error of order `beta^2`. Nothing is
    differentiated but E at given states: each weight sees the activities of its
    own two layers. `nudging="one_sided"` takes `s*` instead of `s^{-beta}`; its
    error is of order beta. It is there as a control.

    `surrogate` is a scalar for each example whose ordinary gradient is g, so
    that `fit` trains with it on every backend.

    A descent ends when its residual, the root mean square of `dE/ds` over an
    example's units, is at most `tolerance` for every example of the batch, or
    after `max_steps`. Both are reported; nothing is silently taken for an
    equilibrium. Where states are confined, the residual is the change that a
    step of size 1 would make.

    Args:
        energy: an energy as `HopfieldEnergy`, with the methods `energy`,
            `slope`, `confine` and `initial_states`.
        beta: float in (0, 1), strength of the nudge: from 1 on `E - beta C`
            has no minimum. Defaults to `0.1`.
        nudging: `"symmetric"` or `"one_sided"`. Defaults to `"symmetric"`.
        step_size: float in (0, 2), of the descent: stable below 2 over the
            largest curvature of E. Defaults to `0.5`.
        max_steps: int >= 1, of each descent. Defaults to `500`.
        tolerance: float > 0, of the residual. Defaults to `1e-6`.

    Call arguments:
        x: float tensor `(B, n_0)`.

    Returns:
        `s_K` of the free equilibrium, float tensor `(B, n_K)`. No gradient
        flows through it.

    Raises:
        ValueError: if a number is out of its range, or `nudging` unknown.
        TypeError: if `energy` lacks a method.

    Example:
    >>> layer = EquilibriumPropagation(HopfieldEnergy((8, 3)), beta=0.1)
    >>> tuple(layer(keras.ops.ones((5, 4))).shape)
    (5, 3)
    >>> free = layer.relax(keras.ops.ones((5, 4)))
    >>> bool(free.residual <= 1e-6)
    True

    Reference:
        - [Scellier and Bengio, 2017](https://arxiv.org/abs/1602.05179)
        - [Laborieux et al., 2020](https://arxiv.org/abs/2006.03824) (symmetric)
    """

    def __init__(
        self,
        energy,
        beta=0.1,
        nudging="symmetric",
        step_size=0.5,
        max_steps=500,
        tolerance=1e-6,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        for method in ("energy", "slope", "confine", "initial_states"):
            if not callable(getattr(energy, method, None)):
                raise TypeError(
                    f"`energy` must have the method `{method}`, as "
                    f"HopfieldEnergy has. Received: {energy!r}"
                )
        check_real("beta", beta, "in (0, 1)", lambda b: 0 < b < 1)
        check_real("step_size", step_size, "in (0, 2)", lambda h: 0 < h < 2)
        check_real("tolerance", tolerance, "above 0", lambda t: t > 0)
        check_integer("max_steps", max_steps, 1)
        if nudging not in NUDGINGS:
            raise ValueError(
                f"`nudging` must be one of {NUDGINGS}. "
                f"Received: nudging={nudging!r}"
            )
        self.energy = energy
        self.beta = float(beta)
        self.nudging = nudging
        self.step_size = float(step_size)
        self.max_steps = int(max_steps)
        self.tolerance = float(tolerance)

    def build(self, input_shape):
        if self.energy.built:  # It was, where a file is loaded.
            return
        batch = input_shape[0]
        shapes = [(batch, width) for width in self.energy.units]
        self.energy.build([tuple(input_shape), *shapes])

    def call(self, x):
        return self.relax(x).states[-1]

    def relax(self, x, target=None, beta=0.0, states=None):
        """Descend on `E + beta C` until the residual is small.

        Args:
            x: float tensor `(B, n_0)`.
            target: float tensor `(B, n_K)`, the y of C; only with a beta.
            beta: float. Defaults to `0.0`, the free equilibrium.
            states: list of K tensors to start from. Defaults to `None`, zeros.

        Returns:
            `Relaxation`: the K states, the steps taken (int32 scalar), and the
            largest residual of the batch (float32 scalar). All are constants
            to differentiation.

        Raises:
            ValueError: if the layer is not built, there is a beta and no
                target, or the target has another shape.
        """
        self._check_target(target, beta)
        x = ops.stop_gradient(ops.convert_to_tensor(x, self.compute_dtype))
        if states is None:
            states = self.energy.initial_states(x)
        slope = self._slope(x, target, beta, constant=True)
        count = len(states)
        # What the loop carries begins as tensors of the shapes it will have.
        states = [ops.stop_gradient(state) for state in states]
        gradients = slope(states)

        def unfinished(step, residual, *_):
            return ops.logical_and(
                step < self.max_steps, residual > self.tolerance
            )

        def descend(step, _, *carried):
            states = self._step(carried[:count], carried[count:])
            gradients = slope(states)
            residual = self.residual(states, gradients)
            return (step + 1, residual, *states, *gradients)

        steps, residual, *carried = ops.while_loop(
            unfinished,
            descend,
            (
                ops.convert_to_tensor(0, "int32"),
                self.residual(states, gradients),
                *states,
                *gradients,
            ),
        )
        found = [ops.stop_gradient(state) for state in carried[:count]]
        return Relaxation(found, steps, ops.stop_gradient(residual))

    def _check_target(self, target, beta):
        if not self.built:
            raise ValueError(
                "The layer has no weights yet: call build(input_shape) first"
            )
        if not beta:
            return
        width = self.energy.units[-1]
        shape = None if target is None else tuple(target.shape)
        if shape is None or len(shape) != 2 or shape[1] != width:
            raise ValueError(
                f"`target` must have the shape (batch, {width}) where there "
                f"is a beta. Received: {shape}"
            )

    def nudge(self, x, target, free):
        """The two relaxations whose difference holds the gradient.

        Args:
            x: float tensor `(B, n_0)`.
            target: float tensor `(B, n_K)`.
            free: `Relaxation` without a nudge, from which both start.

        Returns:
            Two of `Relaxation`: pulled to the target, and pushed off it; with
            one-sided nudging the latter is `free`.
        """
        pulled = self.relax(x, target, self.beta, free.states)
        if self.nudging == "one_sided":
            return pulled, free
        return pulled, self.relax(x, target, -self.beta, free.states)

    def surrogate(self, x, pulled, pushed):
        """What has the gradient of equilibrium propagation as its ordinary one.

        Args:
            x: float tensor `(B, n_0)`.
            pulled: `Relaxation`, first of those that `nudge` returns.
            pushed: `Relaxation`, the second.

        Returns:
            `(E(theta; s^{+beta}) - E(theta; s^{-beta})) / (2 beta)`, float
            tensor `(B,)`, the states being constants; over beta if one-sided.
        """
        apart = self.beta * (2 if self.nudging == "symmetric" else 1)
        difference = self.energy.energy(pulled.states, x)
        difference = difference - self.energy.energy(pushed.states, x)
        return difference / apart

    def descend(self, x, states, num_steps):
        """Further free steps through which a gradient flows.

        Args:
            x: float tensor `(B, n_0)`.
            states: list of K float tensors `(B, n_k)`.
            num_steps: int.

        Returns:
            List of K states.
        """
        slope = self.energy.slope(x)

        def step(states, _):
            return self._step(states, slope(states)), None

        return ops.scan(step, list(states), length=num_steps)[0]

    def cost(self, output, target):
        """`C = 1/2 |s_K - y|^2`, float tensor `(B,)`."""
        return 0.5 * ops.sum(ops.square(output - target), axis=-1)

    def residual(self, states, gradients):
        """The largest root mean square of a batch's gradients, a scalar."""
        change = self.energy.confine(
            [s - g for s, g in zip(states, gradients, strict=True)]
        )
        off = ops.concatenate(
            [s - c for s, c in zip(states, change, strict=True)], axis=-1
        )
        return ops.max(ops.sqrt(ops.mean(ops.square(off), axis=-1)))

    def _slope(self, x, target, beta, constant):
        slope = self.energy.slope(x, constant)
        if not beta:
            return slope
        target = ops.stop_gradient(ops.cast(target, self.compute_dtype))

        def nudged(states):
            *gradients, last = slope(states)
            return [*gradients, last + beta * (states[-1] - target)]

        return nudged

    def _step(self, states, gradients):
        return self.energy.confine(
            [
                state - self.step_size * gradient
                for state, gradient in zip(states, gradients, strict=True)
            ]
        )

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.energy.units[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "energy": keras.saving.serialize_keras_object(self.energy),
            "beta": self.beta,
            "nudging": self.nudging,
            "step_size": self.step_size,
            "max_steps": self.max_steps,
            "tolerance": self.tolerance,
        }

    @classmethod
    def from_config(cls, config):
        energy = keras.saving.deserialize_keras_object(config["energy"])
        return cls(**{**config, "energy": energy})
