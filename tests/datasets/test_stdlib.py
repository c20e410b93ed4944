import json
import sys

import pytest
from orrery.datasets import stdlib

SOURCE = '''
"""Module.

======
Heading
"""
class A:
    """Class."""
    def f(self):
        """Method."""
        async def g():
            """Nested."""
    x = """not a docstring"""
def h(): pass
'''


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def corpus(cache, monkeypatch):
    monkeypatch.setenv("ORRERY_CACHE", str(cache))
    return stdlib.read_stdlib()


def test_docstrings_in_the_order_of_the_source_without_rules():
    assert stdlib.docstrings(SOURCE) == [
        "Module.\nHeading",
        "Class.",
        "Method.",
        "Nested.",
    ]


def test_size(corpus):
    words = sum(len(text.split()) for text in corpus.texts.values())
    if not corpus.remarks["missing_modules"]:
        assert 280_000 < words < 340_000
    if sys.version_info[:3] == (3, 11, 7):
        assert words == 307_505
    parts = [len(corpus.words(split)) for split in corpus.texts]
    assert parts[0] / sum(parts) > 0.75 and min(parts) / sum(parts) > 0.05


def test_the_same_text_with_and_without_the_cache(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.setenv("ORRERY_CACHE", str(tmp_path))
    again = stdlib.read_stdlib()
    assert again == corpus
    (cached,) = tmp_path.iterdir()
    # A damaged cache is read as if it were not there.
    cached.write_text(cached.read_text()[:-10])
    assert stdlib.read_stdlib() == corpus
    json.loads(cached.read_text())


def test_a_cache_that_cannot_be_written_is_not_needed(
    corpus, tmp_path, monkeypatch
):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("ORRERY_CACHE", str(blocker / "cache"))
    assert stdlib.read_stdlib().sha256 == corpus.sha256


def test_modules_are_in_one_split_and_tests_in_none():
    import pathlib
    import sysconfig

    files, missing = stdlib.find_modules(
        pathlib.Path(sysconfig.get_path("stdlib"))
    )
    assert list(files) == sorted(files)
    assert not any("test" in name.split(".") for name in files)
    assert {"json", "json.decoder", "os"} <= set(files)
    assert not set(missing) & {"json", "os"}
    splits = {stdlib.split_of(name) for name in files}
    assert splits == {"train", "valid", "test"}
    # Pinned: a module must never move to another split.
    assert [stdlib.split_of(name) for name in ("abc", "os", "json")] == PINNED


PINNED = ["train", "train", "train"]


def test_no_docstring_of_train_is_in_valid_or_test(corpus):
    train = set(corpus.texts["train"].split("\n\n"))
    assert corpus.remarks["repeated_docstrings"]["valid"] > 0
    for split in ("valid", "test"):
        sentences = [
            text
            for text in corpus.texts[split].split("\n\n")
            if len(text.split()) > 30
        ]
        assert sentences and not train.intersection(sentences)


def test_a_standard_library_without_source_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(
        stdlib.sysconfig, "get_path", lambda name: str(tmp_path)
    )
    with pytest.raises(FileNotFoundError, match="has no source files"):
        stdlib.read_stdlib()
