"""Word-level vocabulary: the line number of a word is its id."""

import collections
import pathlib

import numpy as np

from .words import split_words

PAD = "<pad>"
UNKNOWN = "<unk>"
VOCABULARY_FILE = "vocabulary.txt"


class Vocabulary:
    """A bijection between words and the ids `0 ... size - 1`.

    `<pad>` is id 0 and `<unk>` id 1; every word that is not in the vocabulary
    is encoded as `<unk>`. A vocabulary built from a text holds its most
    frequent words in the order of `(-count, word)`, so that it depends on the
    counts alone and not on the order of the text.

    Args:
        words: sequence of unique, non-empty strings without white space,
            beginning with `"<pad>", "<unk>"`. The position is the id.

    Raises:
        TypeError: if a word is not a string.
        ValueError: if the first two words are not `<pad>` and `<unk>`, or a
            word is repeated, empty, or contains white space.

    Example:
    >>> vocabulary = Vocabulary.from_words("a rose is a rose".split(), size=4)
    >>> vocabulary.words
    ('<pad>', '<unk>', 'a', 'rose')
    >>> vocabulary.encode(["a", "rose", "is"])
    array([2, 3, 1], dtype=int32)
    >>> vocabulary.decode([2, 3, 1])
    'a rose <unk>'
    """

    pad_id = 0
    unknown_id = 1

    def __init__(self, words):
        words = tuple(words)
        if words[:2] != (PAD, UNKNOWN):
            raise ValueError(
                f"`words` must begin with {PAD!r}, {UNKNOWN!r} (ids 0 and 1). "
                f"Received: {words[:2]!r}"
            )
        self.ids = {}
        for index, word in enumerate(words):
            if not isinstance(word, str):
                raise TypeError(
                    f"`words` must be strings. Received: {word!r} of type "
                    f"{type(word).__name__} at position {index}"
                )
            if word.split() != [word]:
                raise ValueError(
                    "`words` must be non-empty and free of white space. "
                    f"Received: {word!r} at position {index}"
                )
            if word in self.ids:
                raise ValueError(
                    f"`words` must be unique. Received: {word!r} at positions "
                    f"{self.ids[word]} and {index}"
                )
            self.ids[word] = index
        self.words = words

    @classmethod
    def from_words(cls, words, size=None):
        """Builds the vocabulary of the most frequent words of a text.

        Args:
            words: iterable of strings, the running words of the text.
            size: int, largest number of entries, `<pad>` and `<unk>`
                included. Defaults to `None`, all words.

        Returns:
            A `Vocabulary` of at most `size` entries.

        Raises:
            ValueError: if `size` is below 3 or the text has no words.
        """
        if size is not None and size < 3:
            raise ValueError(
                "`size` counts <pad>, <unk> and at least one word, so it must "
                f"be at least 3. Received: size={size}"
            )
        counts = collections.Counter(words)
        if not counts:
            raise ValueError("`words` is empty: no vocabulary can be built.")
        counts.pop(PAD, None)
        counts.pop(UNKNOWN, None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(
            (PAD, UNKNOWN, *ranked[: None if size is None else size - 2])
        )

    @classmethod
    def load(cls, path):
        """Reads `vocabulary.txt`: one word per line, the first line is id 0.

        Args:
            path: string or path of a UTF-8 text file.

        Returns:
            A `Vocabulary`.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if the file is not a vocabulary.
        """
        path = pathlib.Path(path)
        try:
            return cls(path.read_text("utf-8").splitlines())
        except ValueError as error:  # A UnicodeDecodeError is one, too.
            raise ValueError(f"{path} is not a vocabulary: {error}") from error

    def save(self, path):
        """Writes `vocabulary.txt`: one word per line, the first line is id 0.

        Args:
            path: string or path of the file to write, or of a folder that
                receives `vocabulary.txt`.
        """
        path = pathlib.Path(path)
        if path.is_dir():
            path = path / VOCABULARY_FILE
        text = "\n".join(self.words) + "\n"
        path.write_bytes(text.encode("utf-8"))

    def encode(self, words):
        """Turns words into ids; unknown words become `<unk>`.

        Args:
            words: iterable of strings, or one string as a person types it. A
                string is split at white space; what the vocabulary then lacks
                is split further by `split_words`.

        Returns:
            int32 array `(n,)`, one id per word.
        """
        if isinstance(words, str):
            words = [
                word
                for chunk in words.split()
                for word in (
                    [chunk]
                    if chunk in self
                    else split_words(chunk, self.marked)
                )
            ]
        get, unknown = self.ids.get, self.unknown_id
        return np.array([get(word, unknown) for word in words], "int32")

    def decode(self, ids):
        """Turns ids into words joined by spaces.

        Args:
            ids: integer array-like of any shape; it is flattened.

        Returns:
            A string.

        Raises:
            ValueError: if an id is not in `0 ... size - 1`.
        """
        ids = check_ids(ids, len(self)).reshape(-1)
        return " ".join(self.words[index] for index in ids.tolist())

    @property
    def marked(self):
        """Whether words were taken apart with WikiText's marks."""
        return "@-@" in self

    def __len__(self):
        return len(self.words)

    def __contains__(self, word):
        return word in self.ids

    def __eq__(self, other):
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self):
        return hash(self.words)

    def __repr__(self):
        return f"Vocabulary({len(self)} words)"


def check_ids(ids, vocabulary_size=None):
    """Returns `ids` as an integer array after checking their range.

    Args:
        ids: integer array-like.
        vocabulary_size: int, the ids allowed are `0 ... vocabulary_size - 1`.
            Defaults to `None`, every id that is not negative.

    Returns:
        NumPy integer array of the same shape.

    Raises:
        TypeError: if `ids` are not integers.
        ValueError: if an id is out of range; names the first such id.
    """
    ids = np.asarray(ids)
    if ids.size == 0:
        return ids.astype("int32")
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"`ids` must be integers. Received: dtype={ids.dtype}")
    wrong = ids < 0
    allowed = "at least 0"
    if vocabulary_size is not None:
        wrong |= ids >= vocabulary_size
        allowed = f"between 0 and {vocabulary_size - 1}"
    if wrong.any():
        position = int(np.argmax(wrong))
        raise ValueError(
            f"`ids` must be {allowed}. Received: {ids.flat[position]} at "
            f"position {position}"
        )
    return ids
