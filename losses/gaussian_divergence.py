"""How far a Gaussian is from another one."""

from keras import ops


def gaussian_divergence(mean, logvar, other_mean, other_logvar):
    """Kullback-Leibler divergence of two diagonal Gaussians, of each entry.

    `1/2 [w_p - w_q + (exp(w_q) + (mu_q - mu_p)^2) exp(-w_p) - 1]`, in nats,
    with q the first and p the other one. Computed in float32.

    Args:
        mean: float tensor, mu_q.
        logvar: float tensor, w_q, of the same shape.
        other_mean: float tensor, mu_p.
        other_logvar: float tensor, w_p.

    Returns:
        Float32 tensor of the same shape, at least 0.

    Example:
    >>> zero, one = keras.ops.zeros((1,)), keras.ops.ones((1,))
    >>> float(gaussian_divergence(one, zero, zero, zero)[0])
    0.5

    Reference:
        - [Kingma and Welling, 2013](https://arxiv.org/abs/1312.6114)
    """
    mean, logvar, other_mean, other_logvar = (
        ops.cast(x, "float32") for x in (mean, logvar, other_mean, other_logvar)
    )
    spread = ops.exp(logvar) + ops.square(mean - other_mean)
    return 0.5 * (other_logvar - logvar + spread * ops.exp(-other_logvar) - 1.0)
