"""A linear operator on lifted states, in the place of a nonlinear block."""

import keras
import numpy as np
from keras import ops, tree

from ..losses.koopman_consistency import relative_error, skill
from .edmd import StreamingEDMD, sample
from .lift import Lift
from .spectral_radius import bound_spectral_radius


@keras.saving.register_keras_serializable(package="orrery")
class KoopmanOperator(keras.layers.Layer):
    """Predicts the next state linearly in a lifted space.

    `x' = psi(K phi(X))`: `phi` is a `Lift` of the delay state `X`, `psi` the
    projection on the first `d` observables, and `z' = K z` (in rows
    `z' = z K^T`) the operator. Time runs along the depth of a network: `x` is
    the input of a block and `x'` its output, token by token.

    `K` starts as the identity, the map `x' = x`. Its row of the constant
    observable stays there, so that `K` is affine in the others. With
    `operator="edmd"` it is solved from streaming statistics (`StreamingEDMD`)
    at the start of every `solve_every`-th training call, so that a prediction
    never uses the tokens it is measured on. With `operator="gradient"` it is
    a trainable weight; its block from the tanh observables to the state then
    starts with deviation `1e-3`, not 0, for the prediction to pass a gradient
    to the lift.

    Lift, statistics and `K` are float32 under any policy. A saved model keeps
    `K`, not the statistics.

    Args:
        lift_dim: int >= 0, number of tanh observables; with 0 the operator is
            a plain affine least-squares map. Defaults to `128`.
        delays: int >= 0, number of earlier states in `X`, in tokens, for the
            operator to stand in for a block that mixes tokens. Defaults to
            `0`.
        operator: `"edmd"` or `"gradient"`. Defaults to `"edmd"`.
        stable: bool. Divides `K`, without its row and column of the constant,
            by a bound of its spectral radius where that exceeds 1, so that no
            eigenvalue leaves the unit disc. Defaults to `False`.
        sample_tokens: int > 0, the largest number of tokens of a batch that
            enter the statistics and the consistency loss in training, by a
            fixed stride over the flattened batch. Defaults to `512`.
        forget: float in (0, 1], factor on the statistics per training call.
            Defaults to `0.99`.
        ridge: float > 0, relative ridge of the solve. Defaults to `1e-6`.
        solve_every: int > 0, training calls between two solves. Defaults to
            `10`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(batch, length, d)`.
        x_next: float tensor `(batch, length, d)`, the true next state. With
            `training` it updates the statistics. Defaults to `None`.
        training: bool. Defaults to `False`.

    Returns:
        The predicted next state, `(batch, length, d)`.

    Raises:
        ValueError: If an argument is out of its range, or an operator trained
            by gradient is asked for statistics.

    Example:
    >>> operator = KoopmanOperator(lift_dim=16)
    >>> x = keras.random.normal((8, 64, 4))
    >>> operator.build(x.shape)
    >>> operator.observe(x, 0.5 * x)
    >>> operator.solve()
    >>> error = keras.ops.convert_to_numpy(operator(x) - 0.5 * x)
    >>> bool(np.abs(error).max() < 1e-3)
    True

    Reference:
        Williams, Kevrekidis, Rowley, arXiv:1408.4408; layers as Koopman
        operators: Aswani et al., arXiv:2409.01308.
    """

    def __init__(
        self,
        lift_dim=128,
        delays=0,
        operator="edmd",
        stable=False,
        sample_tokens=512,
        forget=0.99,
        ridge=1e-6,
        solve_every=10,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if operator not in ("edmd", "gradient"):
            raise ValueError(
                "`operator` must be 'edmd' or 'gradient'. "
                f"Received: operator={operator!r}"
            )
        for name, value in (
            ("sample_tokens", sample_tokens),
            ("solve_every", solve_every),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` must be an integer > 0. Received: {value!r}"
                )
        self.operator = operator
        self.stable = bool(stable)
        self.sample_tokens = sample_tokens
        self.solve_every = solve_every
        self.lift = Lift(lift_dim, delays, dtype="float32", name="lift")
        self.edmd = StreamingEDMD(forget, ridge, dtype="float32", name="edmd")

    def build(self, x_shape, x_next_shape=None):
        self.features = x_shape[-1]
        self.lift.build(x_shape)
        size = self.lift.observables_dim
        self._constant = np.arange(size) == size - 1 - self.lift.lift_dim
        self.kernel = self.add_weight(
            shape=(size, size),
            initializer=self._initial_kernel,
            trainable=self.operator == "gradient",
            dtype="float32",
            autocast=False,
            name="kernel",
        )
        if self.operator == "edmd":
            self.edmd.build((None, size))

    def matrix(self):
        """`K` as it is applied, a float32 tensor `(m, m)`."""
        kernel = ops.convert_to_tensor(self.kernel)
        if self.stable and self.operator == "gradient":
            kernel = self._stabilized(kernel)
        identity = ops.eye(self._constant.size)
        return ops.where(self._constant[:, None], identity, kernel)

    def advance(self, z, steps=1):
        """`z` -> `K^steps z` along the last axis of `z`, `(..., m)`."""
        state_rows, rest = ops.split(self.matrix(), [self.features])
        for _ in range(steps):
            # Two products: `call` makes the first alone, to the same bits.
            z = ops.concatenate(
                [
                    ops.matmul(z, ops.transpose(state_rows)),
                    ops.matmul(z, ops.transpose(rest)),
                ],
                axis=-1,
            )
        return z

    def decode(self, z):
        """`psi`: the state within `z`, `(..., m)` -> `(..., d)`."""
        return z[..., : self.features]

    def call(self, x, x_next=None, training=False):
        if training and x_next is not None and self.operator == "edmd":
            self._solve_when_due(x)
            self.edmd.update(*self._pairs(x, x_next, self.sample_tokens))
        return self._predict(self.lift(x))

    def consistency(self, x, x_next, loss, training=False):
        """Measures the operator on the sampled tokens; learns in training.

        Args:
            x: float tensor `(batch, length, d)`, the states.
            x_next: float tensor `(batch, length, d)`, the next states.
            loss: a `KoopmanConsistency`.
            training: bool. Also updates the statistics. Defaults to `False`.

        Returns:
            The scalar loss, which passes gradients to the lift and, as
            `loss.detach` says, to `x`; and a dict of scalars without
            gradients: `linear` and `state`, the relative errors, and `skill`
            against the identity map.
        """
        learns = training and self.operator == "edmd"
        if learns:
            self._solve_when_due(x)
        x = loss.source(x)
        z, z_next = self._pairs(x, x_next, self.sample_tokens)
        z_predicted = self.advance(z)
        state, state_next, state_predicted = map(
            self.decode, (z, z_next, z_predicted)
        )
        value = loss(z_next, z_predicted, state_next, state_predicted)
        measures = {
            "linear": relative_error(z_next, z_predicted),
            "state": relative_error(state_next, state_predicted),
            "skill": skill(state, state_next, state_predicted),
        }
        if learns:
            self.edmd.update(z, z_next)
        return value, tree.map_structure(ops.stop_gradient, measures)

    def observe(self, x, x_next, sample_tokens=None, forget=1.0):
        """Adds pairs to the statistics; `solve` turns them into `K`.

        By default every token counts, and counts fully: after
        `reset_statistics`, one pass over a data set and one `solve` give the
        least-squares operator of the data set.

        Args:
            x: float tensor `(batch, length, d)`, the states.
            x_next: float tensor `(batch, length, d)`, the next states.
            sample_tokens: int or `None` (all), the largest number of tokens
                to take. Defaults to `None`.
            forget: float in (0, 1], factor on the earlier statistics.
                Defaults to `1.0`.
        """
        self._require_statistics("observe")
        self.edmd.update(*self._pairs(x, x_next, sample_tokens), forget)

    def solve(self):
        """Sets `K` to the solution of the statistics, if there are any."""
        self._require_statistics("solve")
        self._solve_if(self.edmd.count > 0)

    def reset_statistics(self):
        """Forgets all pairs; `K` stays."""
        self._require_statistics("reset_statistics")
        self.edmd.reset()

    def spectrum(self):
        """Eigenvalues of `K`, a complex NumPy array `(m,)`."""
        matrix = ops.convert_to_numpy(self.matrix()).astype("float64")
        return np.linalg.eigvals(matrix).astype("complex128")

    def distance_from_initial(self):
        """`|K - I|_F / |I|_F`, a float."""
        matrix = ops.convert_to_numpy(self.matrix()).astype("float64")
        size = len(matrix)
        return float(np.linalg.norm(matrix - np.eye(size)) / np.sqrt(size))

    def initial_state(self, batch_size, max_length=None):
        """The last `k` states, newest first: zeros before the start."""
        shape = (batch_size, self.lift.delays, self.features)
        return (ops.zeros(shape, self.compute_dtype),)

    def step(self, x, state, index=None):
        """One token of `call`: `x`, `(batch, 1, d)`, to `(y, state)`."""
        (earlier,) = state
        states = ops.concatenate([x, ops.cast(earlier, x.dtype)], axis=1)
        delay_state = ops.reshape(
            states, (-1, 1, (self.lift.delays + 1) * self.features)
        )
        y = self._predict(self.lift.observables(delay_state))
        latest = ops.cast(states[:, : self.lift.delays], earlier.dtype)
        return y, (latest,)

    def compute_output_shape(self, x_shape, x_next_shape=None):
        return x_shape

    def get_config(self):
        return {
            **super().get_config(),
            "lift_dim": self.lift.lift_dim,
            "delays": self.lift.delays,
            "operator": self.operator,
            "stable": self.stable,
            "sample_tokens": self.sample_tokens,
            "forget": self.edmd.forget,
            "ridge": self.edmd.ridge,
            "solve_every": self.solve_every,
        }

    def _initial_kernel(self, shape, dtype):
        identity = ops.eye(shape[0], dtype=dtype)
        if self.operator == "edmd":
            return identity
        noise = keras.initializers.RandomNormal(stddev=1e-3)(shape, dtype)
        index = np.arange(shape[0])
        is_tanh = index >= shape[0] - self.lift.lift_dim
        is_state = index < self.features
        return ops.where(is_state[:, None] & is_tanh, noise, identity)

    def _predict(self, z):
        """`psi(K z)`, which needs the first `d` rows of `K` only."""
        state_rows = self.matrix()[: self.features]
        y = ops.matmul(z, ops.transpose(state_rows))
        return ops.cast(y, self.compute_dtype)

    def _pairs(self, x, x_next, sample_tokens):
        """`z` and, detached, `z'` of the sampled tokens, `(tokens, m)`."""
        z, z_next = (
            self.lift.observables(
                sample(self.lift.delay_state(states), sample_tokens)
            )
            for states in (x, x_next)
        )
        return z, ops.stop_gradient(z_next)

    def _solve_when_due(self, x):
        """A batch that is not finite changes nothing, not even the turn."""
        counted = self.edmd.updates - self.edmd.skipped
        due = ops.equal(counted % self.solve_every, 0)
        due = ops.logical_and(due, self.edmd.count > 0)
        self._solve_if(ops.logical_and(due, ops.isfinite(ops.sum(x))))

    def _solve_if(self, due):
        kernel = ops.convert_to_tensor(self.kernel)
        solution = ops.cond(due, self._solution, lambda: kernel)
        finite = ops.isfinite(ops.sum(solution))
        self.kernel.assign(ops.where(finite, solution, kernel))

    def _solution(self):
        solution = self.edmd.solve()
        return self._stabilized(solution) if self.stable else solution

    def _stabilized(self, kernel):
        block = ~self._constant & ~self._constant[:, None]
        bound = bound_spectral_radius(
            ops.where(block, ops.stop_gradient(kernel), 0.0)
        )
        return ops.where(block, kernel / ops.maximum(bound, 1.0), kernel)

    def _require_statistics(self, method):
        if self.operator != "edmd":
            raise ValueError(
                f"`{method}` needs statistics, which only operator='edmd' "
                f"keeps. Received: operator={self.operator!r}"
            )
