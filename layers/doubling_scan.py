"""Prefix products of an associative operator, parallel and linear in length."""

from keras import ops, tree

from .._backend import materialise

CHUNK = 128
LONGEST = CHUNK**3


def doubling_scan(elements, combine, reverse=False):
    """Combine every element of a sequence with all that came before it.

    `y_t = x_t * x_{t-1} * ... * x_0` for an associative product. Spans double
    within chunks of at most 128 tokens, the totals of the chunks are scanned
    the same way and carried into the chunks that follow: O(N) work, O(log N)
    steps. Slices and products are all it is made of, so it compiles and
    differentiates alike on every backend.

    Args:
        elements: a structure of tensors `(..., N, c)`, scanned along axis -2.
            N may be unknown while tracing; it is then at most 128^3.
        combine: callable `(earlier, later, distance) -> later * earlier` on
            structures of tensors that broadcast. `distance`, an int or an int
            tensor `(n, 1)`, counts the tokens that `later` spans, on which
            alone the power of a constant factor depends.
        reverse: bool. Whether to begin at the last token: "earlier" is then
            to the right. Default: `False`.

    Returns:
        A structure like `elements`.

    Example:

    ```python
    def add(earlier, later, distance):
        return earlier + later

    sums = doubling_scan(ops.ones((2, 300, 4)), add)  # 1, 2, ..., 300
    ```

    Reference:
        - [Hillis and Steele, 1986](https://doi.org/10.1145/7902.7903)
    """
    if reverse:
        elements = _map(lambda a: ops.flip(a, axis=-2), elements)
    length = tree.flatten(elements)[0].shape[-2]
    longest = length if isinstance(length, int) else LONGEST
    y = _scan(elements, combine, longest, spacing=1)
    return _map(lambda a: ops.flip(a, axis=-2), y) if reverse else y


def linear_scan(factor, drive, reverse=False):
    """States of the complex recurrence `z_t = a_t z_{t-1} + v_t` from rest.

    Args:
        factor: pair of tensors `(..., N, c)`, a, real and imaginary part.
        drive: pair of tensors `(..., N, c)`, v.
        reverse: bool. Whether t counts from the last token. Default: `False`.

    Returns:
        Pair of tensors `(..., N, c)`, z.
    """

    def compose(earlier, later, distance):
        del distance
        (a, v), (b, w) = earlier, later
        return complex_product(b, a), complex_sum(complex_product(b, v), w)

    return doubling_scan((factor, drive), compose, reverse)[1]


def complex_product(a, b):
    """Product of complex numbers given as pairs `(real, imaginary)`."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def complex_sum(a, b):
    """Sum of complex numbers given as pairs `(real, imaginary)`."""
    return a[0] + b[0], a[1] + b[1]


def neighbour(x, right=False):
    """What each token's left, or right, neighbour has; 0 where there is none.

    Args:
        x: tensor `(..., N, c)`.
        right: bool. Default: `False`.

    Returns:
        Tensor `(..., N, c)`.
    """
    zero = ops.zeros_like(x[..., :1, :])
    parts = [x[..., 1:, :], zero] if right else [zero, x[..., :-1, :]]
    return ops.concatenate(parts, axis=-2)


def _scan(x, combine, longest, spacing):
    """Scan at most `longest` elements that are `spacing` tokens apart."""
    if longest <= CHUNK:
        return _double(x, combine, longest, spacing)
    length = ops.shape(tree.flatten(x)[0])[-2]
    chunks = -(-longest // CHUNK)
    size = -(-longest // chunks)
    x = _map(lambda a: _fold(a, size), x)
    x = _double(x, combine, size, spacing)
    totals = _map(lambda a: a[..., -1, :], x)
    totals = _scan(totals, combine, chunks, spacing * size)
    carried = combine(
        _map(lambda a: a[..., :-1, None, :], totals),
        _map(lambda a: a[..., 1:, :, :], x),
        spacing * ops.arange(1, size + 1)[:, None],
    )
    x = _map(
        lambda a, b: ops.concatenate([a[..., :1, :, :], b], axis=-3), x, carried
    )
    return _map(lambda a: _unfold(a, length), x)


def _double(x, combine, longest, spacing):
    """Let spans of 1, 2, 4, ... elements grow until they reach the start."""
    span = 1
    while span < longest:
        doubled = combine(
            _map(lambda a, s=span: a[..., :-s, :], x),
            _map(lambda a, s=span: a[..., s:, :], x),
            span * spacing,
        )
        x = materialise(
            _map(
                lambda a, b, s=span: ops.concatenate(
                    [a[..., :s, :], b], axis=-2
                ),
                x,
                doubled,
            )
        )
        span *= 2
    return x


def _fold(x, size):
    """Cut `(..., N, c)` into chunks `(..., ceil(N / size), size, c)`.

    The last one is filled with ones, which can be divided by; `_unfold` drops
    what they give.
    """
    *batch, length, width = ops.shape(x)
    chunks = -(-length // size)
    if not isinstance(length, int) or length % size:
        filler = ops.ones((*batch, chunks * size - length, width), x.dtype)
        x = ops.concatenate([x, filler], axis=-2)
    return ops.reshape(x, (*batch, chunks, size, width))


def _unfold(x, length):
    *batch, chunks, size, width = ops.shape(x)
    return ops.reshape(x, (*batch, chunks * size, width))[..., :length, :]


_map = tree.map_structure
