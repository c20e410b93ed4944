"""Linear dynamics chosen by the past, applied to what is yet to be set."""

import keras
from keras import ops

from .._checks import check_integer
from .acting_inputs import acting_inputs


@keras.saving.register_keras_serializable(package="orrery")
class SelectiveKoopman(keras.layers.Layer):
    """Forecasts by a linear system whose matrices depend on the history.

    A network lifts the last state, `z_0 = phi(x_O)`; a causal convolution over
    `[phi(x_t), u_t]` of the past makes, for each step k to come, a step size
    Delta_k and matrices B_k and C_k; with one diagonal a for all of them,

        z_k = exp(Delta_k a) z_{k-1} + Delta_k phi1(Delta_k a) B_k u_k,
        y_k = C_k^T z_k,    phi1(x) = (exp(x) - 1) / x.

    The past alone chooses the system, so the forecast is affine in the controls
    to come, and model predictive control stays a quadratic programme.

    Args:
        output_dim: int > 0, X, numbers of a state.
        control_dim: int >= 0, m, numbers u of a step. Defaults to `0`.
        disturbance_dim: int >= 0, p, numbers d of a step, which act as controls
            do. Defaults to `0`; at least one of the two must be above 0.
        latent_dim: int > 0, N. Defaults to `64`.
        hidden_dim: int > 0, of the lift. Defaults to `256`.
        delta_rank: int > 0, numbers from which Delta is made. Defaults to
            `10`.
        conv_width: int > 0, steps the convolution looks back. Defaults to
            `10`.
        spectrum: `"celu"`, `a = -celu(alpha)`, below 1, so that a mode may grow
            as in the paper; or `"stable"`, `a = -exp(alpha)`. Defaults to
            `"celu"`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(batch, O, X)`, the past.
        u: float tensor `(batch, O + H - 1, m)`: row t acts from t to t + 1; or
            `None` if there are no controls.
        d: float tensor `(batch, O + H - 1, p)`, likewise.

    Returns:
        Float tensor `(batch, H, X)`, the H states to come.

    Raises:
        ValueError: if an argument is out of its range, an input does not fit,
            or the past is too short for the horizon: `O - 1 + conv_width - 1 >=
            H`.

    Example:
    >>> layer = SelectiveKoopman(output_dim=3, control_dim=2, conv_width=4)
    >>> x, u = keras.ops.ones((5, 8, 3)), keras.ops.ones((5, 13, 2))
    >>> tuple(layer(x, u).shape)
    (5, 6, 3)

    Reference:
        - Li, Han, Yin: MamKO: Mamba-based Koopman operator for modeling and
          predictive control, ICLR 2025 (OpenReview hNjCVVm0EQ).
    """

    def __init__(
        self,
        output_dim,
        control_dim=0,
        disturbance_dim=0,
        latent_dim=64,
        hidden_dim=256,
        delta_rank=10,
        conv_width=10,
        spectrum="celu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value, least in (
            ("output_dim", output_dim, 1),
            ("control_dim", control_dim, 0),
            ("disturbance_dim", disturbance_dim, 0),
            ("latent_dim", latent_dim, 1),
            ("hidden_dim", hidden_dim, 1),
            ("delta_rank", delta_rank, 1),
            ("conv_width", conv_width, 1),
        ):
            check_integer(name, value, least)
        if control_dim + disturbance_dim == 0:
            raise ValueError(
                "`control_dim` or `disturbance_dim` must be above 0: steps to "
                "come are told by what acts on them."
            )
        if spectrum not in ("celu", "stable"):
            raise ValueError(
                "`spectrum` must be 'celu' or 'stable'. Received: "
                f"spectrum={spectrum!r}"
            )
        self.output_dim = output_dim
        self.control_dim = control_dim
        self.disturbance_dim = disturbance_dim
        self.latent_dim = latent_dim
        self.hidden_dim = hidden_dim
        self.delta_rank = delta_rank
        self.conv_width = conv_width
        self.spectrum = spectrum

        def dense(units, name, **kwargs):
            return keras.layers.Dense(
                units,
                kernel_initializer="glorot_normal",
                bias_initializer=keras.initializers.RandomNormal(stddev=0.1),
                dtype=self.dtype_policy,
                name=name,
                **kwargs,
            )

        self.hidden = dense(hidden_dim, "hidden", activation="relu")
        self.lift = dense(latent_dim, "lift")
        acting = control_dim + disturbance_dim
        self.chooser = dense(
            delta_rank + latent_dim * (acting + output_dim), "chooser"
        )
        self.step_size = dense(latent_dim, "step_size", activation="softplus")

    def build(self, x_shape, u_shape=None, d_shape=None):
        acting = self.control_dim + self.disturbance_dim
        seen = self.latent_dim + acting
        self.hidden.build((*x_shape[:-1], self.output_dim))
        self.lift.build((*x_shape[:-1], self.hidden_dim))
        self.chooser.build((x_shape[0], None, seen))
        self.step_size.build((x_shape[0], None, self.delta_rank))
        # Of the shape that Keras initializes for a depthwise convolution.
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.conv_width, seen, 1),
            initializer="glorot_uniform",
        )
        self.bias = self.add_weight(
            name="bias", shape=(seen,), initializer="zeros"
        )
        self.alpha = self.add_weight(
            name="alpha",
            shape=(self.latent_dim,),
            initializer=keras.initializers.RandomNormal(stddev=1 / 20),
            autocast=False,
        )

    def call(self, x, u=None, d=None):
        acting, horizon = self._acting(x, u, d)
        z, transition, inputs, read = self._chosen(x, acting, horizon)
        ahead = ops.cast(acting[:, -horizon:], "float32")
        drive, outputs = ops.einsum("bknm,bkm->bkn", inputs, ahead), []
        for k in range(horizon):
            z = transition[:, k] * z + drive[:, k]
            outputs.append(ops.einsum("bn,bnx->bx", z, read[:, k]))
        return ops.cast(ops.stack(outputs, axis=1), self.compute_dtype)

    def operators(self, x, u=None, d=None):
        """The system that the past chooses.

        Returns:
            The first latent state `(batch, N)`, diagonals `(batch, H, N)`,
            inputs `(batch, H, N, m + p)` and outputs `(batch, H, N, X)`.
        """
        return self._chosen(x, *self._acting(x, u, d))

    def compute_output_shape(self, x_shape, u_shape=None, d_shape=None):
        acting = u_shape if u_shape is not None else d_shape
        steps = None
        if acting[1] is not None and x_shape[1] is not None:
            steps = acting[1] - x_shape[1] + 1
        return (x_shape[0], steps, self.output_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "control_dim": self.control_dim,
            "disturbance_dim": self.disturbance_dim,
            "latent_dim": self.latent_dim,
            "hidden_dim": self.hidden_dim,
            "delta_rank": self.delta_rank,
            "conv_width": self.conv_width,
            "spectrum": self.spectrum,
        }

    def _convolve(self, rows, steps):
        """The last steps of a depthwise convolution with padding, a sum.

        As a convolution of so many groups its gradient takes XLA nearly as
        long as all the rest of a step.
        """
        margin = self.conv_width - 1
        padded = ops.pad(rows, ((0, 0), (margin, margin), (0, 0)))
        first = rows.shape[1] + margin - steps
        kernel = ops.cast(self.kernel, rows.dtype)
        total = ops.cast(self.bias, rows.dtype)
        for shift in range(self.conv_width):
            seen = padded[:, first + shift : first + shift + steps]
            total = total + kernel[shift, :, 0] * seen
        return total

    def _chosen(self, x, acting, horizon):
        past = x.shape[1]
        lifted = self.lift(self.hidden(x))
        acting = ops.cast(acting, lifted.dtype)
        seen = ops.silu(
            ops.concatenate([lifted[:, :-1], acting[:, : past - 1]], axis=-1)
        )
        chosen = self.chooser(ops.silu(self._convolve(seen, horizon)))
        width = acting.shape[-1] * self.latent_dim
        delta, inputs, read = ops.split(
            chosen, [self.delta_rank, self.delta_rank + width], axis=-1
        )
        delta = ops.cast(self.step_size(delta), "float32")
        inputs, read = (
            ops.reshape(
                ops.cast(part, "float32"),
                (
                    -1,
                    horizon,
                    self.latent_dim,
                    part.shape[-1] // self.latent_dim,
                ),
            )
            for part in (inputs, read)
        )
        exponent = delta * self._rates()
        inputs = (delta * phi1(exponent))[..., None] * inputs
        first = ops.cast(lifted[:, -1], "float32")
        return first, ops.exp(exponent), inputs, read

    def _rates(self):
        alpha = ops.cast(self.alpha, "float32")
        return -ops.celu(alpha) if self.spectrum == "celu" else -ops.exp(alpha)

    def _acting(self, x, u, d):
        """Controls beside disturbances, and the steps to come."""
        acting = acting_inputs(u, self.control_dim, d, self.disturbance_dim)
        past, rows = x.shape[1], acting.shape[1]
        horizon = rows - past + 1
        if past < 2 or horizon < 1:
            raise ValueError(
                "`x` must have two rows at least, and what acts as many rows "
                f"or more. Received: {past} and {rows} rows"
            )
        if past - 1 + self.conv_width - 1 < horizon:
            raise ValueError(
                f"A past of {past} rows is too short for {horizon} steps: "
                "`conv_width` + rows - 2 must be at least as many. Received: "
                f"conv_width={self.conv_width}"
            )
        return acting, horizon


def phi1(x):
    """`(exp(x) - 1) / x`, 1 at 0, without a division by nearly nothing."""
    small = ops.abs(x) < 1e-3
    safe = ops.where(small, 1.0, x)
    return ops.where(small, 1 + x / 2 + x * x / 6, ops.expm1(safe) / safe)
