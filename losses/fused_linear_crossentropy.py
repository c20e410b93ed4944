"""The cross-entropy of a linear head that never builds its logits."""

import keras
from keras import ops

from .._backend import rounds_products

CHUNK_SIZE = 128


def fused_linear_crossentropy(
    hidden,
    kernel,
    targets,
    bias=None,
    sample_weight=None,
    transpose=False,
    chunk_size=CHUNK_SIZE,
    with_gradient=True,
):
    """Mean cross-entropy of `softmax(hidden @ kernel + bias)`, in chunks.

    With `s_t = h_t W + b` and T tokens,

        nll_t = logsumexp(s_t) - s_t[y_t],    loss = (1/T) sum_t w_t nll_t.

    The tokens pass in chunks of `chunk_size`, so the largest array is
    `(chunk_size, V)` and not `(T, V)`. While a chunk's logits S are there, the
    forward pass also forms its gradient: with `G = (softmax(S) - onehot(y)) w
    / T`, `dH = G W^T`, `dW = H^T G`, `db = 1^T G`, the part of the softmax
    chunk by chunk and the part of the targets at once. The backward pass only
    scales them by the upstream scalar. Three matrix products are all it costs,
    as many as the naive head needs. Softmax and sums are float32 under any
    dtype policy.

    Args:
        hidden: float tensor `(..., d)`, the hidden states.
        kernel: float tensor `(d, V)`, or `(V, d)` with `transpose=True`
            (an embedding matrix, for a tied head).
        targets: int tensor `(...)`, the next-token ids, in `[0, V)`.
        bias: float tensor `(V,)` or `None`.
        sample_weight: float tensor `(...)` or `None` (all ones). The mean is
            over all T positions, so a batch filled up with zero weights counts
            by its tokens.
        transpose: bool, whether `kernel` is `(V, d)`. Defaults to `False`.
        chunk_size: int, tokens per chunk. Defaults to 128.
        with_gradient: bool. `False` skips the two products of the gradient
            (evaluation); the result is then not differentiable.

    Returns:
        A pair: the scalar float32 loss, and the unweighted `nll` with the
        shape of `targets`, through which no gradient flows.

    Raises:
        ValueError: if `chunk_size` is not a positive integer.

    Example:

    ```python
    hidden = keras.random.normal((2, 16, 64))
    kernel = keras.random.normal((64, 1000))
    targets = keras.random.randint((2, 16), 0, 1000)
    loss, nll = fused_linear_crossentropy(hidden, kernel, targets)
    ```

    Reference:
        - [Wijmans et al., 2024](https://arxiv.org/abs/2411.09009), the same
          memory argument with a kernel that recomputes the logits.
    """
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(
            "`chunk_size` must be a positive integer. "
            f"Received: chunk_size={chunk_size}"
        )
    # Integer targets need no cotangent: they are closed over, not passed.
    shape = ops.shape(targets)
    width = hidden.shape[-1]
    targets = ops.cast(ops.reshape(targets, (-1,)), "int32")
    hidden = ops.reshape(hidden, (-1, width))
    if sample_weight is None:
        weight = ops.ones_like(targets, dtype="float32")
    else:
        weight = ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
    length = ops.shape(targets)[0]
    if isinstance(length, int) and length == 0:
        raise ValueError(
            "`targets` must hold at least one token. Received: shape "
            f"{tuple(shape)}"
        )
    scale = 1.0 / ops.cast(length, "float32")

    if isinstance(length, int):
        chunk_size = min(chunk_size, length)
    chunks = (length + chunk_size - 1) // chunk_size
    missing = chunks * chunk_size - length
    targets = ops.pad(targets, ((0, missing),))
    weight = ops.pad(weight, ((0, missing),)) * scale
    has_bias = bias is not None
    dtype = keras.backend.standardize_dtype(hidden.dtype)
    coarse = dtype in ("float16", "bfloat16") or rounds_products()
    classes = kernel.shape[0 if transpose else 1]

    def logits(h, kernel, bias):
        s = ops.matmul(h, ops.transpose(kernel) if transpose else kernel)
        s = ops.cast(s, "float32")
        return s + ops.cast(bias, "float32") if has_bias else s

    def chunk(array, i):
        start = (i * chunk_size,) + (0,) * (len(array.shape) - 1)
        return ops.slice(array, start, (chunk_size,) + array.shape[1:])

    def write(array, i, part):
        start = (i * chunk_size,) + (0,) * (len(array.shape) - 1)
        return ops.slice_update(array, start, part)

    def target_rows(kernel):
        """The kernel's row of every token's target, `(T, d)`."""
        if transpose:
            return ops.take(kernel, targets, axis=0)
        return ops.transpose(ops.take(kernel, targets, axis=1))

    def target_logits(hidden, rows, bias):
        """`s_t[y_t]`, rounded as the others: not read from the logits."""
        s = ops.sum(
            ops.cast(hidden, "float32") * ops.cast(rows, "float32"), axis=-1
        )
        s = ops.cast(ops.cast(s, hidden.dtype), "float32")
        if not has_bias:
            return s
        return s + ops.take(ops.cast(bias, "float32"), targets)

    def forward(h, target_logit, kernel, bias):
        """Per-token NLL, and the softmax as `e / total`."""
        s = logits(h, kernel, bias)
        highest = ops.max(s, axis=-1, keepdims=True)
        e = ops.exp(s - highest)
        total = ops.sum(e, axis=-1, keepdims=True)
        nll = ops.log(total)[:, 0] + (highest[:, 0] - target_logit)
        return nll, e, total

    def evaluate(hidden, kernel, bias):
        padded = ops.pad(hidden, ((0, missing), (0, 0)))
        target_logit = target_logits(padded, target_rows(kernel), bias)

        def body(i, nll):
            h = chunk(padded, i)
            part, *_ = forward(h, chunk(target_logit, i), kernel, bias)
            return write(nll, i, part)

        nll = ops.fori_loop(0, chunks, body, ops.zeros_like(weight))
        return ops.concatenate([ops.sum(nll * weight)[None], nll])

    def differentiate(hidden, kernel, bias):
        """The gradient with respect to the logits is `w (e / total - 1_y)`.

        `e / total` is never formed: its factor per token scales the narrow
        side of each product. The part of the target is a row of the kernel,
        and a sum into one, both outside the loop; but where products are
        rounded (16 bits, TensorFloat-32) the two parts of a sure prediction
        would cancel to their rounding, and it is taken from `e` in float32.
        """
        padded = ops.pad(hidden, ((0, missing), (0, 0)))
        rows = target_rows(kernel)
        target_logit = target_logits(padded, rows, bias)

        def body(i, carry):
            nll, d_hidden, d_kernel, d_bias = carry
            h = chunk(padded, i)
            part, e, total = forward(h, chunk(target_logit, i), kernel, bias)
            share = chunk(weight, i)[:, None] / total
            if coarse:
                one_hot = ops.one_hot(chunk(targets, i), classes)
                e = e - total * ops.cast(one_hot, "float32")
            if has_bias:
                # A product: XLA's CPU column sum costs ten times it.
                d_bias = d_bias + ops.matmul(ops.transpose(share), e)[0]
            e = ops.cast(e, h.dtype)
            share = ops.cast(share, h.dtype)
            d_h = ops.matmul(e, kernel if transpose else ops.transpose(kernel))
            d_k = ops.matmul(ops.transpose(h * share), e)
            return (
                write(nll, i, part),
                write(d_hidden, i, d_h * share),
                d_kernel + ops.cast(d_k, "float32"),
                d_bias,
            )

        nll, d_hidden, d_kernel, d_bias = ops.fori_loop(
            0,
            chunks,
            body,
            (
                ops.zeros_like(weight),
                ops.zeros_like(padded),
                ops.zeros((width, classes), "float32"),
                ops.zeros(bias.shape, "float32"),
            ),
        )
        if not coarse:
            w = weight[:, None]
            d_hidden = d_hidden - w * rows
            own = ops.segment_sum(padded * w, targets, num_segments=classes)
            d_kernel = d_kernel - ops.transpose(own)
            own = ops.segment_sum(weight, targets, num_segments=classes)
            d_bias = d_bias - own if has_bias else d_bias
        if transpose:
            d_kernel = ops.transpose(d_kernel)

        def gradient(*args, upstream=None):
            # JAX and TensorFlow call gradient(upstream), PyTorch
            # gradient(*inputs, upstream=upstream).
            u = args[0][0] if upstream is None else upstream[0]
            return (
                d_hidden[:length] * ops.cast(u, d_hidden.dtype),
                ops.cast(d_kernel * u, kernel.dtype),
                ops.cast(d_bias * u, bias.dtype),
            )

        packed = ops.concatenate([ops.sum(nll * weight)[None], nll])
        return packed, gradient

    # Reading through an operation turns a variable into a tensor, which is
    # all that TensorFlow's custom gradients may see.
    bias = ops.zeros((1,)) if bias is None else bias
    kernel, bias = (ops.reshape(x, x.shape) for x in (kernel, bias))
    if with_gradient:
        packed = ops.custom_gradient(differentiate)(hidden, kernel, bias)
    else:
        packed = evaluate(hidden, kernel, bias)
    nll = ops.stop_gradient(packed[1:][:length])
    return packed[0], ops.reshape(nll, shape)
