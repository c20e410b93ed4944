"""Byte-pair encoding: merges trained here, applied by keras_hub."""

import json
import pathlib

import numpy as np

from .._backend import import_keras_hub
from .vocabulary import PAD, UNKNOWN, check_ids

TOKENS_FILE = "vocabulary.json"
MERGES_FILE = "merges.txt"
# What keras_hub's tokenizer splits at before it merges: contractions, words
# with the space before them, up to three digits, punctuation, line ends.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class BytePairVocabulary:
    """Byte-level byte-pair encoding with the methods of `Vocabulary`.

    Any text is encoded without loss, so nothing is unknown; `<pad>` (id 0) and
    `<unk>` (id 1) stand for themselves where a text spells them out. A
    perplexity per byte pair cannot be compared with one per word. Needs
    `keras_hub` and, to train, `tokenizers` (`pip install "orrery[text]"`).

    Args:
        vocabulary: dict from token to id, ids `0 ... size - 1`.
        merges: list of strings `"left right"`, the merges in their order.

    Raises:
        ImportError: if keras_hub is not installed.
        ValueError: if the ids are not `0 ... size - 1` or the first two tokens
            are not `<pad>` and `<unk>`.
    """

    pad_id = 0
    unknown_id = 1

    def __init__(self, vocabulary, merges):
        ids = sorted(vocabulary.values())
        if ids != list(range(len(ids))):
            raise ValueError(
                "`vocabulary` must number its tokens 0 ... size - 1. Received: "
                f"{len(ids)} ids between {ids[:1]} and {ids[-1:]}"
            )
        first = vocabulary.get(PAD), vocabulary.get(UNKNOWN)
        if first != (self.pad_id, self.unknown_id):
            raise ValueError(
                f"`vocabulary` must give {PAD!r} and {UNKNOWN!r} the ids 0 and "
                f"1. Received: {first}"
            )
        self.vocabulary = dict(vocabulary)
        self.merges = list(merges)
        self.tokenizer = import_keras_hub().tokenizers.BytePairTokenizer(
            vocabulary=self.vocabulary,
            merges=self.merges,
            unsplittable_tokens=[PAD, UNKNOWN],
        )

    @classmethod
    def from_text(cls, text, size=8_000):
        """Trains the merges that shorten a text most.

        Args:
            text: string.
            size: int, number of tokens: 2 special ones, 256 bytes, and one per
                merge. Fewer if the text has no more pairs that occur twice.
                Defaults to `8000`.

        Returns:
            A `BytePairVocabulary`.

        Raises:
            ImportError: if `tokenizers` or keras_hub is not installed.
            ValueError: if `size` is below 258 or the text is empty.
        """
        if size < 258:
            raise ValueError(
                "`size` counts 256 bytes and 2 special tokens, so it must be "
                f"at least 258. Received: size={size}"
            )
        if not text.strip():
            raise ValueError("`text` is empty: no merges can be trained.")
        try:
            import tokenizers
        except ModuleNotFoundError as error:
            if error.name != "tokenizers":
                raise
            raise ImportError(
                "tokenizers, which trains byte pairs, is not installed. Run: "
                'pip install "orrery[text]"'
            ) from error
        pre = tokenizers.pre_tokenizers
        model = tokenizers.Tokenizer(tokenizers.models.BPE())
        model.pre_tokenizer = pre.Sequence(
            [
                pre.Split(tokenizers.Regex(_SPLIT), "isolated"),
                pre.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=[PAD, UNKNOWN],
            initial_alphabet=sorted(pre.ByteLevel.alphabet()),
            show_progress=False,
        )
        model.train_from_iterator(text.splitlines(keepends=True), trainer)
        trained = json.loads(model.to_str())["model"]
        return cls(
            trained["vocab"], [" ".join(pair) for pair in trained["merges"]]
        )

    @classmethod
    def load(cls, folder):
        """Reads `vocabulary.json` and `merges.txt` from a folder.

        Raises:
            FileNotFoundError: if one of the files does not exist.
            ValueError: if they are not a vocabulary and its merges.
        """
        folder = pathlib.Path(folder)
        vocabulary = (folder / TOKENS_FILE).read_text("utf-8")
        merges = (folder / MERGES_FILE).read_text("utf-8")
        return cls(json.loads(vocabulary), merges.splitlines())

    def save(self, folder):
        """Writes `vocabulary.json` and `merges.txt` into a folder."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = json.dumps(self.vocabulary, ensure_ascii=False, indent=0)
        (folder / TOKENS_FILE).write_text(vocabulary, "utf-8")
        merges = "".join(f"{merge}\n" for merge in self.merges)
        (folder / MERGES_FILE).write_text(merges, "utf-8")

    def encode(self, text):
        """Turns a string into an int32 array `(n,)` of ids."""
        return np.asarray(self.tokenizer.tokenize(text), "int32")

    def decode(self, ids):
        """Turns ids into the string they encode.

        Raises:
            ValueError: if an id is not in `0 ... size - 1`.
        """
        ids = check_ids(ids, len(self)).reshape(-1)
        return self.tokenizer.detokenize(ids.tolist())

    def __len__(self):
        return len(self.vocabulary)

    def __eq__(self, other):
        return (
            isinstance(other, BytePairVocabulary)
            and self.vocabulary == other.vocabulary
            and self.merges == other.merges
        )

    __hash__ = None

    def __repr__(self):
        return f"BytePairVocabulary({len(self)} tokens)"
