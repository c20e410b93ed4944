"""How the original turned text into ids and windows."""

import numpy as np

UNKNOWN, PAD = "<unk>", "<pad>"


def split_tokens(text):
    """Lower-cased words between white space; lines leave no mark."""
    return text.lower().split()


def published_vocabulary(texts):
    """Ids by first appearance, over all of train and then of valid (fault 1).

    Args:
        texts: dict of `"train"` and `"valid"`, the texts, as `Corpus.texts`.

    Returns:
        A dict from a word to its id; `<unk>` is 0 and `<pad>` 1. On the raw
        files of WikiText-2 it has 69,830 entries, `<unk>` stands for nothing.
    """
    ids = {UNKNOWN: 0, PAD: 1}
    for split in ("train", "valid"):
        for word in split_tokens(texts[split]):
            ids.setdefault(word, len(ids))
    return ids


def encode(text, vocabulary):
    """The ids of a text, int32 `(n,)`."""
    return np.array([vocabulary[word] for word in split_tokens(text)], "int32")


def published_batches(ids, batch_size=64, length=32):
    """Windows in the order of the text, one behind the other, never shuffled.

    Window i reads `ids[length i : length (i + 1)]` and predicts the same, one
    further. `batch_size` in a row are a batch, and what is no whole batch is
    left out.

    Args:
        ids: int array `(n,)`.
        batch_size: int, windows. Defaults to `64`.
        length: int, tokens of a window. Defaults to `32`.

    Returns:
        A list of pairs of int32 arrays `(batch_size, length)`. 330,000 ids
        give 161, 66,000 give 32.

    Raises:
        ValueError: if the ids are too few for a batch.
    """
    count = max(0, len(ids) - 1) // length // batch_size * batch_size
    if not count:
        raise ValueError(
            f"`ids` must hold {batch_size * length + 1} tokens for a batch of "
            f"{batch_size} windows. Received: {len(ids)}"
        )
    size = count * length
    x, y = (
        np.asarray(part, "int32").reshape(-1, batch_size, length)
        for part in (ids[:size], ids[1 : size + 1])
    )
    return list(zip(x, y, strict=True))


def published_data(texts, samples=10_000, batch_size=64, length=32):
    """What the original trained and evaluated on.

    Args:
        texts: dict of `"train"` and `"valid"`.
        samples: int; `samples (length + 1)` tokens of train are used, and of
            valid a fifth as many. Defaults to `10_000`.
        batch_size: int. Defaults to `64`.
        length: int. Defaults to `32`.

    Returns:
        The batches of train, those of valid, and the size of the vocabulary.
    """
    vocabulary = published_vocabulary(texts)
    counts = {"train": samples, "valid": int(samples * 0.2)}
    train, valid = (
        published_batches(
            encode(texts[split], vocabulary)[: count * (length + 1)],
            batch_size,
            length,
        )
        for split, count in counts.items()
    )
    return train, valid, len(vocabulary)
