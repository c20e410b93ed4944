"""The control of equilibrium propagation: back-propagation, the same energy."""

import keras

from .._checks import check_integer
from .equilibrium_classifier import EquilibriumClassifier


@keras.saving.register_keras_serializable(package="orrery")
class UnrolledClassifier(EquilibriumClassifier):
    """An `EquilibriumClassifier` trained by back-propagation.

    From the free equilibrium the descent goes on for `unrolled_steps` steps,
    through which the cost is differentiated in the ordinary way. Since the
    states no longer move, these are the first terms of the series of
    `(d2E/ds2)^-1` in the implicit gradient, to which it tends.

    Args:
        unrolled_steps: int >= 1. Defaults to `30`.
        **kwargs: see `EquilibriumClassifier`; `beta` and `nudging` have no
            effect.

    Call arguments:
        x: float tensor `(B, input_dim)`.
        training: bool.

    Returns:
        Scores, float tensor `(B, num_classes)`.

    Raises:
        ValueError: if `unrolled_steps` is not a positive integer; see
            `EquilibriumClassifier`.

    Example:

    ```python
    model = UnrolledClassifier(4, (16,), 3, unrolled_steps=10)
    model.compile("adam", metrics=["accuracy"])
    ```

    Reference:
        - [Ernoult et al., 2019](https://arxiv.org/abs/1905.13633)
    """

    def __init__(
        self, input_dim, hidden_dims, num_classes, unrolled_steps=30, **kwargs
    ):
        super().__init__(input_dim, hidden_dims, num_classes, **kwargs)
        check_integer("unrolled_steps", unrolled_steps, 1)
        self.unrolled_steps = int(unrolled_steps)

    def learned_cost(self, x, target, free):
        states = self.relaxation.descend(x, free.states, self.unrolled_steps)
        return self.relaxation.cost(states[-1], target), [free]

    def get_config(self):
        return {**super().get_config(), "unrolled_steps": self.unrolled_steps}
