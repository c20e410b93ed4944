"""What a Koopman variational autoencoder expects of the next latent state."""

import keras
from keras import ops

from .._checks import check_integer
from .edmd import ridge_solution
from .stable_koopman import StableKoopman


@keras.saving.register_keras_serializable(package="orrery")
class KoVAEPrior(keras.layers.Layer):
    """The Gaussian `p(z_t | z_1 ... z_{t-1})` at each row of a latent path.

    With an `operator` it is linear, `N(A z_{t-1} + B u_{t-1} + E d_{t-1},
    diag(exp(w)))` with w learned, and `z_1 ~ N(0, I)`. Without one it is a GRU
    that is fed what it has drawn, from `z_0 = 0`; the operator of such a model
    is fitted to its paths. A call judges a given path (as a sequential evidence
    lower bound does), `sample` makes one.

    Args:
        latent_dim: int > 0, k. Defaults to `64`.
        hidden_dim: int > 0, units of the GRU. Defaults to `256`.
        operator: a `StableKoopman`, or `None`. Defaults to `None`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        z: float tensor `(batch, rows, k)`.
        u: float tensor `(batch, rows - 1, m)`, for an operator with controls.
        d: float tensor `(batch, rows - 1, p)`, likewise.

    Returns:
        Means and log variances, each `(batch, rows, k)`, float32.

    Raises:
        ValueError: if an argument is out of its range, or the operator is of
            another size.

    Example:
    >>> prior = KoVAEPrior(latent_dim=4, hidden_dim=8)
    >>> mean, logvar = prior(keras.ops.ones((2, 5, 4)))
    >>> tuple(prior.sample(keras.random.normal((3, 6, 4))).shape)
    (3, 6, 4)

    Reference:
        - [Naiman et al., 2023](https://arxiv.org/abs/2310.02619)
    """

    def __init__(
        self,
        latent_dim=64,
        hidden_dim=256,
        operator=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_integer("latent_dim", latent_dim, 1)
        check_integer("hidden_dim", hidden_dim, 1)
        if isinstance(operator, dict):
            operator = keras.saving.deserialize_keras_object(operator)
        if operator is not None and (
            not isinstance(operator, StableKoopman)
            or operator.latent_dim != latent_dim
        ):
            raise ValueError(
                f"`operator` must be a StableKoopman of {latent_dim} rows, or "
                f"None. Received: operator={operator!r}"
            )
        self.latent_dim = latent_dim
        self.hidden_dim = hidden_dim
        self.operator = operator
        if operator is None:
            policy = self.dtype_policy
            self.recurrent = keras.layers.GRU(
                hidden_dim, return_sequences=True, dtype=policy
            )
            self.moments = keras.layers.Dense(
                2 * latent_dim, dtype=policy, name="moments"
            )

    def build(self, z_shape, u_shape=None, d_shape=None):
        if self.operator is None:
            self.recurrent.build(z_shape)
            self.moments.build((*z_shape[:-1], self.hidden_dim))
            return
        if not self.operator.built:
            self.operator.build((z_shape[0], self.latent_dim))
        self.noise_logvar = self.add_weight(
            name="noise_logvar",
            shape=(self.latent_dim,),
            initializer=keras.initializers.Constant(-2.0),
            autocast=False,
        )

    def call(self, z, u=None, d=None):
        z = ops.cast(z, "float32")
        if self.operator is None:
            before = ops.pad(z[:, :-1], ((0, 0), (1, 0), (0, 0)))
            return self._moments(self.recurrent(before))
        first = ops.zeros_like(z[:, :1])
        next_mean = ops.cast(self.operator.step(z[:, :-1], u, d), "float32")
        mean = ops.concatenate([first, next_mean], axis=1)
        noise = ops.broadcast_to(
            ops.convert_to_tensor(self.noise_logvar), ops.shape(next_mean)
        )
        return mean, ops.concatenate([first, noise], axis=1)

    def sample(self, noise):
        """Paths of the prior alone, without controls.

        Args:
            noise: float tensor `(batch, rows, k)`, drawn from `N(0, 1)`.

        Returns:
            Float32 tensor `(batch, rows, k)`.

        Raises:
            ValueError: if the operator has controls or disturbances.
        """
        noise = ops.cast(noise, "float32")
        if self.operator is not None:
            rest = self.roll_out(noise[:, 0], noise[:, 1:])
            return ops.concatenate([noise[:, :1], rest], axis=1)
        z = ops.zeros_like(noise[:, 0])
        hidden = ops.zeros((ops.shape(noise)[0], self.hidden_dim))
        path = []
        for step in range(noise.shape[1]):
            hidden, _ = self.recurrent.cell(z, [hidden])
            mean, logvar = self._moments(hidden)
            z = mean + ops.exp(0.5 * logvar) * noise[:, step]
            path.append(z)
        return ops.stack(path, axis=1)

    def roll_out(self, z, noise, u=None, d=None):
        """Paths that begin at z, with the operator's noise at every step.

        Args:
            z: float tensor `(batch, k)`.
            noise: float tensor `(batch, H, k)`, drawn from `N(0, 1)`.
            u: float tensor `(batch, H, m)`, or `None` without controls.
            d: float tensor `(batch, H, p)`, or `None` likewise.

        Returns:
            Float32 tensor `(batch, H, k)`, what comes behind z.

        Raises:
            ValueError: if the prior has no operator.
        """
        if self.operator is None:
            raise ValueError("A prior without an `operator` cannot roll out.")
        scaled = ops.exp(0.5 * self.noise_logvar) * ops.cast(noise, "float32")
        return ops.cast(self.operator(z, u, d, noise=scaled), "float32")

    def _moments(self, hidden):
        moments = ops.cast(self.moments(hidden), "float32")
        mean, logvar = ops.split(moments, 2, axis=-1)
        return mean, ops.clip(logvar, -8.0, 4.0)

    def compute_output_spec(self, z, u=None, d=None):
        return tuple(keras.KerasTensor(z.shape, "float32") for _ in range(2))

    def get_config(self):
        return {
            **super().get_config(),
            "latent_dim": self.latent_dim,
            "hidden_dim": self.hidden_dim,
            "operator": self.operator
            and keras.saving.serialize_keras_object(self.operator),
        }


def path_operator(path, ridge=1e-6):
    """The linear operator that maps each row of paths closest to the next.

    Ridge regression over all series and rows at once, relative to the mean
    squares of the latent numbers. Differentiable.

    Args:
        path: float32 tensor `(batch, rows, k)`, rows >= 2.
        ridge: float > 0. Defaults to `1e-6`.

    Returns:
        Float32 tensor `(k, k)`, A of `z_t = A z_{t-1}`.
    """
    before, after = (
        ops.reshape(part, (-1, path.shape[-1]))
        for part in (path[:, :-1], path[:, 1:])
    )
    gram, cross = (
        ops.matmul(ops.transpose(part), before) for part in (before, after)
    )
    return ridge_solution(gram, cross, ridge)


def nonlinearity(path):
    """What no linear operator tells of paths.

    Args:
        path: float32 tensor `(batch, rows, k)`, rows >= 2.

    Returns:
        Float32 scalar: the mean square error of `path_operator`, over the norm
        of all it tells.
    """
    before, after = path[:, :-1], path[:, 1:]
    predicted = ops.matmul(before, ops.transpose(path_operator(path)))
    norm = ops.sqrt(ops.sum(ops.square(predicted)) + 1e-12)
    return ops.mean(ops.square(predicted - after)) / norm
