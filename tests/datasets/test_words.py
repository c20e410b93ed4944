import pytest
from orrery.datasets.words import is_tokenised, join_words, split_words


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


def test_marks_are_those_of_wikitext():
    text = "A well-known U.S. 1,500.5 m run - so, x-ray."
    words = "A well @-@ known U . S . 1 @,@ 500 @.@ 5 m run - so , x @-@ ray ."
    assert split_words(text, marked=True) == words.split()
    assert split_words(words, marked=True) == words.split()
    assert join_words("1 @,@ 500 @.@ 5".split()) == "1,500.5"


def test_a_page_that_mentions_a_mark_is_plain_text():
    assert is_tokenised("The U.S. <unk> well @-@ known don't . ")
    assert not is_tokenised("The word <unk>, for example, is a mark.")
    assert not is_tokenised("No mark at all .")


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
