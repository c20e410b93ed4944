import numpy as np
import pytest
from orrery.datasets.byte_pair import BytePairVocabulary
from orrery.datasets.text import load_vocabulary

TEXT = "the cat saw the other cat, and the other cat <unk> saw nothing.\n" * 20


@pytest.fixture(scope="module")
def vocabulary():
    pytest.importorskip("keras_hub")
    pytest.importorskip("tokenizers")
    return BytePairVocabulary.from_text(TEXT, size=290)


@pytest.mark.parametrize(
    "text", [TEXT, "Don't  panic:\n\n\tnaïve 東京 \U0001f600!", "", " "]
)
def test_any_text_comes_back(vocabulary, text):
    ids = vocabulary.encode(text)
    assert ids.dtype == "int32" and ids.ndim == 1
    assert vocabulary.decode(ids) == text


def test_merges_shorten_the_text(vocabulary):
    assert 258 < len(vocabulary) <= 290
    assert len(vocabulary.encode(TEXT)) < len(TEXT) / 2


def test_special_tokens_stand_for_themselves(vocabulary):
    ids = vocabulary.encode("the <unk> cat")
    assert np.sum(ids == vocabulary.unknown_id) == 1
    assert vocabulary.encode("<pad>").tolist() == [vocabulary.pad_id]


def test_training_is_deterministic(vocabulary):
    assert BytePairVocabulary.from_text(TEXT, size=290) == vocabulary


def test_files(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "tokenizer")
    names = {path.name for path in (tmp_path / "tokenizer").iterdir()}
    assert names == {"vocabulary.json", "merges.txt"}
    loaded = load_vocabulary(tmp_path / "tokenizer")
    assert loaded == vocabulary
    np.testing.assert_array_equal(loaded.encode(TEXT), vocabulary.encode(TEXT))


def test_bad_arguments(vocabulary):
    with pytest.raises(ValueError, match="size=257"):
        BytePairVocabulary.from_text(TEXT, size=257)
    with pytest.raises(ValueError, match="empty"):
        BytePairVocabulary.from_text(" \n")
    with pytest.raises(ValueError, match="must be between 0 and"):
        vocabulary.decode([len(vocabulary)])
    with pytest.raises(ValueError, match="must number its tokens"):
        BytePairVocabulary({"<pad>": 0, "<unk>": 2}, [])
    with pytest.raises(ValueError, match="the ids 0 and 1"):
        BytePairVocabulary({"a": 0, "b": 1}, [])
