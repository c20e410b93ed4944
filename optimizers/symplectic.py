"""Optimizers that integrate a damped Hamiltonian motion in the loss."""

import keras
from keras import ops

from .._checks import check_integer, check_real


class _Symplectic(keras.optimizers.Optimizer):
    """What both share: the damping, and the first kick."""

    def __init__(self, learning_rate, half_start, name, kwargs):
        if not callable(learning_rate):
            check_real(
                "learning_rate",
                learning_rate,
                "above 0, or a schedule",
                lambda rate: rate > 0,
            )
            learning_rate = float(learning_rate)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.half_start = bool(half_start)

    def _kick(self, gradient, variable):
        """The gradient, of which the first step may take one half."""
        gradient = ops.cast(gradient, variable.dtype)
        if not self.half_start:
            return gradient
        share = ops.where(self.iterations == 0, 0.5, 1.0)
        return ops.multiply(gradient, ops.cast(share, variable.dtype))

    def _slots(self, variables, name):
        return [
            self.add_variable_from_reference(variable, name=name)
            for variable in variables
        ]


@keras.saving.register_keras_serializable(package="orrery")
class SymplecticSGD(_Symplectic):
    """Motion of unit mass with friction; heavy ball under another name.

    `dx/dt = p`, `dp/dt = -grad f(x) - gamma p`, in steps of h, the learning
    rate being `h^2`. Positions stand at whole steps, momenta at half ones, so
    a step takes one gradient:

        p <- mu p - h grad f(x),    x <- x + h p,    mu = exp(-gamma h).

    **With `half_start=False` this is `keras.optimizers.SGD(learning_rate,
    momentum=mu)`, up to rounding.** It is no new optimizer: what the name adds
    is what is known of the motion. With `half_start=True` the first kick is
    `h/2 grad f`, so that p is at a half step indeed; then mu = 1 is leapfrog,
    started at rest: reversible, symplectic, and never at rest again. It
    explores, it does not minimise.

    A quadratic of curvature lambda is stable for `h^2 lambda < 2 (1 + mu)`.
    The total energy `|p|^2/2 + f` of a convex f never rises where
    `h^2 lambda <= 1 - mu`.

    The slot of a variable holds its last displacement, `h p`. Under a schedule
    a step keeps that, as heavy ball does, and not p, which is so rescaled by
    the old h over the new: what is said of the motion holds at a constant rate.

    Args:
        learning_rate: float > 0 or schedule, `h^2`. Defaults to `0.01`.
        friction: float >= 0, gamma per unit of time h; or `None`, where
            `damping` says it. Under a schedule mu follows h. Defaults to
            `None`.
        damping: float in [0, 1], mu itself. Defaults to `None`: `0.9`, unless
            `friction` is given.
        half_start: bool, whether the first kick is halved. Defaults to `True`.
        name: str. Defaults to `"symplectic_sgd"`.
        **kwargs: weight decay, clipping and the rest of
            `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if a number is out of its range, or both `friction` and
            `damping` are given.

    Example:
    >>> optimizer = SymplecticSGD(0.1, damping=0.9)
    >>> x = keras.Variable([1.0])
    >>> optimizer.apply([keras.ops.ones(1)], [x])
    >>> round(float(keras.ops.convert_to_numpy(x)[0]), 4)
    0.95

    Reference:
        - [Franca et al., 2019](https://arxiv.org/abs/1903.04100)
    """

    def __init__(
        self,
        learning_rate=0.01,
        friction=None,
        damping=None,
        half_start=True,
        name="symplectic_sgd",
        **kwargs,
    ):
        if friction is not None and damping is not None:
            raise ValueError(
                "Of `friction` and `damping` only one can be given: damping = "
                "exp(-friction * sqrt(learning_rate)). Received: "
                f"friction={friction}, damping={damping}"
            )
        if friction is None:
            damping = 0.9 if damping is None else damping
            check_real(
                "damping", damping, "in [0, 1], or None", lambda d: 0 <= d <= 1
            )
            damping = float(damping)
        else:
            check_real(
                "friction", friction, "from 0 on, or None", lambda g: g >= 0
            )
            friction = float(friction)
        super().__init__(learning_rate, half_start, name, kwargs)
        self.friction = friction
        self.damping = damping

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.displacements = self._slots(variables, "displacement")

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        moved = self.displacements[self._get_variable_index(variable)]
        if self.friction is None:
            damping = ops.cast(self.damping, variable.dtype)
        else:
            damping = ops.exp(-self.friction * ops.sqrt(rate))
        kick = ops.multiply(self._kick(gradient, variable), rate)
        self.assign(moved, ops.subtract(ops.multiply(moved, damping), kick))
        self.assign_add(variable, moved)

    def get_config(self):
        return {
            **super().get_config(),
            "friction": self.friction,
            "damping": self.damping,
            "half_start": self.half_start,
        }


@keras.saving.register_keras_serializable(package="orrery")
class SymplecticAdam(_Symplectic):
    """Motion with friction and a learned mass; Adam under another name.

    `dx/dt = M^-1 p`, `dp/dt = -grad f(x) - gamma p`, in the steps of
    `SymplecticSGD`,

        p <- mu p - h grad f(x),    x <- x + h M^-1 p,

    with the mass `M = diag(sqrt(v) + epsilon)`, v the running mean of the
    squared gradients, and `h^2 = learning_rate (1 - mu)`; both are corrected
    for their start at zero. So a step is at most about the learning rate.

    **With `mass_every=1` and without a half start this is
    `keras.optimizers.Adam(learning_rate, beta_1=mu, beta_2=beta_2)`.** It is no
    new optimizer. A mass that changes at every step belongs to no Hamiltonian;
    with `mass_every=n` it is held for n steps, and the flow in between is
    conformally symplectic: `J^T Omega J = mu Omega`.

    The slots of a variable hold `-p (1 - mu) / h`, which is the running mean of
    the gradients, and v.

    Args:
        learning_rate: float > 0 or schedule. Defaults to `1e-3`.
        damping: float in [0, 1), mu. 1 is not allowed: h would be 0. Defaults
            to `0.9`.
        beta_2: float in [0, 1), share of v that an update of the mass keeps.
            Defaults to `0.999`.
        epsilon: float > 0, added where Keras's Adam adds it. Defaults to
            `1e-7`.
        mass_every: int >= 1, steps from one update of the mass to the next;
            only the gradients of those steps enter v. Defaults to `1`.
        half_start: bool, whether the first kick is halved. Defaults to
            `False`.
        name: str. Defaults to `"symplectic_adam"`.
        **kwargs: weight decay, clipping and the rest of
            `keras.optimizers.Optimizer`.

    Raises:
        ValueError: if a number is out of its range.

    Example:
    >>> optimizer = SymplecticAdam(0.1)
    >>> x = keras.Variable([1.0])
    >>> optimizer.apply([keras.ops.full((1,), 5.0)], [x])
    >>> round(float(keras.ops.convert_to_numpy(x)[0]), 4)
    0.9

    Reference:
        - [Kingma and Ba, 2014](https://arxiv.org/abs/1412.6980)
        - [Franca et al., 2019](https://arxiv.org/abs/1903.04100)
    """

    def __init__(
        self,
        learning_rate=1e-3,
        damping=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        mass_every=1,
        half_start=False,
        name="symplectic_adam",
        **kwargs,
    ):
        for argument, value in (("damping", damping), ("beta_2", beta_2)):
            check_real(argument, value, "in [0, 1)", lambda x: 0 <= x < 1)
        check_real("epsilon", epsilon, "above 0", lambda x: x > 0)
        check_integer("mass_every", mass_every, 1)
        super().__init__(learning_rate, half_start, name, kwargs)
        self.damping = float(damping)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)
        self.mass_every = int(mass_every)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.momenta = self._slots(variables, "momentum")
        self.squares = self._slots(variables, "square")

    def update_step(self, gradient, variable, learning_rate):
        dtype = variable.dtype
        index = self._get_variable_index(variable)
        momentum, square = self.momenta[index], self.squares[index]
        gradient = ops.cast(gradient, dtype)
        due = self.iterations % self.mass_every == 0
        fresh = ops.cast(ops.where(due, 1 - self.beta_2, 0.0), dtype)
        change = ops.subtract(self._kick(gradient, variable), momentum)
        self.assign_add(momentum, ops.multiply(change, 1 - self.damping))
        change = ops.subtract(ops.square(gradient), square)
        self.assign_add(square, ops.multiply(change, fresh))

        def correction(share, count):
            return 1 - ops.power(ops.cast(share, dtype), ops.cast(count, dtype))

        updates = self.iterations // self.mass_every + 1
        rate = ops.cast(learning_rate, dtype)
        rate = rate * ops.sqrt(correction(self.beta_2, updates))
        rate = rate / correction(self.damping, self.iterations + 1)
        self.assign_sub(
            variable,
            ops.divide(
                ops.multiply(momentum, rate),
                ops.add(ops.sqrt(square), self.epsilon),
            ),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "damping": self.damping,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "mass_every": self.mass_every,
            "half_start": self.half_start,
        }
