"""Linear dynamics of a latent state under controls and disturbances."""

import keras
import numpy as np
from keras import ops

from .._checks import check_integer, check_real
from .acting_inputs import acting_inputs
from .doubling_scan import complex_product
from .edmd import StreamingEDMD
from .linear_recurrence import linear_response, power
from .spectral_radius import bound_spectral_radius

MODES = ("stable", "bounded", "free", "lstsq")
# Below a modulus of 1 even where softplus rounds to 0.
SLACK = 1e-6


@keras.saving.register_keras_serializable(package="orrery")
class StableKoopman(keras.layers.Layer):
    """Rolls a latent state out by `z' = A z + B u + E d`, or bilinearly.

    `"stable"`: A has 2x2 blocks, rotations by theta scaled by `r =
    max_modulus exp(-softplus(nu) - 1e-6)`, so that no eigenvalue leaves the
    disc, whatever is learned; and A^n is known in closed form, so that the
    roll-out is a scan over log2 H steps. `"bounded"`: A is any matrix, near
    0.99 I at first, divided by a bound of its spectral radius where that is
    above `max_modulus`; unlike blocks it may be far from normal, as chains of
    delays are. `"free"`: any matrix; a `penalty` may keep it in the disc.
    `"lstsq"`: A, B, E are solved from the pairs that `observe` was given, by a
    ridge regression of streaming statistics (`StreamingEDMD`); no gradient
    passes to them.

    With a `bilinear_rank` r, what acts from outside, `w = [u, d]`, also changes
    the dynamics, as it does in any process that is affine in its inputs:
    `z' = A z + B u + E d + P ((F w) o (G z))` with F `(r, m + p)`, G and P^T
    `(r, k)`; A are the dynamics where w is 0, and what is said of its
    eigenvalues holds there.

    Args:
        latent_dim: int > 0, k; even if `"stable"`.
        control_dim: int >= 0, m, numbers u of a step. Defaults to `0`.
        disturbance_dim: int >= 0, p, numbers d of a step. Defaults to `0`.
        mode: `"stable"`, `"bounded"`, `"free"` or `"lstsq"`. Defaults to
            `"stable"`.
        max_modulus: float in (0, 1], of stable or bounded eigenvalues. Defaults
            to `1.0`.
        penalty: a `SpectralPenalty` of a free A, added to the loss in training.
            Defaults to `None`.
        ridge: float > 0, of the least squares, relative. Defaults to `1e-4`.
        bilinear_rank: int >= 0, r, of `"bounded"` and `"free"`. Defaults to
            `0`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        z: float tensor `(batch, k)`, the state at the beginning.
        u: float tensor `(batch, H, m)`, or `None` if there are no controls.
        d: float tensor `(batch, H, p)`, or `None` if nothing disturbs.
        noise: float tensor `(batch, H, k)`, added to each step, or `None`.
        steps: int, H, where there is none of these. Defaults to `None`.

    Returns:
        Float tensor `(batch, H, k)`, the states after 1 to H steps.

    Raises:
        ValueError: if an argument is out of its range or without effect, or an
            input is missing.

    Example:
    >>> dynamics = StableKoopman(latent_dim=4, control_dim=1)
    >>> z, u = keras.ops.ones((2, 4)), keras.ops.zeros((2, 10, 1))
    >>> tuple(dynamics(z, u).shape[1:])
    (10, 4)
    >>> bool(np.abs(dynamics.eigenvalues()).max() < 1)
    True

    Reference:
        - [Orvieto et al., 2023](https://arxiv.org/abs/2303.06349), the blocks.
        - [Han et al., 2024](https://arxiv.org/abs/2405.12478), controls.
        - [Bruder et al., 2020](https://arxiv.org/abs/2010.09961), bilinear
          ones.
    """

    def __init__(
        self,
        latent_dim,
        control_dim=0,
        disturbance_dim=0,
        mode="stable",
        max_modulus=1.0,
        penalty=None,
        ridge=1e-4,
        bilinear_rank=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_integer("latent_dim", latent_dim, 1)
        check_integer("control_dim", control_dim, 0)
        check_integer("disturbance_dim", disturbance_dim, 0)
        if mode not in MODES:
            raise ValueError(
                f"`mode` must be one of {MODES}. Received: mode={mode!r}"
            )
        check_real(
            "max_modulus", max_modulus, "in (0, 1]", lambda r: 0 < r <= 1
        )
        check_real("ridge", ridge, "above 0", lambda r: r > 0)
        check_integer("bilinear_rank", bilinear_rank, 0)
        if bilinear_rank and (
            mode not in ("bounded", "free") or not control_dim + disturbance_dim
        ):
            raise ValueError(
                "`bilinear_rank` needs mode='bounded' or 'free', and something "
                f"that acts. Received: bilinear_rank={bilinear_rank}, "
                f"mode={mode!r}, {control_dim} controls and {disturbance_dim} "
                "disturbances"
            )
        if mode == "stable" and latent_dim % 2:
            raise ValueError(
                "`latent_dim` must be even with mode='stable', whose blocks "
                f"have two rows. Received: latent_dim={latent_dim}"
            )
        if mode not in ("stable", "bounded") and max_modulus != 1:
            raise ValueError(
                f"`max_modulus` has no effect with mode={mode!r}. Received: "
                f"max_modulus={max_modulus!r}"
            )
        if mode != "free" and penalty is not None:
            raise ValueError(
                f"`penalty` has no effect with mode={mode!r}. Received: "
                f"penalty={penalty!r}"
            )
        self.latent_dim = latent_dim
        self.control_dim = control_dim
        self.disturbance_dim = disturbance_dim
        self.mode = mode
        self.max_modulus = max_modulus
        self.penalty = (
            keras.saving.deserialize_keras_object(penalty)
            if (isinstance(penalty, dict))
            else penalty
        )
        self.ridge = ridge
        self.bilinear_rank = bilinear_rank
        if mode == "lstsq":
            self.edmd = StreamingEDMD(ridge=ridge, dtype="float32", name="edmd")

    @property
    def input_dim(self):
        """Numbers that act on a step from outside, m + p."""
        return self.control_dim + self.disturbance_dim

    def build(self, z_shape, u_shape=None, d_shape=None):
        k = self.latent_dim
        if z_shape[-1] != k:
            raise ValueError(
                f"`z` must have `latent_dim` = {k} entries. Received: shape "
                f"{tuple(z_shape)}"
            )
        random = keras.initializers.RandomUniform
        trainable = self.mode != "lstsq"
        if self.mode == "stable":
            modulus = random(0.5, 0.999)
            # The inverse of softplus at -ln r.
            self.nu = self.add_weight(
                name="nu",
                shape=(k // 2,),
                initializer=lambda *a, **b: ops.log(
                    ops.expm1(-ops.log(modulus(*a, **b)))
                ),
                autocast=False,
            )
            self.theta = self.add_weight(
                name="theta",
                shape=(k // 2,),
                initializer=random(0.0, np.pi / 10),
                autocast=False,
            )
        else:
            self.kernel = self.add_weight(
                name="kernel",
                shape=(k, k),
                initializer=lambda shape, dtype: (
                    0.99 * ops.eye(k, dtype=dtype)
                    + keras.initializers.RandomNormal(stddev=0.01 / k**0.5)(
                        shape, dtype
                    )
                ),
                trainable=trainable,
                autocast=False,
            )
        if self.input_dim:
            self.input_kernel = self.add_weight(
                name="input_kernel",
                shape=(self.input_dim, k),
                initializer="glorot_normal",
                trainable=trainable,
                autocast=False,
            )
        if self.bilinear_rank:
            # P is zero at first: the dynamics begin as linear ones.
            rank = self.bilinear_rank
            self.gate_kernel, self.read_kernel, self.write_kernel = (
                self.add_weight(
                    name=name,
                    shape=shape,
                    initializer=initializer,
                    autocast=False,
                )
                for name, shape, initializer in (
                    ("gate_kernel", (self.input_dim, rank), "glorot_normal"),
                    ("read_kernel", (k, rank), "glorot_normal"),
                    ("write_kernel", (rank, k), "zeros"),
                )
            )
        if self.mode == "lstsq":
            self.edmd.build((None, k + self.input_dim))

    def call(self, z, u=None, d=None, noise=None, steps=None, training=False):
        if training and self.penalty is not None:
            self.add_loss(self.penalty(self.kernel))
        inputs = acting_inputs(u, self.control_dim, d, self.disturbance_dim)
        given = noise if inputs is None else inputs
        if given is not None:
            steps = given.shape[1]
        elif steps is None:
            raise ValueError(
                "`steps` must be given where neither controls nor disturbances "
                "nor noise tell it."
            )
        state = ops.cast(z, "float32")
        drive = None if noise is None else ops.cast(noise, "float32")
        gates = None
        if inputs is not None:
            inputs = ops.cast(inputs, "float32")
            driven = ops.matmul(inputs, self.input_kernel)
            drive = driven if drive is None else driven + drive
            if self.bilinear_rank:
                gates = ops.matmul(inputs, self.gate_kernel)
        if self.mode == "stable":
            states = self._respond(state, drive, steps)
        else:
            states = self._iterate(state, drive, gates, steps)
        return ops.cast(states, self.compute_dtype)

    def step(self, z, u=None, d=None):
        """The state `(..., k)` after one step; u `(..., m)`, d `(..., p)`."""
        state = ops.cast(z, "float32")
        if self.mode == "stable":
            parts = complex_product(
                power(self._exponent(), 1), ops.split(state, 2, axis=-1)
            )
            state = ops.concatenate(parts, axis=-1)
        else:
            state = ops.matmul(state, ops.transpose(self.transition()))
        inputs = acting_inputs(u, self.control_dim, d, self.disturbance_dim)
        if inputs is not None:
            inputs = ops.cast(inputs, "float32")
            state = state + ops.matmul(inputs, self.input_kernel)
            if self.bilinear_rank:
                gates = ops.matmul(inputs, self.gate_kernel)
                state = state + self._gated(ops.cast(z, "float32"), gates)
        return ops.cast(state, self.compute_dtype)

    def observe(self, z, z_next, u=None, d=None):
        """Adds pairs `(pairs, k)` to the statistics, and solves A, B, E."""
        if self.mode != "lstsq":
            raise ValueError(
                "`observe` needs statistics, which only mode='lstsq' keeps. "
                f"Received: mode={self.mode!r}"
            )
        outside = [x for x in (u, d) if x is not None]
        self.edmd.update(
            ops.concatenate([z, *outside], axis=-1),
            ops.concatenate([z_next, *outside], axis=-1),
        )
        solution = self.edmd.solve()[: self.latent_dim]
        finite = ops.isfinite(ops.sum(solution))
        rows, columns = ops.split(solution, [self.latent_dim], axis=1)
        weights = [(self.kernel, rows)]
        if self.input_dim:
            weights.append((self.input_kernel, ops.transpose(columns)))
        for weight, value in weights:
            before = ops.convert_to_tensor(weight)
            weight.assign(ops.where(finite, value, before))

    def transition(self):
        """A of a mode without blocks, a float32 tensor `(k, k)`."""
        kernel = ops.convert_to_tensor(self.kernel)
        if self.mode != "bounded":
            return kernel
        # A projection: the gradient sees the factor, not how it was found.
        bound = ops.stop_gradient(bound_spectral_radius(kernel))
        return kernel * ops.minimum(1.0, self.max_modulus / bound)

    def matrices(self):
        """A `(k, k)`, B `(k, m)` and E `(k, p)` as float64 NumPy arrays."""
        if self.mode == "stable":
            real, imaginary = (
                np.diag(ops.convert_to_numpy(part).astype("float64"))
                for part in power(self._exponent(), 1)
            )
            transition = np.block([[real, -imaginary], [imaginary, real]])
        else:
            transition = ops.convert_to_numpy(self.transition())
            transition = transition.astype("float64")
        outside = np.zeros((self.latent_dim, 0))
        if self.input_dim:
            outside = ops.convert_to_numpy(self.input_kernel).T
        outside = outside.astype("float64")
        return (
            transition,
            outside[:, : self.control_dim],
            outside[:, self.control_dim :],
        )

    def eigenvalues(self):
        """The k eigenvalues of A, a complex NumPy array."""
        if self.mode != "stable":
            return np.linalg.eigvals(self.matrices()[0]).astype("complex128")
        real, imaginary = (
            ops.convert_to_numpy(part).astype("float64")
            for part in power(self._exponent(), 1)
        )
        roots = real + 1j * imaginary
        return np.concatenate([roots, roots.conj()])

    def compute_output_shape(self, z_shape, u_shape=None, d_shape=None):
        outside = u_shape if u_shape is not None else d_shape
        steps = None if outside is None else outside[1]
        return (z_shape[0], steps, self.latent_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "latent_dim": self.latent_dim,
            "control_dim": self.control_dim,
            "disturbance_dim": self.disturbance_dim,
            "mode": self.mode,
            "max_modulus": self.max_modulus,
            "penalty": self.penalty
            and keras.saving.serialize_keras_object(self.penalty),
            "ridge": self.ridge,
            "bilinear_rank": self.bilinear_rank,
        }

    def _exponent(self):
        """Logarithms of k / 2 eigenvalues: of the modulus, and the angle."""
        nu, theta = (ops.cast(w, "float32") for w in (self.nu, self.theta))
        return np.log(self.max_modulus) - ops.softplus(nu) - SLACK, theta

    def _respond(self, state, drive, steps):
        """All steps at once: the first state enters as what drives it."""
        first = state[:, None]
        if drive is None:
            drive = ops.zeros_like(ops.repeat(first, steps, axis=1))
        driven = ops.concatenate([first, drive], axis=1)
        parts = linear_response(
            tuple(ops.split(driven, 2, axis=-1)), self._exponent()
        )
        return ops.concatenate(parts, axis=-1)[:, 1:]

    def _iterate(self, state, drive, gates, steps):
        kernel, states = ops.transpose(self.transition()), []
        for step in range(steps):
            after = ops.matmul(state, kernel)
            if gates is not None:
                after = after + self._gated(state, gates[:, step])
            if drive is not None:
                after = after + drive[:, step]
            state = after
            states.append(state)
        return ops.stack(states, axis=1)

    def _gated(self, state, gates):
        """`P ((F w) o (G z))`, of states `(..., k)` and gates `F w`."""
        read = ops.matmul(state, self.read_kernel)
        return ops.matmul(gates * read, self.write_kernel)
