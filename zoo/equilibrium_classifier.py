"""A classifier that answers by coming to rest, and learns by two rests."""

import keras
import numpy as np
from keras import ops

from .._checks import check_integer
from ..layers.equilibrium_propagation import EquilibriumPropagation
from ..layers.hopfield_energy import HopfieldEnergy, check_units


@keras.saving.register_keras_serializable(package="orrery")
class EquilibriumClassifier(keras.Model):
    """Classifies by an energy's minimum; learns by equilibrium propagation.

    The scores of an input are the output states `s_K` of the free equilibrium
    of a `HopfieldEnergy`; the largest is the answer. Trained by `fit` after
    `compile(optimizer, metrics=[...])`, without a loss: the cost
    `C = 1/2 |s_K - y|^2`, y the label's unit vector, belongs to the gradient,

        g = (dE/dtheta(s^{+beta}) - dE/dtheta(s^{-beta})) / (2 beta),

    see `EquilibriumPropagation`. The `loss` of the history is C at the free
    equilibrium, its gradient is g. Beside it stand `relaxation_steps`, the
    steps of the slowest descent of a batch, and `residual`, the largest with
    which one ended; above `tolerance`, raise `max_steps`. In training these
    cover all three descents, in evaluation the free one.

    Everything is computed in float32 under any policy: equilibria a small
    nudge apart cannot be told in half precision.

    Args:
        input_dim: int, width of the input.
        hidden_dims: sequence of ints, widths of the hidden states; at least
            one.
        num_classes: int >= 2.
        beta: float in (0, 1), strength of the nudge. Defaults to `0.1`.
        nudging: `"symmetric"` or `"one_sided"`. Defaults to `"symmetric"`.
        rho: `"tanh"` or `"hard_sigmoid"`. Defaults to `"tanh"`.
        step_size: float in (0, 2), of the descent. Defaults to `0.5`.
        max_steps: int >= 1, of each descent. Defaults to `500`.
        tolerance: float > 0, of the residual. Defaults to `1e-6`.

    Call arguments:
        x: float tensor `(B, input_dim)`.
        training: bool.

    Returns:
        Scores, float tensor `(B, num_classes)`. No gradient flows through them.

    Raises:
        ValueError: if an argument is out of its range, the input has another
            width, or `compile` is given a loss.

    Example:

    ```python
    model = EquilibriumClassifier(4, (16,), 3)
    model.compile("adam", metrics=["accuracy"])
    x, y = np.random.rand(32, 4), np.random.randint(0, 3, 32)
    history = model.fit(x, y, verbose=0).history
    assert history["residual"][0] <= 1e-6
    ```

    Reference:
        - [Scellier and Bengio, 2017](https://arxiv.org/abs/1602.05179)
        - [Laborieux et al., 2020](https://arxiv.org/abs/2006.03824)
    """

    def __init__(
        self,
        input_dim,
        hidden_dims,
        num_classes,
        beta=0.1,
        nudging="symmetric",
        rho="tanh",
        step_size=0.5,
        max_steps=500,
        tolerance=1e-6,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        check_integer("input_dim", input_dim, 1)
        check_integer("num_classes", num_classes, 2)
        self.input_dim = int(input_dim)
        self.hidden_dims = check_units(hidden_dims, "hidden_dims")
        self.num_classes = int(num_classes)

        # === Layers ===
        self.relaxation = EquilibriumPropagation(
            HopfieldEnergy((*self.hidden_dims, self.num_classes), rho),
            beta=beta,
            nudging=nudging,
            step_size=step_size,
            max_steps=max_steps,
            tolerance=tolerance,
        )
        self.steps_taken = keras.metrics.Mean(name="relaxation_steps")
        self.residual_left = _Largest(name="residual")

    def build(self, input_shape=None):
        self.relaxation.build((None, self.input_dim))

    def call(self, x, training=False):
        self._check_width(x)
        return self.relaxation(x)

    def compile(self, optimizer="adam", loss=None, **kwargs):
        """As `keras.Model.compile`, without a loss."""
        if loss is not None:
            raise ValueError(
                "`loss` must be None: the cost of an equilibrium classifier, "
                f"1/2 |s_K - y|^2, is its own. Received: loss={loss!r}"
            )
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config):
        """Keras leaves a model with a `compile` of its own uncompiled."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.fit`; labels given as an array are checked."""
        self._check_values(y)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.evaluate`; labels given as an array are checked."""
        self._check_values(y)
        return super().evaluate(x, y, *args, **kwargs)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The mean cost of a batch, with the gradient that trains the model."""
        x = ops.cast(x, self.compute_dtype)
        self._check_labels(y)
        labels = ops.cast(ops.reshape(y, (-1,)), "int32")
        target = ops.one_hot(labels, self.num_classes, dtype=self.compute_dtype)
        relaxation = self.relaxation
        free = relaxation.relax(x)
        cost, descents = relaxation.cost(free.states[-1], target), [free]
        if training:
            learned, descents = self.learned_cost(x, target, free)
            # The value of the first, the gradient of the second.
            cost = cost + learned - ops.stop_gradient(learned)
        for descent in descents:
            self.residual_left.update_state(descent.residual)
        self.steps_taken.update_state(_maximum([d.steps for d in descents]))
        if sample_weight is not None:
            cost = cost * ops.cast(
                ops.reshape(sample_weight, (-1,)), cost.dtype
            )
        return ops.mean(cost)

    def learned_cost(self, x, target, free):
        """What is differentiated to learn.

        Args:
            x: float tensor `(B, input_dim)`.
            target: float tensor `(B, num_classes)`.
            free: `Relaxation` without a nudge.

        Returns:
            Float tensor `(B,)`, and the list of all `Relaxation`s made.
        """
        pair = self.relaxation.nudge(x, target, free)
        return self.relaxation.surrogate(x, *pair), [free, *pair]

    @property
    def metrics(self):
        return [*super().metrics, self.steps_taken, self.residual_left]

    def _check_width(self, x):
        if len(x.shape) != 2 or x.shape[-1] != self.input_dim:
            raise ValueError(
                f"`x` must have the shape (batch, {self.input_dim}). "
                f"Received: {tuple(x.shape)}"
            )

    def _check_labels(self, y):
        shape = None if y is None else tuple(y.shape)
        if shape is None or len(shape) > 2 or shape[1:] not in ((), (1,)):
            raise ValueError(
                "`y` must hold one label per example, integers from 0 to "
                f"{self.num_classes - 1}, (batch,). Received: "
                + ("None" if shape is None else f"shape {shape}")
            )

    def _check_values(self, y):
        if not isinstance(y, np.ndarray):
            return  # A data set's, or a tensor's, are not known yet.
        wrong = (y != np.floor(y)) | (y < 0) | (y >= self.num_classes)
        if wrong.any():
            raise ValueError(
                "`y` must hold labels from 0 to "
                f"{self.num_classes - 1}. Received: {y[wrong][0]}"
            )

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_classes)

    # === Config ===
    def get_config(self):
        relaxation = self.relaxation
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "hidden_dims": list(self.hidden_dims),
            "num_classes": self.num_classes,
            "beta": relaxation.beta,
            "nudging": relaxation.nudging,
            "rho": relaxation.energy.rho,
            "step_size": relaxation.step_size,
            "max_steps": relaxation.max_steps,
            "tolerance": relaxation.tolerance,
        }

    def get_build_config(self):
        return {"input_dim": self.input_dim}  # An empty one is not restored.

    def build_from_config(self, config):
        self.build()


class _Largest(keras.metrics.Metric):
    """The largest value seen since the last reset."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.largest = self.add_weight(
            shape=(), initializer="zeros", name="largest"
        )

    def update_state(self, value):
        self.largest.assign(ops.maximum(self.largest, value))

    def result(self):
        return ops.convert_to_tensor(self.largest)


def _maximum(counts):
    """Of int32 scalars, as a float."""
    return ops.max(ops.cast(ops.stack(counts), "float32"))
