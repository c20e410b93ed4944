"""What a person asks a language model to continue, as checked ids."""

import numpy as np


def read_prompts(prompt, vocabulary, vocabulary_size):
    """Turn one prompt or a batch of them into ids.

    Args:
        prompt: a string or a sequence of ids; or a sequence of these.
        vocabulary: object of V tokens with `encode(text)`, or `None`.
        vocabulary_size: int, V; ids must be in `[0, V)`.

    Returns:
        A list of int32 arrays `(n,)`, whether they were text, and whether
        they were a batch.

    Raises:
        TypeError: if ids are not integers, or text and ids are mixed.
        ValueError: if a prompt is empty or out of range, text is given
            without a vocabulary, or that is of another size.
    """
    if vocabulary is not None and len(vocabulary) != vocabulary_size:
        raise ValueError(
            "`vocabulary` must have the model's vocabulary_size. Received: "
            f"{len(vocabulary)} tokens for vocabulary_size={vocabulary_size}"
        )
    is_batch = not isinstance(prompt, str) and (
        len(prompt) > 0 and (isinstance(prompt[0], str) or np.ndim(prompt[0]))
    )
    rows = prompt if is_batch else [prompt]
    is_text = isinstance(rows[0], str)
    if any(isinstance(row, str) != is_text for row in rows):
        raise TypeError(
            "`prompt` must be text in every row, or ids in every row. "
            f"Received: {prompt!r}"
        )
    if is_text and vocabulary is None:
        raise ValueError(
            "A text `prompt` needs a `vocabulary` to encode it. Received: "
            f"prompt={prompt!r}, vocabulary=None"
        )
    if is_text:
        rows = [vocabulary.encode(row) for row in rows]
    rows = [check_tokens("prompt", row, vocabulary_size) for row in rows]
    if not all(map(len, rows)):
        raise ValueError(
            "`prompt` must hold at least one token in every row. "
            f"Received: {prompt!r}"
        )
    return rows, is_text, bool(is_batch)


def check_tokens(name, ids, vocabulary_size):
    """The int32 array `(n,)` of the sequence `ids` of argument `name`."""
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(
            f"`{name}` must be a sequence of ids. Received: shape {ids.shape}"
        )
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(
            f"`{name}` must hold integer ids. Received: dtype {ids.dtype}"
        )
    wrong = ids[(ids < 0) | (ids >= vocabulary_size)]
    if wrong.size:
        raise ValueError(
            f"`{name}` must hold ids from 0 to {vocabulary_size - 1}. "
            f"Received: {wrong[0]}"
        )
    return ids.astype("int32")


def check_stop_tokens(stop_tokens, vocabulary, vocabulary_size, forbidden):
    """The tuple of ids of `stop_tokens`, or `None` if there are none.

    Args:
        stop_tokens: sequence of ids or of strings of one token, or `None`.
        vocabulary: object with `encode(text)`, or `None`.
        vocabulary_size: int, V.
        forbidden: the ids that are never generated.

    Raises:
        ValueError: if one is not a token, or is never generated.
    """
    ids = []
    for token in () if stop_tokens is None else stop_tokens:
        if isinstance(token, str):
            if vocabulary is None:
                raise ValueError(
                    "`stop_tokens` in text need a `vocabulary`. "
                    f"Received: {token!r}, vocabulary=None"
                )
            encoded = list(vocabulary.encode(token))
            if len(encoded) != 1:
                raise ValueError(
                    "`stop_tokens` must be one token each. Received: "
                    f"{token!r}, which is {len(encoded)}"
                )
            (token,) = encoded
        ids.append(token)
    ids = tuple(check_tokens("stop_tokens", ids, vocabulary_size).tolist())
    if set(ids) & set(forbidden):
        raise ValueError(
            "`stop_tokens` must not be `forbidden`: they would never come. "
            f"Received: stop_tokens={stop_tokens}, which are the ids {ids}, "
            f"and forbidden={forbidden}"
        )
    return ids or None
