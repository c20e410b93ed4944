import numpy as np
import pytest
from orrery.datasets.vocabulary import Vocabulary, check_ids

TEXT = "the cat saw the dog and the dog saw a <unk> cat".split()


def test_most_frequent_words_first_ties_by_word():
    vocabulary = Vocabulary.from_words(TEXT)
    assert vocabulary.words == (
        *("<pad>", "<unk>", "the", "cat", "dog", "saw", "a", "and"),
    )


def test_the_order_of_the_text_does_not_matter():
    assert Vocabulary.from_words(TEXT) == Vocabulary.from_words(TEXT[::-1])


def test_size_counts_the_special_words():
    vocabulary = Vocabulary.from_words(TEXT, size=4)
    assert len(vocabulary) == 4
    ids = vocabulary.encode(TEXT)
    assert ids.dtype == "int32"
    assert ids.tolist() == [2, 3, 1, 2, 1, 1, 2, 1, 1, 1, 1, 3]


def test_decode_inverts_encode():
    vocabulary = Vocabulary.from_words(TEXT)
    assert vocabulary.decode(vocabulary.encode(TEXT)).split() == TEXT


def test_a_typed_string_keeps_known_words_and_splits_the_rest():
    vocabulary = Vocabulary.from_words(["U.S.", "army", ",", "the", "'s"])
    words = vocabulary.decode(vocabulary.encode("the U.S. army's, the"))
    assert words == "the U.S. army 's , the"


def test_a_typed_string_is_marked_where_the_vocabulary_is():
    words = "well @-@ known 1 @,@ 5 - ,".split()
    marked = Vocabulary.from_words(words)
    assert marked.decode(marked.encode("well-known 1,5")) == (
        "well @-@ known 1 @,@ 5"
    )
    plain = Vocabulary.from_words([word.strip("@") for word in words])
    assert plain.decode(plain.encode("well-known 1,5")) == "well - known 1 , 5"


def test_file_has_one_word_per_line_and_the_line_is_the_id(tmp_path):
    vocabulary = Vocabulary.from_words([*TEXT, "naïve", "東京", "'s"])
    path = tmp_path / "vocabulary.txt"
    vocabulary.save(path)
    lines = path.read_bytes().decode("utf-8").split("\n")
    assert lines[:2] == ["<pad>", "<unk>"] and lines[-1] == ""
    assert lines[:-1] == list(vocabulary.words)
    assert Vocabulary.load(path) == vocabulary


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<unk>\n<pad>\nthe\n",
        b"<pad>\n<unk>\nthe\nthe\n",
        b"<pad>\n<unk>\n\nthe\n",
        b"<pad>\n<unk>\nthe cat\n",
        b"<pad>\n<unk>\n\xff\xfe\n",
    ],
)
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="vocabulary.txt is not a vocabulary"):
        Vocabulary.load(path)


def test_bad_arguments():
    with pytest.raises(ValueError, match="size=2"):
        Vocabulary.from_words(TEXT, size=2)
    with pytest.raises(ValueError, match="empty"):
        Vocabulary.from_words([])
    with pytest.raises(TypeError, match="strings"):
        Vocabulary(["<pad>", "<unk>", 3])


@pytest.mark.parametrize("wrong", [-1, 8, 2**40])
def test_ids_out_of_range_are_named(wrong):
    vocabulary = Vocabulary.from_words(TEXT)
    with pytest.raises(ValueError, match=f"0 and 7.*{wrong} at position 1"):
        vocabulary.decode(np.array([2, wrong]))


def test_check_ids():
    assert check_ids([]).tolist() == []
    assert check_ids([[1, 2]], 3).shape == (1, 2)
    with pytest.raises(TypeError, match="float64"):
        check_ids([1.0])
