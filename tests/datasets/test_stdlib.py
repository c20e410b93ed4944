import hashlib
import json
import platform

import pytest
from orrery.datasets import stdlib

# Pinned: a version of Python has one text, and a module never moves to
# another split.
WORDS = {"3.11.7": 307_505, "3.12.1": 310_821, "3.13.0": 316_450}
SPLITS = {
    "train": ["abc", "os", "json", "json.decoder"],
    "valid": ["collections", "glob", "string", "xml.sax"],
    "test": ["contextlib", "random", "zipfile", "email.parser"],
}

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
    assert words == WORDS.get(platform.python_version(), words)
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
    for split, modules in SPLITS.items():
        assert {stdlib.split_of(name) for name in modules} == {split}
        assert set(modules) <= set(files)


def test_one_source_gives_one_text_on_every_python(tmp_path, monkeypatch):
    sources = {
        "abc.py": '"""Of train."""',
        "glob/__init__.py": 'def f():\n    """Of valid, don\'t ask."""',
        "glob/test/more.py": '"""Of no split."""',
        "random.py": '"""Of train."""\nclass A:\n    """Of test."""',
    }
    for name, source in sources.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.setenv("ORRERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stdlib, "MODULES", ["abc", "glob", "random"])
    monkeypatch.setattr(stdlib, "TOPICS", "topics_of_no_python")
    monkeypatch.setattr(
        stdlib.sysconfig, "get_path", lambda name: str(tmp_path)
    )
    corpus = stdlib.read_stdlib()
    assert corpus.texts == {
        "train": "Of train.",
        "valid": "Of valid, don't ask.",
        "test": "Of test.",
    }
    assert corpus.remarks["repeated_docstrings"] == {"valid": 0, "test": 1}
    words = "Of train . Of valid , don 't ask . Of test .".replace(" ", "\n")
    assert corpus.sha256 == hashlib.sha256(words.encode()).hexdigest()


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
