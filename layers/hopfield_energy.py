"""An explicit energy of layered states, with its gradient in closed form."""

import keras
from keras import ops

from .._checks import check_integer

RHO = ("tanh", "hard_sigmoid")


@keras.saving.register_keras_serializable(package="orrery")
class HopfieldEnergy(keras.layers.Layer):
    """The energy of a layered Hopfield network, whose minima are its answers.

    For states `s_1 ... s_K` above an input `s_0 = x`, with `r_k = rho(s_k)`,
    `E = 1/2 sum_k |s_k|^2 - sum_k r_k . (W_k r_{k-1} + b_k)`, so that
    `dE/ds_k = s_k - rho'(s_k) (W_k r_{k-1} + W_{k+1}^T r_{k+1} + b_k)`.
    Each coupling acts in both directions: there is no forward pass, a layer
    feels the one above as well as the one below.

    With the hard sigmoid `rho(s) = min(max(s, 0), 1)` the energy has kinks at 0
    and 1, where a descent would never come to rest. Its states are therefore
    confined to `[0, 1]`: nothing is lost, since beyond rho is constant and E
    grows.

    Weights are float32 under any policy: equilibria a small nudge apart cannot
    be told in half precision.

    Args:
        units: sequence of K >= 1 ints, widths of the states `s_1 ... s_K`.
        rho: `"tanh"` or `"hard_sigmoid"`. Defaults to `"tanh"`.

    Call arguments:
        inputs: tuple `(x, s_1, ..., s_K)`, float tensors `(B, n_k)`.

    Returns:
        Energies, float tensor `(B,)`.

    Raises:
        ValueError: if `units` is empty or holds anything but positive
            integers, `rho` is unknown, or a width is not as declared.

    Example:
    >>> energy = HopfieldEnergy((8, 3))
    >>> x = keras.ops.ones((5, 4))
    >>> states = energy.initial_states(x)
    >>> tuple(energy((x, *states)).shape)
    (5,)
    >>> [tuple(g.shape) for g in energy.state_gradient(states, x)]
    [(5, 8), (5, 3)]

    Reference:
        - [Hopfield, 1984](https://doi.org/10.1073/pnas.81.10.3088)
        - [Scellier and Bengio, 2017](https://arxiv.org/abs/1602.05179)
    """

    def __init__(self, units, rho="tanh", **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.units = check_units(units, "units")
        if rho not in RHO:
            raise ValueError(
                f"`rho` must be one of {RHO}. Received: rho={rho!r}"
            )
        self.rho = rho

    def build(self, input_shape):
        widths = [shape[-1] for shape in input_shape]
        if tuple(widths[1:]) != self.units:
            raise ValueError(
                f"`inputs` must be x and {len(self.units)} states of the "
                f"widths {self.units}. Received: {tuple(widths[1:])}"
            )
        self.kernels, self.biases = [], []
        for k, (below, width) in enumerate(
            zip(widths[:-1], self.units, strict=True), start=1
        ):
            # A coupling of states has a norm of one half at first: above 1
            # several minima compete, and a descent may take long.
            stddev = below**-0.5
            if k > 1:
                stddev = 0.5 / (below**0.5 + width**0.5)
            # The descent reads weights outside of this layer's own call, where
            # they would be cast to another layer's dtype.
            self.kernels.append(
                self.add_weight(
                    shape=(below, width),
                    initializer=keras.initializers.RandomNormal(stddev=stddev),
                    name=f"kernel_{k}",
                    autocast=False,
                )
            )
            self.biases.append(
                self.add_weight(
                    shape=(width,),
                    initializer="zeros",
                    name=f"bias_{k}",
                    autocast=False,
                )
            )

    def call(self, inputs):
        x, *states = inputs
        return self.energy(states, x)

    def energy(self, states, x):
        """`E`, float tensor `(B,)`, of K states and an input."""
        total, below = 0.0, self.activate(x)
        for state, kernel, bias in zip(
            states, self.kernels, self.biases, strict=True
        ):
            active = self.activate(state)
            drive = ops.matmul(below, kernel) + bias
            total += ops.sum(0.5 * state * state - active * drive, axis=-1)
            below = active
        return total

    def state_gradient(self, states, x):
        """`dE/ds_k`, K float tensors `(B, n_k)`."""
        return self.slope(x)(states)

    def slope(self, x, constant=False):
        """The state gradient at one input, as a function of the states.

        Args:
            x: float tensor `(B, n_0)`.
            constant: bool, whether weights and input are constants to
                differentiation, as in a loop that has no reverse gradient.
                Defaults to `False`.

        Returns:
            Callable of a list of K states; returns the list of K gradients.
        """
        fix = ops.stop_gradient if constant else ops.convert_to_tensor
        kernels = [fix(kernel) for kernel in self.kernels]
        first, *biases = [fix(bias) for bias in self.biases]
        # What the input drives is the same at every step.
        constants = [ops.matmul(fix(self.activate(x)), kernels[0]) + first]

        def gradient(states):
            active = [self.activate(state) for state in states]
            drives = constants + [
                ops.matmul(below, kernel) + bias
                for below, kernel, bias in zip(
                    active, kernels[1:], biases, strict=False
                )
            ]
            for k, kernel in enumerate(kernels[1:]):
                above = ops.matmul(active[k + 1], ops.transpose(kernel))
                drives[k] = drives[k] + above
            return [
                state - self._steepness(state, value) * drive
                for state, value, drive in zip(
                    states, active, drives, strict=True
                )
            ]

        return gradient

    def activate(self, state):
        """`rho`, element by element."""
        if self.rho == "tanh":
            return ops.tanh(state)
        return ops.clip(state, 0.0, 1.0)

    def _steepness(self, state, active):
        """`rho'`; of the hard sigmoid within the states' range."""
        if self.rho == "tanh":
            return 1.0 - active * active
        return ops.ones_like(state)

    def confine(self, states):
        """The states, or the nearest that are allowed."""
        if self.rho == "tanh":
            return states
        return [ops.clip(state, 0.0, 1.0) for state in states]

    def initial_states(self, x):
        """Zeros, K float tensors `(B, n_k)`."""
        zero = 0.0 * ops.cast(x[:, :1], self.compute_dtype)
        return [ops.tile(zero, (1, width)) for width in self.units]

    def compute_output_shape(self, input_shape):
        return input_shape[0][:1]

    def get_config(self):
        return {
            **super().get_config(),
            "units": list(self.units),
            "rho": self.rho,
        }


def check_units(units, name):
    """Widths as a tuple of positive integers.

    Raises:
        ValueError: if they are not.
    """
    allowed = "a sequence of positive integers, at least one"
    if not isinstance(units, (list, tuple)) or not units:
        raise ValueError(
            f"`{name}` must be {allowed}. Received: {name}={units!r}"
        )
    for index, width in enumerate(units):
        check_integer(f"{name}[{index}]", width, 1)
    return tuple(map(int, units))
