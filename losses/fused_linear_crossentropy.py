"""The cross-entropy of a linear head that never builds its logits."""

from keras import ops

CHUNK_SIZE = 256


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
    forward pass also forms its gradient: `G = (softmax(S) - onehot(y)) w / T`,
    `dH = G W^T`, `dW += H^T G`, `db += 1^T G`; the backward pass only scales
    them by the upstream scalar. Three matrix products are all it costs, as
    many as the naive head needs. Softmax and sums are float32 under any dtype
    policy.

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
        chunk_size: int, tokens per chunk. Defaults to 256.
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

    def forward(h, kernel, bias, i):
        """Per-token NLL and the softmax pieces of chunk i."""
        s = logits(h, kernel, bias)
        s = s - ops.max(s, axis=-1, keepdims=True)
        e = ops.exp(s)
        total = ops.sum(e, axis=-1, keepdims=True)
        picked = ops.take_along_axis(s, chunk(targets, i)[:, None], axis=-1)
        nll = (ops.log(total) - picked)[:, 0]
        return nll, e, total

    def evaluate(hidden, kernel, bias):
        padded = ops.pad(hidden, ((0, missing), (0, 0)))

        def body(i, nll):
            part, *_ = forward(chunk(padded, i), kernel, bias, i)
            return write(nll, i, part)

        nll = ops.fori_loop(0, chunks, body, ops.zeros_like(weight))
        return ops.concatenate([ops.sum(nll * weight)[None], nll])

    def differentiate(hidden, kernel, bias):
        """The gradient with respect to the logits is `w (e / total - 1_y)`.

        The softmax part is never formed: its factor per token scales the
        narrow side of each product. The part of the target is a row of the
        kernel, and a sum into one, with which the sums over chunks begin.
        """
        padded = ops.pad(hidden, ((0, missing), (0, 0)))

        def body(i, carry):
            nll, d_hidden, d_kernel, d_bias = carry
            h = chunk(padded, i)
            part, e, total = forward(h, kernel, bias, i)
            share = chunk(weight, i)[:, None] / total
            if has_bias:
                # A product: XLA's CPU column sum costs ten times it.
                d_bias = d_bias + ops.matmul(ops.transpose(share), e)[0]
            e = ops.cast(e, h.dtype)
            scaled = h * ops.cast(share, h.dtype)
            if transpose:
                d_h = ops.matmul(e, kernel)
                d_k = ops.matmul(ops.transpose(e), scaled)
            else:
                d_h = ops.matmul(e, ops.transpose(kernel))
                d_k = ops.matmul(ops.transpose(scaled), e)
            return (
                write(nll, i, part),
                write(d_hidden, i, d_h * ops.cast(share, h.dtype)),
                d_kernel + ops.cast(d_k, "float32"),
                d_bias,
            )

        w = ops.cast(weight, padded.dtype)[:, None]
        own = ops.segment_sum(
            ops.cast(padded * -w, "float32"), targets, num_segments=classes
        )
        own_bias = ops.zeros(bias.shape, dtype="float32")
        if has_bias:
            own_bias = ops.segment_sum(-weight, targets, num_segments=classes)
        nll, d_hidden, d_kernel, d_bias = ops.fori_loop(
            0,
            chunks,
            body,
            (
                ops.zeros_like(weight),
                ops.zeros_like(padded),
                own if transpose else ops.transpose(own),
                own_bias,
            ),
        )
        rows = ops.take(kernel, targets, axis=0 if transpose else 1)
        d_hidden = d_hidden - w * (rows if transpose else ops.transpose(rows))

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
