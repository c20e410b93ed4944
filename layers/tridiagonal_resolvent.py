"""Diagonal of the resolvent of a tridiagonal operator, in parallel."""

from keras import ops

from .doubling_scan import (
    complex_product,
    complex_sum,
    doubling_scan,
    linear_scan,
    neighbour,
)


def resolvent_diagonal(alpha, coupling, mode="causal", gradient="adjoint"):
    """Diagonal of the inverse of `tridiag(b, alpha, b)`.

    With the ratios of successive minors from the left, `L_i = alpha_i -
    b_{i-1}^2 / L_{i-1}`, and R alike from the right, it is `G_ii = 1 / (L_i +
    R_i - alpha_i)`; causal, of the chain cut behind each token, `G_i = 1/L_i`.

    Where `Im alpha <= -eta` everywhere, `|L|, |R| >= eta` and `|G| <= 1 / eta`
    at any length.

    Args:
        alpha: pair of tensors `(..., N, H)`, real and imaginary part of the
            diagonal, float32 or float64.
        coupling: tensor `(..., N, H)`, b^2 between each token and the one
            before it, 0 at the first.
        mode: `"causal"` or `"bidirectional"`. Default: `"causal"`.
        gradient: `"adjoint"`, in closed form, or `"autodiff"` through the
            scan, equal to rounding. Default: `"adjoint"`.

    Returns:
        Pair of tensors `(..., N, H)`, G.

    Reference:
        - [Usmani, 1994](https://doi.org/10.1016/0024-3795(94)90414-6)
    """
    ratios = _ratios_with_adjoint if gradient == "adjoint" else _ratios
    ratio = ratios(alpha, coupling)
    if mode == "bidirectional":
        to_the_right = neighbour(coupling, right=True)
        right = ratios(alpha, to_the_right, reverse=True)
        real, imaginary = complex_sum(ratio, right)
        ratio = real - alpha[0], imaginary - alpha[1]
    return reciprocal(ratio)


def reciprocal(a):
    """`1 / a` of a complex number given as a pair."""
    scale = 1.0 / (a[0] * a[0] + a[1] * a[1])
    return a[0] * scale, -a[1] * scale


def _ratios(alpha, coupling, reverse=False):
    """Ratios L, or R in `reverse`, with `coupling` to the token before.

    L_i is the Moebius action of the product of the matrices `[[alpha_j,
    -b_{j-1}^2], [1, 0]]`, j <= i.
    """
    one, zero = ops.ones_like(coupling), ops.zeros_like(coupling)
    matrices = (alpha, (-coupling, zero), (one, zero), (zero, zero))
    p, _, r, _ = doubling_scan(matrices, _moebius_product, reverse)
    return complex_product(p, reciprocal(r))


def _ratios_with_adjoint(alpha, coupling, reverse=False):
    """`_ratios` with a gradient that takes one scan and stores L alone.

    With g that of L, `lam_j = g_j + conj(b_j^2 / L_j^2) lam_{j+1}` runs the
    other way; `dalpha = lam` and `db_{j-1}^2 = -Re(conj(lam_j) / L_{j-1})`.
    """

    @ops.custom_gradient
    def solve(alpha, coupling):
        ratio = _ratios((alpha[0], alpha[1]), coupling, reverse)

        def gradient(*args, upstream=None):
            upstream = args[-1] if upstream is None else upstream
            inverse = reciprocal(ratio)
            real, imaginary = complex_product(inverse, inverse)
            after = neighbour(coupling, right=not reverse)
            adjoint = linear_scan(
                (after * real, -after * imaginary),
                (upstream[0], upstream[1]),
                reverse=not reverse,
            )
            real, imaginary = (neighbour(a, right=reverse) for a in inverse)
            return (
                ops.stack(adjoint),
                -real * adjoint[0] - imaginary * adjoint[1],
            )

        return ops.stack(ratio), gradient

    ratio = solve(ops.stack(alpha), coupling)
    return ratio[0], ratio[1]


def _moebius_product(earlier, later, distance):
    """Product of complex 2x2 matrices, scaled to entries of size one."""
    del distance
    (a, b, c, d), (p, q, r, s) = later, earlier
    product = (
        complex_sum(complex_product(a, p), complex_product(b, r)),
        complex_sum(complex_product(a, q), complex_product(b, s)),
        complex_sum(complex_product(c, p), complex_product(d, r)),
        complex_sum(complex_product(c, q), complex_product(d, s)),
    )
    size = 0.0
    for real, imaginary in product:
        size = ops.maximum(size, ops.maximum(ops.abs(real), ops.abs(imaginary)))
    scale = 1.0 / ops.stop_gradient(size)
    return tuple(
        (real * scale, imaginary * scale) for real, imaginary in product
    )
