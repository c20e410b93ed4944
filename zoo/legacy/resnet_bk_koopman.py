"""The Koopman operator of ResNet-BK, owned by AdamW and by a DMD."""

import keras
import numpy as np
from keras import ops

from .resnet_bk_linear import linear

SMALLEST_DMD_WEIGHT = 1e-4


def _near_identity(shape, dtype=None):
    noise = keras.random.normal(shape, stddev=0.01, dtype=dtype)
    return ops.eye(shape[0], dtype=dtype) + noise


def wrong_pseudo_inverse(matrix):
    """The original's pseudo-inverse: V's rows for its columns (fault 7).

    `torch.svd` returns V where the caller expected V^T, so that
    `(V[:r, :])^T S^-1 U^T` was formed in place of `V[:, :r] S^-1 U^T`, with
    r the number of singular values above 1e-6 of the largest.

    Args:
        matrix: float array `(m, n)`.

    Returns:
        float array `(n, m)`, or `None` where r = 0.
    """
    u, s, transposed = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(s > 1e-6 * s[0]))
    if rank == 0:
        return None
    return transposed[:, :rank] / s[:rank] @ u[:, :rank].T


@keras.saving.register_keras_serializable(package="orrery")
class KoopmanBranch(keras.layers.Layer):
    """phi, K and psi beside a block, with the ring buffers of the DMD.

    Forward mode: `psi(phi(u) K)`. Loss: mean SmoothL1 of `phi(h) K^T` against
    `phi(h')`, nothing detached (faults 10 and 11). K is trainable, starts at
    `I + 0.01 N(0, 1)`, and is overwritten by `update` as well (fault 9).

    Args:
        dim: int, state width d.
        lift_dim: int, width m of phi and K. Defaults to 256.
        ring: int, columns kept for the DMD. Defaults to 100.

    Call arguments:
        inputs: float tensor `(B, N, d)`, the normalised state.

    Returns:
        float tensor `(B, N, d)`.
    """

    def __init__(self, dim, lift_dim=256, ring=100, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.lift_dim = lift_dim
        self.ring = ring

    def build(self, input_shape):
        m = self.lift_dim
        self.phi = [
            linear(m, self.dim, "phi_0", activation="tanh"),
            linear(m, m, "phi_1"),
        ]
        self.psi = [
            linear(m, m, "psi_0", activation="tanh"),
            linear(self.dim, m, "psi_1"),
        ]
        self.operator = self.add_weight(
            shape=(m, m), initializer=_near_identity, name="operator"
        )
        self.columns = self.add_weight(
            shape=(2, m, self.ring),
            initializer="zeros",
            trainable=False,
            name="columns",
        )
        self.pushes = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="pushes",
        )

    def call(self, inputs):
        z = ops.matmul(self.lift(inputs), self.operator)
        return self.psi[1](self.psi[0](z))

    def lift(self, state):
        """phi: `(B, N, d) -> (B, N, m)`."""
        return self.phi[1](self.phi[0](state))

    def consistency(self, state, following, weight):
        """The loss of one block and the column pair for the ring.

        Args:
            state: float tensor `(B, N, d)`, the block's input.
            following: float tensor `(B, N, d)`, the block's output.
            weight: float tensor `(B, N)` that sums to 1; zero on padding.

        Returns:
            The scalar loss, and the mean lifted pair `(2, m)`.
        """
        z, target = self.lift(state), self.lift(following)
        error = ops.abs(ops.matmul(z, ops.transpose(self.operator)) - target)
        smooth = ops.where(error < 1.0, 0.5 * error * error, error - 0.5)
        loss = ops.sum(ops.mean(smooth, axis=-1) * weight)
        means = [
            ops.sum(a * weight[..., None], axis=(0, 1)) for a in (z, target)
        ]
        return loss, ops.stop_gradient(ops.stack(means))

    def push(self, pair, enabled):
        """Write a column pair `(2, m)` into the ring where `enabled`."""
        slot = ops.one_hot(ops.mod(self.pushes, self.ring), self.ring)
        slot = slot * ops.cast(enabled, slot.dtype)
        self.columns.assign(
            self.columns * (1.0 - slot) + pair[..., None] * slot
        )
        self.pushes.assign_add(ops.cast(enabled, "int32"))

    def update(self):
        """K <- 0.9 K + 0.1 Z' pinv(Z), with the wrong pinv, in NumPy.

        Returns:
            bool, whether K was changed: not before the ring is full, and not
            where the SVD fails, which the original passed over in silence.
        """
        if int(self.pushes) < self.ring:
            return False
        current, following = keras.ops.convert_to_numpy(self.columns)
        try:
            inverse = wrong_pseudo_inverse(current)
        except np.linalg.LinAlgError:
            return False
        if inverse is None:
            return False
        old = keras.ops.convert_to_numpy(self.operator)
        self.operator.assign(0.9 * old + 0.1 * (following @ inverse))
        return True

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "lift_dim": self.lift_dim,
            "ring": self.ring,
        }


def operator_change(initial, final):
    """How far K moved: as reported, and as it is (fault 13).

    Args:
        initial: float array `(m, m)`, K at the start.
        final: float array `(m, m)`, K at the end.

    Returns:
        dict of floats: "reported", the mean of |K - K_0| over the norm of K,
        and "relative", the norm of K - K_0 over the norm of K_0 (Frobenius).
    """
    initial, final = np.asarray(initial), np.asarray(final)
    change = final - initial
    return {
        "reported": float(np.abs(change).mean() / np.linalg.norm(final)),
        "relative": float(np.linalg.norm(change) / np.linalg.norm(initial)),
    }
