"""Plain text to words and back."""

import re

_WORD = re.compile(
    r"<unk>|@[-,.]@"  # What already tokenised text holds.
    r"|(?<=\w)['’]\w+|\w+"  # Don't -> Don 't, the dog's -> the dog 's.
    r"|([^\w\s])\1{0,2}"  # >>> and ... and ** are one word, no rule is.
)
# WikiText marks what it took apart: well @-@ known, 1 @,@ 500, 3 @.@ 5.
_INNER = re.compile(r"(?<=\w)-(?=\w)|(?<=\d)[,.](?=\d)")
_GLUED = re.compile(r"[\w>][,;:!?)]$")
_NO_SPACE_BEFORE = re.compile(r" (?=(?:[.,;:!?%)\]}]|\.\.\.|['’]\w+)(?: |$))")
_NO_SPACE_AFTER = re.compile(r"(?:(?<=^)|(?<= ))([(\[{$]) ")
_JOINED = re.compile(r" @([-,.])@ ")


def split_words(text, marked=False):
    """Splits plain text into words and punctuation.

    A word is a run of letters, digits and underscores. What follows an
    apostrophe inside a word is a word of its own (`"Don 't"`), and so is every
    run of at most three equal punctuation marks. Text in the format of
    WikiText keeps its `<unk>`, `@-@`, `@,@` and `@.@`.

    Args:
        text: string.
        marked: bool, whether a hyphen within a word and a comma or point within
            a number become `@-@`, `@,@` and `@.@`, as in WikiText. Defaults to
            `False`.

    Returns:
        List of strings without white space.

    Example:
    >>> split_words("Don't call os.path_join(a, 2)!")
    ['Don', "'t", 'call', 'os', '.', 'path_join', '(', 'a', ',', '2', ')', '!']
    """
    if marked:
        text = _INNER.sub(r" @\g<0>@ ", text)
    return [match.group() for match in _WORD.finditer(text)]


def is_tokenised(text):
    """Whether white space already separates all words, as in WikiText.

    It does where WikiText's marks occur, and fewer than one word in a hundred
    has a comma or the like behind it: a page that only speaks of `<unk>` is
    plain text.

    Args:
        text: string.

    Returns:
        A bool.

    Example:
    >>> is_tokenised("well @-@ known , <unk>"), is_tokenised("<unk>, well")
    (True, False)
    """
    words = text.split()
    glued = sum(_GLUED.search(word) is not None for word in words)
    marks = "<unk>" in text or "@-@" in text
    return marks and glued < 0.01 * len(words)


def join_words(words):
    """Joins words into a line for people: `a rose , a rose .` reads as text.

    This is for display only: where the original had spaces is not known.

    Args:
        words: iterable of strings.

    Returns:
        A string.

    Example:
    >>> join_words("It 's a well @-@ known rose ( or two ) .".split())
    "It's a well-known rose (or two)."
    """
    line = _JOINED.sub(r"\1", " ".join(words))
    return _NO_SPACE_AFTER.sub(r"\1", _NO_SPACE_BEFORE.sub("", line))
