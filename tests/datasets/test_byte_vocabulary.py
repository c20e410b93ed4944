import numpy as np
import pytest
from orrery.datasets import ByteVocabulary, Vocabulary, load_text
from orrery.datasets.text import load_vocabulary

TEXT = "Don't  panic:\n\n\tna\u00efve \u6771\u4eac \U0001f600!"


@pytest.mark.parametrize("text", [TEXT, "", " "])
def test_any_text_comes_back(text):
    vocabulary = ByteVocabulary()
    ids = vocabulary.encode(text)
    assert ids.dtype == "int32" and ids.ndim == 1
    assert ids.tolist() == list(text.encode("utf-8"))
    assert vocabulary.decode(ids) == text
    assert not (ids == vocabulary.unknown_id).any()


def test_half_a_character_is_shown_as_such():
    ids = ByteVocabulary().encode("\u6771")
    assert ByteVocabulary().decode(ids[:2]) == "\ufffd"


def test_files(tmp_path):
    ByteVocabulary().save(tmp_path)
    lines = (tmp_path / "vocabulary.txt").read_text().splitlines()
    assert len(lines) == len(ByteVocabulary()) == 256
    assert lines[:2] == ["<0x00>", "<0x01>"] and lines[-1] == "<0xFF>"
    for path in (tmp_path, tmp_path / "vocabulary.txt"):
        assert load_vocabulary(path) == ByteVocabulary()
    words = tmp_path / "words.txt"
    Vocabulary.from_words(["a"]).save(words)
    assert load_vocabulary(words) == Vocabulary.from_words(["a"])
    with pytest.raises(ValueError, match="256 lines"):
        ByteVocabulary.load(words)


def test_text_of_bytes(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT * 200, "utf-8")
    data = load_text(str(file), "byte", 16)
    assert data.metadata["tokenizer"] == "byte"
    assert data.metadata["vocabulary_size"] == 256
    assert set(data.metadata["unknown_rate"].values()) == {0.0}
    together = np.concatenate(list(data.splits.values()))
    assert len(together) == pytest.approx(len((TEXT * 200).encode()), abs=4)
    data.vocabulary.save(tmp_path)
    again = load_text(str(file), vocabulary=tmp_path, sequence_length=16)
    for split, ids in data.splits.items():
        np.testing.assert_array_equal(again.splits[split], ids)


def test_bad_arguments():
    with pytest.raises(ValueError, match="between 0 and 255"):
        ByteVocabulary().decode([256])
    with pytest.raises(ValueError, match="vocabulary_size=300"):
        load_text("stdlib", "byte", vocabulary_size=300)
