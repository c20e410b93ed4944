import functools
import http.server
import threading
import zipfile

import numpy as np
import pytest
from orrery.datasets import wikitext2
from orrery.datasets.text import load_text
from orrery.datasets.vocabulary import Vocabulary

load_once = functools.cache(functools.partial(load_text, "wikitext2"))


@pytest.fixture
def data(data_dir):
    return load_once(data_dir=data_dir)


@pytest.fixture
def small_zip(tmp_path, monkeypatch):
    """A valid file with few words that stands for the official one."""
    path = tmp_path / "source" / wikitext2.FILE_NAME
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", "valid", "test"):
            archive.writestr(
                f"wikitext-2/wiki.{split}.tokens",
                f" \n = A {split} = \n a . \n",
            )
    digest = wikitext2.file_sha256(path)
    monkeypatch.setattr(wikitext2, "VERSIONS", {digest: "small file"})
    monkeypatch.setenv("ORRERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ORRERY_DATA_DIR", raising=False)
    return path


@pytest.fixture
def server(small_zip, monkeypatch):
    """Serves the folder of the small file on this machine."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=small_zip.parent
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{wikitext2.FILE_NAME}"
    monkeypatch.setattr(wikitext2, "URL", url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def test_counts(data):
    assert data.metadata["tokens"] == {
        "train": 2_051_910,
        "valid": 213_886,
        "test": 241_211,
    }
    assert len(data.vocabulary) == 30_000
    assert data.metadata["version"] in wikitext2.VERSIONS.values()


@pytest.mark.parametrize(
    "split, count", [("train", 15_906), ("valid", 1_658), ("test", 1_869)]
)
def test_blocks(data, split, count):
    x, y = data.blocks(split)
    assert x.shape == y.shape == (count, 128)
    np.testing.assert_array_equal(y[:, :-1], x[:, 1:])
    assert 1 <= x.min() and max(x.max(), y.max()) < 30_000
    assert data.metadata["blocks"][split] == count


def test_unknown_rates(data):
    rates = data.metadata["unknown_rate"]
    assert [round(100 * rate, 1) for rate in rates.values()] == [3.1, 5.9, 6.7]
    assert rates["valid"] == pytest.approx(0.058756, abs=1e-6)


def test_the_splits_differ(data):
    starts = {split: data.splits[split][:64].tobytes() for split in data.splits}
    assert len(set(starts.values())) == 3


def test_a_shipped_vocabulary_gives_the_same_ids(data, data_dir, tmp_path):
    data.vocabulary.save(tmp_path / "vocabulary.txt")
    vocabulary = Vocabulary.load(tmp_path / "vocabulary.txt")
    assert vocabulary == data.vocabulary
    words = wikitext2.read_wikitext2(data_dir).words("valid")
    np.testing.assert_array_equal(
        vocabulary.encode(words), data.splits["valid"]
    )


def test_words_are_those_of_the_lines(small_zip):
    corpus = wikitext2.read_wikitext2(small_zip.parent)
    assert corpus.words("valid") == ["=", "A", "valid", "=", "a", "."]
    assert corpus.version == "small file"
    assert corpus.sha256 == wikitext2.file_sha256(small_zip)


def test_environment_variable(small_zip, monkeypatch):
    monkeypatch.setenv("ORRERY_DATA_DIR", str(small_zip.parent))
    assert wikitext2.find_wikitext2() == small_zip


def test_download_is_kept(server, small_zip, tmp_path):
    cached = tmp_path / "cache" / wikitext2.FILE_NAME
    corpus = wikitext2.read_wikitext2()
    assert corpus.sha256 == wikitext2.file_sha256(cached)
    server.shutdown()
    assert wikitext2.read_wikitext2() == corpus
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]


def test_a_truncated_download_is_not_kept(server, small_zip, tmp_path):
    small_zip.write_bytes(small_zip.read_bytes()[:-40])
    with pytest.raises(ValueError, match="truncated, corrupted"):
        wikitext2.read_wikitext2()
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_says_where_to_put_the_file(
    small_zip, tmp_path, monkeypatch
):
    monkeypatch.setattr(wikitext2, "URL", "http://127.0.0.1:1/file.zip")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(
        ConnectionError, match="could not be downloaded"
    ) as info:
        wikitext2.read_wikitext2()
    assert f"put it into {tmp_path / 'cache'}" in str(info.value)
    assert "--data-dir or ORRERY_DATA_DIR" in str(info.value)
    with pytest.raises(FileNotFoundError, match="by hand"):
        wikitext2.read_wikitext2(download=False)


def test_a_cache_that_cannot_be_written(small_zip, tmp_path, monkeypatch):
    monkeypatch.setenv("ORRERY_CACHE", str(small_zip / "cache"))
    with pytest.raises(OSError, match="set ORRERY_CACHE"):
        wikitext2.read_wikitext2()


def test_a_folder_without_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="wikitext-2-v1.zip is not in"):
        wikitext2.read_wikitext2(tmp_path)


def test_a_corrupted_file_names_both_hashes(small_zip):
    known = wikitext2.file_sha256(small_zip)
    content = bytearray(small_zip.read_bytes())
    content[50] ^= 1
    small_zip.write_bytes(content)
    with pytest.raises(ValueError, match="corrupted") as info:
        wikitext2.read_wikitext2(small_zip.parent)
    assert known in str(info.value)
    assert wikitext2.file_sha256(small_zip) in str(info.value)
