"""Token mixing by the resolvent of a learned tridiagonal operator."""

import keras
import numpy as np
from keras import ops

from .doubling_scan import neighbour
from .tridiagonal_resolvent import reciprocal, resolvent_diagonal

MODES = ("causal", "bidirectional")
GRADIENTS = ("adjoint", "autodiff")
# The bounds of potential and damping.
V_MAX, ETA_MIN = 3.0, 0.05


@keras.saving.register_keras_serializable(package="orrery")
class ResolventMixer(keras.layers.Layer):
    """Mixing of tokens by the resolvent of the chain that they form.

    Each head reads a potential `v = 3 tanh((w . u + b_v) / 3)` for
    `T = tridiag(b, -2 + v, b)` and yields the diagonal of `(T - E - i eta)^-1`,
    in causal mode of the chain cut behind each token: `G_i = 1 / L_i`.

    `eta = 0.05 + softplus(.)` bounds it, `|G| <= 1 / eta`, at any length. A
    head reaches back 2 tokens at `eta = 1` and 40 at 0.05 in the middle of its
    band (`v = 0`, `E = -2`), where heads start, with eta log-spaced from
    just above 0.05 to 1. All of it is computed in float32 or better.

    Args:
        num_heads: int, H. Default: 8.
        mode: `"causal"` or `"bidirectional"`. Default: `"causal"`.
        gradient: `"adjoint"`, in closed form, or `"autodiff"` through the
            scan, which is equal, slower, and larger. Default: `"adjoint"`.

    Call arguments:
        x: float tensor `(B, N, d)`.
        mask: bool tensor `(B, N)` or `None`. Nothing passes a token that is
            `False`: its couplings are 0.

    Returns:
        float tensor `(B, N, d)`.

    Raises:
        ValueError: if an argument is out of its range, or if a bidirectional
            mixer is asked to stream.

    Example:

    ```python
    mixer = ResolventMixer(num_heads=8)
    y = mixer(keras.random.normal((2, 16, 64)))  # (2, 16, 64)
    ```

    Reference:
        - [Economou, 2006](https://doi.org/10.1007/3-540-28841-4)
    """

    def __init__(
        self,
        num_heads=8,
        mode="causal",
        gradient="adjoint",
        **kwargs,
    ):
        super().__init__(**kwargs)
        heads = isinstance(num_heads, int) and num_heads > 0
        _check("num_heads", num_heads, heads, "a positive integer")
        _check("mode", mode, mode in MODES, f"one of {MODES}")
        known = gradient in GRADIENTS
        _check("gradient", gradient, known, f"one of {GRADIENTS}")
        self.num_heads = num_heads
        self.mode = mode
        self.gradient = gradient
        self.supports_masking = True

    def build(self, input_shape):
        # bfloat16 would move the poles by as much as ETA_MIN.
        self.potential = keras.layers.Dense(
            self.num_heads, dtype=self.solver_dtype, name="potential"
        )
        self.potential.build(input_shape)
        self.output_projection = keras.layers.Dense(
            input_shape[-1],
            use_bias=False,
            dtype=self.dtype_policy,
            name="output",
        )
        self.output_projection.build((*input_shape[:-1], 2 * self.num_heads))
        eta = np.geomspace(1.1 * ETA_MIN, 1.0, self.num_heads)
        self.energy = self._head_weight("energy", -2.0)
        self.damping = self._head_weight(
            "damping", np.log(np.expm1(eta - ETA_MIN))
        )
        self.coupling = self._head_weight("coupling", 1.0)

    def _head_weight(self, name, value):
        return self.add_weight(
            name=name,
            shape=(self.num_heads,),
            initializer=keras.initializers.Constant(value),
            autocast=False,
        )

    @property
    def solver_dtype(self):
        """The compute dtype, but never less than float32."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def call(self, x, mask=None):
        alpha = self._diagonal(x)
        coupling = self._couplings(alpha[0], mask)
        return self._read(
            resolvent_diagonal(alpha, coupling, self.mode, self.gradient)
        )

    def initial_state(self, batch_size, max_length):
        """`1 / L` of the token before, real and imaginary, `(B, 1, H)`."""
        del max_length
        if self.mode != "causal":
            raise ValueError(
                '`mode` must be "causal" for streaming. '
                f"Received: mode={self.mode!r}"
            )
        zeros = ops.zeros((batch_size, 1, self.num_heads), self.solver_dtype)
        return zeros, zeros

    def step(self, x, state, index):
        """One token `(B, 1, d)`; its position `index` does not matter."""
        del index
        real, imaginary = self._diagonal(x)
        squared = ops.square(self._cast(self.coupling))
        state = reciprocal(
            (real - squared * state[0], imaginary - squared * state[1])
        )
        return self._read(state), state

    def _diagonal(self, x):
        """The diagonal alpha = -2 + v - E - i eta of T - z."""
        v = V_MAX * ops.tanh(self.potential(x) / V_MAX)
        eta = ETA_MIN + ops.softplus(self._cast(self.damping))
        return v - 2.0 - self._cast(self.energy), ops.zeros_like(v) - eta

    def _couplings(self, like, mask):
        """Squared coupling of each token to the one on its left."""
        linked = neighbour(ops.ones_like(like), right=False)
        if mask is not None:
            valid = ops.cast(mask, like.dtype)[..., None]
            linked = linked * valid * neighbour(valid, right=False)
        return linked * ops.square(self._cast(self.coupling))

    def _read(self, resolvent):
        return self.output_projection(ops.concatenate(resolvent, axis=-1))

    def _cast(self, weight):
        return ops.cast(weight, self.solver_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mode": self.mode,
            "gradient": self.gradient,
        }


def _check(name, value, fine, allowed):
    if not fine:
        raise ValueError(
            f"`{name}` must be {allowed}. Received: {name}={value!r}"
        )
