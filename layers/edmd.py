"""Streaming ridge EDMD: the least-squares linear map between observables."""

import keras
from keras import ops


def sample(states, sample_tokens=None):
    """At most `sample_tokens` (`None`: all) of `(batch, length, n)` states.

    Returns `(tokens, n)`, by a fixed stride over the flattened batch. The
    stride is odd, to visit all positions of a sequence whose length is a power
    of two; of another length it may leave positions out.
    """
    batch, length, size = ops.shape(states)
    states = ops.reshape(states, (-1, size))
    if sample_tokens is None:
        return states
    stride = (batch * length + sample_tokens - 1) // sample_tokens
    sampled = states[:: stride + 1 - stride % 2]
    return ops.reshape(sampled, (-1, size))


@keras.saving.register_keras_serializable(package="orrery")
class StreamingEDMD(keras.layers.Layer):
    """The linear map `z' = K z` of a stream of pairs, by ridge regression.

    `A <- rho A + sum z z^T` and `C <- rho C + sum z' z^T` are updated batch by
    batch; with `D^2 = diag(A)`, the running mean squares of the features up
    to a factor, `K = C D^-1 (D^-1 A D^-1 + eps I)^-1 D^-1` by Cholesky.

    Scaling by `D` makes the ridge independent of the features' units. The
    scaled matrix has a unit diagonal, and float32 knows it to about
    `m 2^-23` only: the Cholesky factor is taken with that surplus on `eps`,
    and one step of iterated Tikhonov regularisation takes it out again where
    the data determine `K`. So rank-deficient data give a bounded `K`, and the
    factorisation does not fail. No matrix product follows the statistics: it
    would be too coarse in TensorFloat-32.

    With `rho = 1` the partition into batches changes the sums by rounding only.
    Statistics are float32 under any policy and pass no gradient. A batch that
    would make them non-finite leaves them as they are, and is counted in
    `skipped`. They are part of `variables`, hence of a training checkpoint,
    but not of a `.keras` or `.weights.h5` file.

    A layer to own the statistics; used by its methods, never called.

    Args:
        forget: float in (0, 1], the factor `rho` per update. Defaults to
            `0.99`.
        ridge: float > 0, `eps`, relative to the mean square of a feature.
            Defaults to `1e-6`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> edmd = StreamingEDMD(forget=1.0)
    >>> edmd.build((None, 2))
    >>> z = keras.random.normal((100, 2), seed=0)
    >>> edmd.update(z, 3 * z)
    >>> error = keras.ops.convert_to_numpy(edmd.solve()) - 3 * np.eye(2)
    >>> bool(np.abs(error).max() < 1e-3)
    True

    Reference:
        Hemati, Williams, Rowley: Dynamic mode decomposition for large and
        streaming datasets, arXiv:1406.7187.
    """

    def __init__(self, forget=0.99, ridge=1e-6, **kwargs):
        super().__init__(**kwargs)
        if not 0 < forget <= 1:
            raise ValueError(f"`forget` must be in (0, 1]. Received: {forget}")
        if not ridge > 0:
            raise ValueError(f"`ridge` must be > 0. Received: {ridge}")
        self.forget = forget
        self.ridge = ridge

    def build(self, input_shape):
        size = input_shape[-1]

        def statistic(name, shape, dtype="float32"):
            return self.add_weight(
                shape=shape,
                initializer="zeros",
                dtype=dtype,
                trainable=False,
                autocast=False,
                name=name,
            )

        self.gram = statistic("gram", (size, size))
        self.cross = statistic("cross", (size, size))
        self.count = statistic("count", ())
        self.updates = statistic("updates", (), "int32")
        self.skipped = statistic("skipped", (), "int32")

    def update(self, z, z_next, forget=None):
        """Adds the pairs `z`, `z_next`, both `(tokens, m)`."""
        forget = self.forget if forget is None else forget
        z = ops.stop_gradient(ops.cast(z, "float32"))
        z_next = ops.stop_gradient(ops.cast(z_next, "float32"))
        sums = (
            (self.gram, ops.matmul(ops.transpose(z), z)),
            (self.cross, ops.matmul(ops.transpose(z_next), z)),
            (self.count, ops.cast(ops.shape(z)[0], "float32")),
        )
        updated = [forget * statistic + batch for statistic, batch in sums]
        finite = ops.isfinite(sum(ops.sum(value) for value in updated))
        for (statistic, _), value in zip(sums, updated, strict=True):
            before = ops.convert_to_tensor(statistic)
            statistic.assign(ops.where(finite, value, before))
        self.updates.assign_add(1)
        self.skipped.assign_add(ops.where(finite, 0, 1))

    def solve(self):
        """Returns `K`, a float32 tensor `(m, m)`; zero without data."""
        gram, cross = map(ops.convert_to_tensor, (self.gram, self.cross))
        return ridge_solution(gram, cross, self.ridge)

    def reset(self):
        """Forgets all pairs."""
        for statistic in self.variables:
            statistic.assign(ops.zeros(statistic.shape, statistic.dtype))

    def save_own_variables(self, store):
        """Stores nothing: statistics belong to a training run."""

    def load_own_variables(self, store):
        """Loads nothing: statistics belong to a training run."""

    def get_config(self):
        return {
            **super().get_config(),
            "forget": self.forget,
            "ridge": self.ridge,
        }


def ridge_solution(gram, cross, ridge):
    """The matrix K that maps z to z' by a relative ridge regression.

    Every coordinate is scaled to variance one first. Rounding asks for more
    than the ridge to factorise the Gram matrix; one step of refinement takes
    back what that adds. Differentiable.

    Args:
        gram: float32 tensor `(m, m)`, `sum z z^T`.
        cross: float32 tensor `(n, m)`, `sum z' z^T`.
        ridge: float > 0.

    Returns:
        Float32 tensor `(n, m)`; zero without data.
    """
    size, square = gram.shape[0], ops.diagonal(gram)
    scale = ops.where(square > 0, ops.rsqrt(ops.maximum(square, 1e-30)), 0.0)
    surplus = size * 2.0**-23
    factor = ops.cholesky(
        gram * scale * scale[:, None] + (ridge + surplus) * ops.eye(size)
    )
    solution = _cholesky_solve(factor, ops.transpose(cross * scale))
    solution = solution + surplus * _cholesky_solve(factor, solution)
    return ops.transpose(solution) * scale


def _cholesky_solve(factor, right):
    half = ops.solve_triangular(factor, right, lower=True)
    return ops.solve_triangular(ops.transpose(factor), half, lower=False)
