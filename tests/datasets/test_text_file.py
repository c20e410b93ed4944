import pytest
from orrery.datasets.text_file import read_text_file

WORDS = [f"word{i}" for i in range(1000)]


def test_splits_are_contiguous_and_cut_no_word(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" ".join(WORDS))
    corpus = read_text_file(path)
    pieces = [corpus.words(split) for split in ("train", "valid", "test")]
    assert sum(pieces, []) == WORDS
    assert [round(len(piece) / 1000, 2) for piece in pieces] == [0.8, 0.1, 0.1]
    assert corpus.source == "a.txt"


def test_several_files_are_one_text(tmp_path):
    for name, words in (("a", WORDS[:300]), ("b", WORDS[300:])):
        (tmp_path / name).write_text(" ".join(words))
    corpus = read_text_file([tmp_path / "a", tmp_path / "b"], whole=True)
    assert list(corpus.texts) == ["test"]
    assert corpus.words("test") == WORDS


def test_text_in_the_format_of_wikitext_is_split_at_white_space(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("The U.S. <unk> well @-@ known don't . ")
    words = read_text_file(path, whole=True).words("test")
    assert words == "The U.S. <unk> well @-@ known don't .".split()
    path.write_text("The well-known <unk>, and so on.")
    corpus = read_text_file(path, whole=True, marked=True)
    assert corpus.words("test")[1:5] == ["well", "@-@", "known", "<unk>"]
    assert corpus.remarks == {"words": "split"}
    path.write_text("The U.S. don't.")
    words = read_text_file(path, whole=True).words("test")
    assert words == "The U . S . don 't .".split()


def test_byte_order_mark_is_no_word(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone two")
    assert read_text_file(path, whole=True).words("test") == ["one", "two"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the text is empty"),
        (b" \n\t ", "the text is empty"),
        (b"one two", "too short to be cut.*2 words"),
        (b"PK\x03\x04\x00\x00", "must be a UTF-8 text file.*NUL"),
        (b"caf\xe9 au lait", "must be a UTF-8 text file.*position 3"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text_file(path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.txt"):
        read_text_file(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="at least one"):
        read_text_file([])
