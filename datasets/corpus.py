"""What every reader of text returns, and where files are kept."""

import collections.abc
import contextlib
import dataclasses
import hashlib
import os
import pathlib

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Text in splits, with the record of where it came from.

    Args:
        name: string, the data set.
        texts: dict from split (`"train"`, `"valid"`, `"test"`) to its text.
        source: string, where the text comes from.
        licence: string.
        sha256: string, hash of the file that was read or, where the text has
            no single file, of its words; see `hash_words`.
        version: string, which of several known states of the source this is.
            Defaults to `""`, there is only one.
        tokenise: function from a text to its list of words. Defaults to
            `str.split`, for words separated by white space.
        remarks: JSON-plain dict, what else a card should say. Defaults to
            `{}`.
    """

    name: str
    texts: dict
    source: str
    licence: str
    sha256: str
    version: str = ""
    tokenise: collections.abc.Callable = str.split
    remarks: dict = dataclasses.field(default_factory=dict)

    def words(self, split):
        """The list of the words of a split."""
        return self.tokenise(self.texts[split])


def cache_dir():
    """The folder for downloads: `ORRERY_CACHE`, else `~/.cache/orrery`."""
    folder = os.environ.get("ORRERY_CACHE") or "~/.cache/orrery"
    return pathlib.Path(folder).expanduser()


def file_sha256(path):
    """The SHA-256 of the bytes of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_words(words):
    """The SHA-256 of words joined by newlines in UTF-8, hexadecimal."""
    return hashlib.sha256("\n".join(words).encode("utf-8")).hexdigest()


@contextlib.contextmanager
def replacing(path):
    """Lets a file appear under its name only once it is complete.

    Args:
        path: path of the file to write; its folder is made if need be.

    Yields:
        The path of a temporary file beside it to write to. It is renamed at
        the end, and removed if there was an error.

    Raises:
        OSError: if the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
