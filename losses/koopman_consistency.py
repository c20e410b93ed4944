"""The consistency of a Koopman operator with the states it should predict."""

import keras
from keras import ops


def relative_error(target, prediction):
    """`sum |prediction - sg(target)|^2 / sum |sg(target)|^2` over all axes."""
    target = ops.stop_gradient(ops.cast(target, "float32"))
    error = ops.sum(ops.square(ops.cast(prediction, "float32") - target))
    return error / ops.maximum(ops.sum(ops.square(target)), 1e-12)


def skill(x, x_next, x_predicted):
    """`1 - sum |x_predicted - x_next|^2 / sum |x_next - x|^2`, no gradient.

    1 is a perfect prediction, 0 the identity map `x_next = x`.
    """
    x, x_next, x_predicted = (
        ops.stop_gradient(ops.cast(tensor, "float32"))
        for tensor in (x, x_next, x_predicted)
    )
    increment = ops.sum(ops.square(x_next - x))
    error = ops.sum(ops.square(x_predicted - x_next))
    return 1.0 - error / ops.maximum(increment, 1e-12)


@keras.saving.register_keras_serializable(package="orrery")
class KoopmanConsistency:
    """Scale-free error of the linear dynamics of a lifted state.

    `L_K = L_lin + L_state` with
    `L_lin = |K phi(x) - sg phi(x')|^2 / |sg phi(x')|^2` and
    `L_state = |psi K phi(x) - sg x'|^2 / |sg x'|^2`, where `sg` stops the
    gradient and the squares are summed over the tokens given.

    Args:
        detach: `"target"` stops the gradient at `x'` only, so that the loss
            also shapes the model that computes `x`; `"both"` stops it at `x`
            too, so that the operator is a pure probe. Defaults to
            `"target"`.

    Call arguments:
        z_next: float tensor `(..., m)`, the lifted next state.
        z_predicted: float tensor `(..., m)`, its prediction.
        x_next: float tensor `(..., d)`, the next state.
        x_predicted: float tensor `(..., d)`, its prediction.

    Returns:
        Scalar float32 tensor `L_K`.

    Raises:
        ValueError: If `detach` is unknown.

    Example:
    >>> loss = KoopmanConsistency()
    >>> x = keras.ops.ones((4, 3))
    >>> float(loss(x, x, x, 0 * x))
    1.0
    """

    def __init__(self, detach="target"):
        if detach not in ("target", "both"):
            raise ValueError(
                "`detach` must be 'target' or 'both'. "
                f"Received: detach={detach!r}"
            )
        self.detach = detach

    def source(self, x):
        """`x` as the operator should see it: detached for a pure probe."""
        return ops.stop_gradient(x) if self.detach == "both" else x

    def __call__(self, z_next, z_predicted, x_next, x_predicted):
        return relative_error(z_next, z_predicted) + relative_error(
            x_next, x_predicted
        )

    def get_config(self):
        return {"detach": self.detach}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
