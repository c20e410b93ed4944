"""A stream of ids cut into inputs and the next tokens to predict."""

import operator

import numpy as np

from .vocabulary import check_ids


def blocks(ids, length=128, vocabulary_size=None):
    """Cuts one stream of ids into independent training examples.

    Block `k` is `ids[(length + 1) * k : (length + 1) * (k + 1)]`; its first
    `length` ids are the input and its last `length` ids the targets, so that
    `y[k, t] == x[k, t + 1]`. The remainder of the stream is dropped.

    Args:
        ids: integer array-like `(n,)`, the stream.
        length: int, tokens per example. Defaults to `128`.
        vocabulary_size: int, ids must lie below it. Defaults to `None`, which
            checks only that they are not negative.

    Returns:
        Tuple `(x, y)` of int32 arrays `(n // (length + 1), length)`.

    Raises:
        TypeError: if `ids` are not integers.
        ValueError: if `length` is below 1, `ids` is not one-dimensional, an id
            is out of range, or the stream is shorter than one block.

    Example:
    >>> x, y = blocks([5, 6, 7, 8, 9, 10, 11], length=2)
    >>> x.tolist(), y.tolist()
    ([[5, 6], [8, 9]], [[6, 7], [9, 10]])
    """
    length = check_length(length)
    ids = check_ids(ids, vocabulary_size)
    if ids.ndim != 1:
        raise ValueError(
            f"`ids` must be one stream of shape (n,). Received: {ids.shape}"
        )
    count = len(ids) // (length + 1)
    if count == 0:
        raise ValueError(
            f"`ids` is too short a text: one block of length={length} needs "
            f"{length + 1} tokens. Received: {len(ids)} tokens"
        )
    rows = ids[: count * (length + 1)].reshape(count, length + 1)
    x = np.ascontiguousarray(rows[:, :-1], "int32")
    y = np.ascontiguousarray(rows[:, 1:], "int32")
    assert np.array_equal(y[:, :-1], x[:, 1:])
    return x, y


def check_length(length, name="length"):
    """Returns the number of tokens of an example after checking it.

    Args:
        length: int.
        name: str, the argument to name in an error. Defaults to `"length"`.

    Raises:
        TypeError: if `length` is not an integer.
        ValueError: if it is below 1.
    """
    length = operator.index(length)
    if length < 1:
        raise ValueError(
            f"`{name}` must be at least 1 token. Received: {name}={length}"
        )
    return length
