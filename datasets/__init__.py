"""Data sets: readers, vocabularies, blocks and batches."""

from .blocks import blocks
from .byte_pair import BytePairVocabulary
from .language_batches import LanguageBatches
from .stdlib import read_stdlib
from .text import TextData, load_text, load_vocabulary
from .text_file import read_text_file
from .vocabulary import Vocabulary
from .wikitext2 import read_wikitext2

__all__ = [
    "BytePairVocabulary",
    "LanguageBatches",
    "TextData",
    "Vocabulary",
    "blocks",
    "load_text",
    "load_vocabulary",
    "read_stdlib",
    "read_text_file",
    "read_wikitext2",
]
