"""Plain text to words and back, in the conventions of WikiText."""

import re

_WORD = re.compile(
    r"<unk>|@[-,.]@"  # What already tokenised text holds.
    r"|(?<=\w)['’]\w+|\w+"  # Don't -> Don 't, the dog's -> the dog 's.
    r"|([^\w\s])\1{0,2}"  # >>> and ... and ** are one word, no rule is.
)
_NO_SPACE_BEFORE = re.compile(r" (?=(?:[.,;:!?%)\]}]|\.\.\.|['’]\w+)(?: |$))")
_NO_SPACE_AFTER = re.compile(r"(?:(?<=^)|(?<= ))([(\[{$]) ")
_JOINED = re.compile(r" @([-,.])@ ")


def split_words(text):
    """Splits plain text into words and punctuation.

    A word is a run of letters, digits and underscores. What follows an
    apostrophe inside a word is a word of its own (`"Don 't"`), and so is every
    run of at most three equal punctuation marks. Text in the format of
    WikiText keeps its `<unk>`, `@-@`, `@,@` and `@.@`.

    Args:
        text: string.

    Returns:
        List of strings without white space.

    Example:
    >>> split_words("Don't call os.path_join(a, 2)!")
    ['Don', "'t", 'call', 'os', '.', 'path_join', '(', 'a', ',', '2', ')', '!']
    """
    return [match.group() for match in _WORD.finditer(text)]


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
