import json

import numpy as np
import pytest
from orrery.datasets.text import load_text, load_vocabulary
from orrery.datasets.vocabulary import Vocabulary

SENTENCE = "The quick brown fox jumps over the lazy dog, again and again.\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(SENTENCE * 60)
    return path


def test_a_text_file(file):
    data = load_text(str(file), sequence_length=16)
    assert data.name == "text_file" and set(data.splits) == {
        "train",
        "valid",
        "test",
    }
    x, y = data.blocks("train")
    assert x.shape[1] == data.sequence_length == 16
    np.testing.assert_array_equal(y[:, :-1], x[:, 1:])
    text = data.vocabulary.decode(data.splits["train"][:12])
    assert text == "The quick brown fox jumps over the lazy dog , again and"
    assert json.loads(json.dumps(data.metadata)) == data.metadata
    assert data.metadata["unknown_rate"]["test"] == 0.0
    assert data.metadata["blocks"]["train"] == len(x)


def test_a_vocabulary_of_a_given_size(file):
    data = load_text(file, sequence_length=8, vocabulary_size=5)
    assert len(data.vocabulary) == 5
    assert data.splits["train"].max() == 4


@pytest.mark.parametrize("kind", ["instance", "file", "folder"])
def test_a_shipped_vocabulary(file, tmp_path, kind):
    shipped = Vocabulary.from_words(["fox", "dog"])
    shipped.save(tmp_path / "vocabulary.txt")
    given = {
        "instance": shipped,
        "file": tmp_path / "vocabulary.txt",
        "folder": str(tmp_path),
    }[kind]
    data = load_text(file, vocabulary=given, sequence_length=4)
    assert data.vocabulary == shipped
    assert data.metadata["unknown_rate"]["train"] == pytest.approx(
        12 / 14, 0.02
    )


def test_the_whole_of_a_file_is_scored(file):
    vocabulary = Vocabulary.from_words(SENTENCE.split())
    data = load_text(
        file, vocabulary=vocabulary, whole=True, sequence_length=13
    )
    assert {split: len(ids) for split, ids in data.splits.items()} == {
        "test": 14 * 60
    }
    with pytest.raises(ValueError, match="`split` must be one of"):
        data.blocks("train")
    with pytest.raises(ValueError, match="`vocabulary` must be given"):
        load_text(file, whole=True)


def test_byte_pairs(file, tmp_path):
    pytest.importorskip("keras_hub")
    pytest.importorskip("tokenizers")
    data = load_text(file, "byte_pair", 16, vocabulary_size=280)
    assert data.metadata["tokenizer"] == "byte_pair"
    assert data.vocabulary.decode(data.splits["valid"]) in SENTENCE * 60
    data.vocabulary.save(tmp_path / "tokenizer")
    again = load_text(file, vocabulary=tmp_path / "tokenizer")
    np.testing.assert_array_equal(again.splits["test"], data.splits["test"])


def test_stdlib(tmp_path, monkeypatch):
    monkeypatch.setenv("ORRERY_CACHE", str(tmp_path))
    data = load_text("stdlib")
    assert len(data.vocabulary) == 8_000
    assert data.metadata["unknown_rate"]["valid"] < 0.1
    assert len(data.metadata["sha256"]) == 64
    assert data.metadata["version"].startswith("Python 3.")


def test_unknown_names_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"\['stdlib', 'wikitext2'\].*'ptb'"):
        load_text("ptb")
    with pytest.raises(ValueError, match="'byte_pair', 'byte'.*'bytes'"):
        load_text("stdlib", tokenizer="bytes")


def test_bad_arguments(file, tmp_path):
    with pytest.raises(ValueError, match="Received: sequence_length=0"):
        load_text(file, sequence_length=0)
    with pytest.raises(ValueError, match="vocabulary_size=0|size=0"):
        load_text(file, vocabulary_size=0)
    with pytest.raises(ValueError, match="vocabulary_size=9"):
        load_text(file, vocabulary=tmp_path, vocabulary_size=9)
    with pytest.raises(ValueError, match="`whole` is for text files"):
        load_text("wikitext2", whole=True)
    with pytest.raises(FileNotFoundError, match="no vocabulary"):
        load_vocabulary(tmp_path)
    with pytest.raises(ValueError, match="needs 1001 tokens"):
        load_text(file, sequence_length=1000).blocks("valid")
