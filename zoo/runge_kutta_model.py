"""What the controls that Runge-Kutta integrates share."""

import keras

from .._checks import check_integer
from ..layers.runge_kutta import runge_kutta
from .compensated import plain
from .mechanical_model import MechanicalModel


@keras.saving.register_keras_serializable(package="orrery")
class RungeKuttaModel(MechanicalModel):
    """A `MechanicalModel` of one hidden width, whose steps are Runge-Kutta's.

    A subclass gives `derivatives(q, p)`, `dq/dt` and `dp/dt`.

    Args:
        dim: int, n >= 1, number of positions.
        hidden_dim: int, width of both hidden layers. Defaults to `64`.
        *args: further ones of `MechanicalModel`.
        **kwargs: further ones of `MechanicalModel`.

    Raises:
        ValueError: if `hidden_dim` is not a positive integer; see
            `MechanicalModel`.

    Example:

    ```python
    from orrery.zoo.runge_kutta_model import RungeKuttaModel


    class Spring(RungeKuttaModel):
        def derivatives(self, q, p):
            return p, -q


    trajectory = Spring(1)((np.ones((5, 1)), np.zeros((5, 1))))  # (5, 11, 2)
    ```

    Reference:
        - [Hairer, Norsett, Wanner, 1993](https://doi.org/10.1007/978-3-540-78862-1)
    """

    def __init__(self, dim, hidden_dim=64, *args, **kwargs):
        super().__init__(dim, *args, **kwargs)
        check_integer("hidden_dim", hidden_dim, 1)
        self.hidden_dim = int(hidden_dim)

    def stepper(self):
        step_size = self.step_size / self.units["t"]

        def step(q, p, push, num_steps):
            def field(q, p):
                dq, dp = self.derivatives(plain(q), plain(p))
                return dq, dp if push is None else dp + push

            return runge_kutta(field, (q, p), step_size, num_steps)

        return step

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim}
