import pytest
from orrery.datasets.words import join_words, split_words


@pytest.mark.parametrize(
    "text, words",
    [
        ("", []),
        (" \n\t", []),
        ("Don't stop, O’Neill!", "Don 't stop , O ’Neill !"),
        ("the 'quoted' dogs'", "the ' quoted ' dogs '"),
        (">>> f(**x) ... ====", ">>> f ( ** x ) ... === ="),
        ("naïve 東京 x_1 3.5", "naïve 東京 x_1 3 . 5"),
        (
            "a <unk> well @-@ known 1 @,@ 000",
            "a <unk> well @-@ known 1 @,@ 000",
        ),
    ],
)
def test_split(text, words):
    assert split_words(text) == (words if words == [] else words.split())


def test_nothing_visible_is_lost():
    text = "x = {'a': [1, 2]}  # it's #1 -- \"really\"?\n\tyes…"
    assert "".join(split_words(text)) == "".join(text.split())


@pytest.mark.parametrize(
    "words, line",
    [
        ("", ""),
        ("It 's 1 @,@ 500 m .", "It's 1,500 m."),
        ("a well @-@ known cat ( or two ) , yes !", None),
        ("= Homarus gammarus =", "= Homarus gammarus ="),
        ("( ( a ) )", "((a))"),
    ],
)
def test_join(words, line):
    line = "a well-known cat (or two), yes!" if line is None else line
    assert join_words(words.split()) == line
