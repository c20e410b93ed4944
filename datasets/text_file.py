"""Any text file of the user as a data set."""

import functools
import hashlib
import os
import pathlib

from .corpus import SPLITS, Corpus
from .words import is_tokenised, split_words


def read_text_file(paths, whole=False, marked=False):
    """Reads one or several UTF-8 text files as one text.

    A text that `is_tokenised` like WikiText is split at white space; every
    other text is split by `split_words`. The remarks say which. The first 80 %
    of the characters are the training text, the next 10 % the validation and
    the last 10 % the test text; every cut is moved to the next white space.

    Args:
        paths: string or path of a file, or a list of them, read in this order.
        whole: bool, whether the text is not cut and is all of the split
            `test`, to score it with a trained model. Defaults to `False`.
        marked: bool, see `split_words`: for a vocabulary that has `@-@`.
            Defaults to `False`.

    Returns:
        A `Corpus`; its `sha256` is that of the bytes of all files.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if `paths` is empty, a file is binary or not UTF-8, there
            is no word in the files, or too few to cut them in three.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    paths = [pathlib.Path(path).expanduser() for path in paths]
    if not paths:
        raise ValueError("`paths` must name at least one text file.")
    digest = hashlib.sha256()
    parts = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"There is no text file {str(path)!r}.")
        content = path.read_bytes()
        digest.update(content)
        parts.append(_decode(content, path))
    names = ", ".join(path.name for path in paths)
    text = "\n".join(parts)
    if not text.strip():
        raise ValueError(f"{names}: the text is empty.")
    tokenised = is_tokenised(text)
    if whole:
        texts = {"test": text}
    else:
        first = _next_space(text, len(text) * 8 // 10)
        second = _next_space(text, max(first, len(text) * 9 // 10))
        pieces = (text[:first], text[first:second], text[second:])
        if not all(piece.strip() for piece in pieces):
            raise ValueError(
                f"{names}: the text is too short to be cut into {SPLITS}: it "
                f"has {len(text.split())} words."
            )
        texts = dict(zip(SPLITS, pieces, strict=True))
    return Corpus(
        name="text_file",
        texts=texts,
        source=names,
        licence="as its owner says",
        sha256=digest.hexdigest(),
        tokenise=str.split
        if tokenised
        else functools.partial(split_words, marked=marked),
        remarks={"words": "between white space" if tokenised else "split"},
    )


def _decode(content, path):
    try:
        if b"\0" in content:
            raise ValueError("it holds NUL bytes")
        return content.decode("utf-8-sig")
    except ValueError as error:  # A UnicodeDecodeError is one, too.
        raise ValueError(
            f"{path} must be a UTF-8 text file, but is binary or in another "
            f"encoding: {error}"
        ) from error


def _next_space(text, position):
    """The first position from here on that does not cut a word."""
    while position < len(text) and not text[position].isspace():
        position += 1
    return position
