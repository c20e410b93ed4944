"""AdamW as PyTorch runs it where some weights join the training late."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="orrery")
class LateAdamW(keras.optimizers.Optimizer):
    """AdamW that counts the steps of each weight apart.

    A weight whose gradient is zero everywhere is passed over: neither decayed
    nor moved, its moments kept and its step not counted, which is what PyTorch
    does with a weight that the loss does not reach. Keras decays it and counts
    one step for all; a weight whose first gradient comes in step 1,993 would
    then move up to six times too far, its moments being young and their bias
    taken for an old one's.

    With the i-th step of a weight, `m` and `v` as in Adam:

        w <- (1 - eta delta) w - eta m_hat / (sqrt(v_hat) + epsilon)

    Args:
        learning_rate: float, eta. Defaults to 1e-3.
        weight_decay: float, delta. Defaults to 0.01.
        beta_1: float, of m. Defaults to 0.9.
        beta_2: float, of v. Defaults to 0.999.
        epsilon: float. Defaults to 1e-8.
        **kwargs: those of `keras.optimizers.Optimizer`.

    Example:
    >>> optimizer = LateAdamW(0.1, weight_decay=0.0)
    >>> weight = keras.Variable([1.0])
    >>> for gradient in (0.0, 0.0, 5.0):
    ...     optimizer.apply([keras.ops.array([gradient])], [weight])
    >>> round(float(weight[0]), 4)
    0.9
    """

    def __init__(
        self,
        learning_rate=1e-3,
        weight_decay=0.01,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        **kwargs,
    ):
        # The base class would decay what has no gradient as well.
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.decay = weight_decay
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.first_moments, self.second_moments = self.add_optimizer_variables(
            variables, ["first_moment", "second_moment"]
        )
        self.steps = [
            self.add_variable(shape=(), dtype="float32", name="steps")
            for _ in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        m, v = self.first_moments[index], self.second_moments[index]
        steps = self.steps[index]
        reached = ops.cast(ops.any(gradient != 0), variable.dtype)
        self.assign_add(steps, reached)
        self.assign_add(m, reached * (1 - self.beta_1) * (gradient - m))
        self.assign_add(
            v, reached * (1 - self.beta_2) * (ops.square(gradient) - v)
        )
        # Where there was no step yet, so that 0 is not divided by 0.
        count = ops.maximum(steps, 1.0)
        m_hat = m / (1 - ops.power(self.beta_1, count))
        v_hat = v / (1 - ops.power(self.beta_2, count))
        change = m_hat / (ops.sqrt(v_hat) + self.epsilon)
        change = change + self.decay * variable
        self.assign_sub(variable, reached * learning_rate * change)

    def get_config(self):
        config = super().get_config()
        config["weight_decay"] = self.decay
        return {
            **config,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }
