"""The Hamiltonian network that a symplectic one is held against."""

import keras
from keras import ops

from .runge_kutta_model import RungeKuttaModel
from .widest import widest


@keras.saving.register_keras_serializable(package="orrery")
class PlainHNN(RungeKuttaModel):
    """Learns any `H(q, p)`, and integrates it by Runge-Kutta.

    `H = a . tanh(W_2 tanh(W_1 x + b_1) + b_2)`, `x = (q, p)`, and
    `dx/dt = J grad H`, `J = [[0, I], [-I, 0]]`, with the gradient as a formula:
    the network of the first Hamiltonian networks. The flow conserves H; the
    classical Runge-Kutta steps of order 4 do not.

    Args:
        dim: int, n >= 1, number of positions.
        hidden_dim: int, width of both hidden layers. Defaults to `64`.
        num_steps: int, S >= 1. Defaults to `10`.
        step_size: float > 0. Defaults to `0.1`.
        num_controls: int, m >= 0. Defaults to `0`.
        units: dict, see `MechanicalModel`. Defaults to `None`, 1 for all.

    Call arguments:
        inputs: as for `HamiltonianNet`.
        training: bool.

    Returns:
        Trajectory `(B, S + 1, 2 n)`, q beside p, the given state first.

    Raises:
        ValueError: see `MechanicalModel`.

    Example:

    ```python
    model = PlainHNN.of_size(1_200, dim=1)
    trajectory = model((np.ones((5, 1)), np.zeros((5, 1))))  # (5, 11, 2)
    ```

    Reference:
        - [Greydanus et al., 2019](https://arxiv.org/abs/1906.01563)
    """

    @classmethod
    def of_size(cls, parameters, dim, **kwargs):
        """The widest network of at most `parameters` weights.

        Raises:
            ValueError: if not even one hidden unit fits.
        """
        size = lambda h: 2 * dim * h + h * h + 3 * h  # noqa: E731
        return cls(dim, widest(size, parameters), **kwargs)

    def build(self, input_shape=None):
        super().build(input_shape)
        h = self.hidden_dim
        normal = keras.initializers.RandomNormal
        # The kinks of the first layer where `TwoLayerPotential` has them.
        spread = keras.initializers.RandomUniform(-2.0, 2.0)
        width = 2 * self.dim
        for name, shape, initializer in (
            ("kernel_1", (width, h), normal(stddev=width**-0.5)),
            ("bias_1", (h,), spread),
            ("kernel_2", (h, h), "orthogonal"),
            ("bias_2", (h,), "zeros"),
            ("output_kernel", (h, 1), "orthogonal"),
        ):
            weight = self.add_weight(
                shape=shape, initializer=initializer, name=name
            )
            setattr(self, name, weight)

    def _hidden(self, q, p):
        x = ops.concatenate([q, p], axis=-1)
        first = ops.tanh(ops.matmul(x, self.kernel_1) + self.bias_1)
        second = ops.tanh(ops.matmul(first, self.kernel_2) + self.bias_2)
        return first, second

    def energy(self, q, p):
        """H of states `(..., n)`, a tensor `(...)`, in the data's units."""
        unit = self.units
        self.ensure_built()
        _, second = self._hidden(*self.in_own_units(q, p))
        scale = unit["q"] * unit["p"] / unit["t"]
        return scale * ops.matmul(second, self.output_kernel)[..., 0]

    def derivatives(self, q, p):
        first, second = self._hidden(q, p)
        output = ops.transpose(self.output_kernel)
        back = ops.matmul(
            output * (1.0 - second * second), ops.transpose(self.kernel_2)
        )
        gradient = ops.matmul(
            back * (1.0 - first * first), ops.transpose(self.kernel_1)
        )
        return gradient[..., self.dim :], -gradient[..., : self.dim]
