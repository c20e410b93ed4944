"""Bytes as tokens: the vocabulary that has to be learned from nothing."""

import pathlib

import numpy as np

from .vocabulary import VOCABULARY_FILE, check_ids

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


class ByteVocabulary:
    """The 256 bytes of UTF-8, with the methods of `Vocabulary`.

    A byte is its own id. Any text is encoded without loss, so nothing is
    unknown; text has no byte 0, which may stand for padding. A perplexity per
    byte cannot be compared with one per word: a loss of x nats per byte is
    `x bytes / words` nats per word.

    Example:
    >>> vocabulary = ByteVocabulary()
    >>> vocabulary.encode("Ol\u00e9")
    array([ 79, 108, 195, 169], dtype=int32)
    >>> vocabulary.decode([79, 108, 195, 169])
    'Ol\u00e9'
    """

    pad_id = 0
    unknown_id = -1
    words = BYTES

    @classmethod
    def load(cls, path):
        """Reads `vocabulary.txt`, 256 lines from `<0x00>` to `<0xFF>`.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it says anything else.
        """
        path = pathlib.Path(path)
        if tuple(path.read_text("utf-8").splitlines()) != BYTES:
            raise ValueError(
                f"{path} is not the vocabulary of bytes, 256 lines from "
                f"{BYTES[0]} to {BYTES[-1]}"
            )
        return cls()

    def save(self, path):
        """Writes `vocabulary.txt`, one byte per line in hexadecimal.

        Args:
            path: string or path of the file to write, or of a folder that
                receives `vocabulary.txt`.
        """
        path = pathlib.Path(path)
        if path.is_dir():
            path = path / VOCABULARY_FILE
        path.write_bytes(("\n".join(BYTES) + "\n").encode("ascii"))

    def encode(self, text):
        """Turns a string into the int32 array `(n,)` of its bytes."""
        return np.frombuffer(text.encode("utf-8"), "uint8").astype("int32")

    def decode(self, ids):
        """Turns bytes into a string; what is no UTF-8 becomes U+FFFD.

        Raises:
            ValueError: if an id is not in `0 ... 255`.
        """
        ids = check_ids(ids, len(self)).reshape(-1)
        return ids.astype("uint8").tobytes().decode("utf-8", errors="replace")

    def __len__(self):
        return len(BYTES)

    def __eq__(self, other):
        return isinstance(other, ByteVocabulary)

    def __hash__(self):
        return hash(BYTES)

    def __repr__(self):
        return "ByteVocabulary()"
