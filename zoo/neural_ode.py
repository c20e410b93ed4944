"""The neural ODE: the control that knows nothing of mechanics."""

import keras
from keras import ops

from .runge_kutta_model import RungeKuttaModel
from .widest import widest


@keras.saving.register_keras_serializable(package="orrery")
class NeuralODE(RungeKuttaModel):
    """Learns `dx/dt = f(x)`, `x = (q, p)`, and integrates it by Runge-Kutta.

    f is a network with two hidden layers of tanh. Nothing makes it conserve
    anything.

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
    model = NeuralODE.of_size(1_200, dim=1)
    trajectory = model((np.ones((5, 1)), np.zeros((5, 1))))  # (5, 11, 2)
    ```

    Reference:
        - [Chen et al., 2018](https://arxiv.org/abs/1806.07366)
    """

    def __init__(self, dim, hidden_dim=64, *args, **kwargs):
        super().__init__(dim, hidden_dim, *args, **kwargs)
        normal = keras.initializers.RandomNormal
        dense = {"dtype": self.dtype_policy}
        self.layers_of_field = [
            # The kinks of the first layer where `TwoLayerPotential` has them.
            keras.layers.Dense(
                self.hidden_dim,
                activation="tanh",
                kernel_initializer=normal(stddev=(2 * self.dim) ** -0.5),
                bias_initializer=keras.initializers.RandomUniform(-2.0, 2.0),
                name="hidden_1",
                **dense,
            ),
            keras.layers.Dense(
                self.hidden_dim,
                activation="tanh",
                kernel_initializer="orthogonal",
                name="hidden_2",
                **dense,
            ),
            keras.layers.Dense(
                2 * self.dim,
                kernel_initializer="orthogonal",
                name="output",
                **dense,
            ),
        ]

    @classmethod
    def of_size(cls, parameters, dim, **kwargs):
        """The widest network of at most `parameters` weights.

        Raises:
            ValueError: if not even one hidden unit fits.
        """
        size = lambda h: h * h + (4 * dim + 2) * h + 2 * dim  # noqa: E731
        return cls(dim, widest(size, parameters), **kwargs)

    def build(self, input_shape=None):
        super().build(input_shape)
        width = 2 * self.dim
        for layer in self.layers_of_field:
            layer.build((None, width))
            width = self.hidden_dim

    def derivatives(self, q, p):
        x = ops.concatenate([q, p], axis=-1)
        for layer in self.layers_of_field:
            x = layer(x)
        return x[..., : self.dim], x[..., self.dim :]
