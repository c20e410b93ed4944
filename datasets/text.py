"""The front door to text: a name or a file in, streams of ids out."""

import dataclasses
import os
import pathlib

import numpy as np

from .blocks import blocks, check_length
from .byte_pair import TOKENS_FILE, BytePairVocabulary
from .byte_vocabulary import BYTES, ByteVocabulary
from .stdlib import read_stdlib
from .text_file import read_text_file
from .vocabulary import VOCABULARY_FILE, Vocabulary
from .wikitext2 import read_wikitext2

READERS = {"stdlib": read_stdlib, "wikitext2": read_wikitext2}
VOCABULARY_SIZES = {"stdlib": 8_000, "wikitext2": 30_000, "text_file": 30_000}
BYTE_PAIR_SIZE = 8_000
TOKENIZERS = {
    "word": Vocabulary,
    "byte_pair": BytePairVocabulary,
    "byte": ByteVocabulary,
}


@dataclasses.dataclass(frozen=True)
class TextData:
    """A text as streams of ids, with all that is needed to read it again.

    Args:
        name: string, the data set.
        splits: dict from split (`"train"`, `"valid"`, `"test"`) to an int32
            array `(n,)`.
        vocabulary: the `Vocabulary`, `BytePairVocabulary` or `ByteVocabulary`
            of the ids.
        metadata: JSON-plain dict: source, licence, sha256, version, tokenizer,
            vocabulary_size, sequence_length, remarks and, per split, tokens,
            blocks and unknown_rate (the part of the tokens that is `<unk>`).
        sequence_length: int, tokens per example.
    """

    name: str
    splits: dict
    vocabulary: Vocabulary | BytePairVocabulary | ByteVocabulary
    metadata: dict
    sequence_length: int = 128

    def blocks(self, split):
        """The examples of a split.

        Args:
            split: string, a key of `splits`.

        Returns:
            Tuple `(x, y)` of int32 arrays `(blocks, sequence_length)`; see
            `orrery.datasets.blocks`.

        Raises:
            ValueError: if there is no such split or it is too short.
        """
        if split not in self.splits:
            raise ValueError(
                f"`split` must be one of {sorted(self.splits)}. Received: "
                f"split={split!r}"
            )
        return blocks(
            self.splits[split], self.sequence_length, len(self.vocabulary)
        )


def load_text(
    name,
    tokenizer="word",
    sequence_length=128,
    data_dir=None,
    vocabulary=None,
    vocabulary_size=None,
    whole=False,
):
    """Loads a text as streams of ids.

    Args:
        name: `"stdlib"` (the docstrings of Python's standard library, always
            there), `"wikitext2"`, or the path of a UTF-8 text file or a list
            of such paths.
        tokenizer: `"word"`, `"byte_pair"` or `"byte"`, used where `vocabulary`
            is `None`. Defaults to `"word"`.
        sequence_length: int, tokens per example. Defaults to `128`.
        data_dir: string or path, folder of downloaded data files. Defaults to
            `None`: `ORRERY_DATA_DIR`, the cache, the network.
        vocabulary: the vocabulary of a trained model, or the path of its
            `vocabulary.txt`, or the folder that holds its vocabulary. Defaults
            to `None`, a new one from the split `train`.
        vocabulary_size: int, size of a new vocabulary. Defaults to `None`:
            30,000 words, 8,000 for stdlib and for byte pairs, always 256 for
            bytes.
        whole: bool, whether the whole of a text file becomes the split `test`,
            to score it with a trained model. Defaults to `False`.

    Returns:
        A `TextData`.

    Raises:
        ValueError: if an argument is not allowed; names what is.
        FileNotFoundError: if a data file or a vocabulary is not there.
        ConnectionError: if a data set must be downloaded and cannot be.

    Example:
    ```python
    data = load_text("wikitext2", data_dir="downloads")
    train = LanguageBatches(*data.blocks("train"), seed=0)
    valid = LanguageBatches(*data.blocks("valid"), shuffle=False)
    data.vocabulary.save("vocabulary.txt")
    ```
    """
    check_length(sequence_length, "sequence_length")
    if tokenizer not in TOKENIZERS:
        raise ValueError(
            f"`tokenizer` must be one of {tuple(TOKENIZERS)}. Received: "
            f"tokenizer={tokenizer!r}"
        )
    if vocabulary is not None and vocabulary_size is not None:
        raise ValueError(
            "`vocabulary_size` sizes a new vocabulary and cannot be given "
            f"beside `vocabulary`. Received: vocabulary_size={vocabulary_size}"
        )
    if isinstance(vocabulary, (str, os.PathLike)):
        vocabulary = load_vocabulary(vocabulary)
    marked = isinstance(vocabulary, Vocabulary) and vocabulary.marked
    corpus = _read(name, data_dir, whole, marked)
    if vocabulary is None:
        vocabulary = _build_vocabulary(corpus, tokenizer, vocabulary_size)
    by_word = isinstance(vocabulary, Vocabulary)
    splits = {
        split: vocabulary.encode(corpus.words(split) if by_word else text)
        for split, text in corpus.texts.items()
    }
    metadata = {
        "name": corpus.name,
        "source": corpus.source,
        "licence": corpus.licence,
        "sha256": corpus.sha256,
        "version": corpus.version,
        "tokenizer": next(
            name
            for name, kind in TOKENIZERS.items()
            if isinstance(vocabulary, kind)
        ),
        "vocabulary_size": len(vocabulary),
        "sequence_length": sequence_length,
        "tokens": {split: len(ids) for split, ids in splits.items()},
        "blocks": {
            split: len(ids) // (sequence_length + 1)
            for split, ids in splits.items()
        },
        "unknown_rate": {
            split: float(np.mean(ids == vocabulary.unknown_id))
            for split, ids in splits.items()
        },
        "remarks": corpus.remarks,
    }
    return TextData(corpus.name, splits, vocabulary, metadata, sequence_length)


def load_vocabulary(path):
    """Loads `vocabulary.txt`, or what a folder holds of either kind.

    Args:
        path: path of a `vocabulary.txt`, or of a folder with `vocabulary.txt`
            or with `vocabulary.json` and `merges.txt`.

    Returns:
        A `Vocabulary`, a `BytePairVocabulary` or a `ByteVocabulary`.

    Raises:
        FileNotFoundError: if there is no vocabulary.
        ValueError: if it is not a vocabulary.
    """
    path = pathlib.Path(path).expanduser()
    if (path / TOKENS_FILE).is_file():
        return BytePairVocabulary.load(path)
    if path.is_dir():
        path = path / VOCABULARY_FILE
    if not path.is_file():
        raise FileNotFoundError(f"There is no vocabulary {str(path)!r}.")
    if path.read_text("utf-8", errors="replace").startswith(BYTES[0]):
        return ByteVocabulary.load(path)
    return Vocabulary.load(path)


def _read(name, data_dir, whole, marked):
    if isinstance(name, str) and name in READERS:
        if whole:
            raise ValueError(
                "`whole` is for text files: a data set has its own split test. "
                f"Received: whole={whole} with {name!r}"
            )
        return READERS[name](data_dir=data_dir)
    if isinstance(name, str) and not os.path.exists(name):
        raise ValueError(
            f"`name` must be one of {sorted(READERS)} or the path of a text "
            f"file. Received: name={name!r}, and there is no such file"
        )
    return read_text_file(name, whole, marked)


def _build_vocabulary(corpus, tokenizer, size):
    if "train" not in corpus.texts:
        raise ValueError(
            "`vocabulary` must be given with `whole=True`: a text that is only "
            "scored has no training split to build one from."
        )
    if tokenizer == "byte":
        if size not in (None, len(BYTES)):
            raise ValueError(
                f"`vocabulary_size` of bytes is {len(BYTES)}. Received: "
                f"vocabulary_size={size}"
            )
        return ByteVocabulary()
    if tokenizer == "byte_pair":
        return BytePairVocabulary.from_text(
            corpus.texts["train"], BYTE_PAIR_SIZE if size is None else size
        )
    return Vocabulary.from_words(
        corpus.words("train"),
        VOCABULARY_SIZES[corpus.name] if size is None else size,
    )
