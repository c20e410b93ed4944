"""WikiText-2, read from the zip file of its tokenised version 1."""

import os
import pathlib
import shutil
import urllib.request
import zipfile

from .corpus import SPLITS, Corpus, cache_dir, file_sha256, replacing

FILE_NAME = "wikitext-2-v1.zip"
# The authors' first address, research.metamind.io on S3, is closed since 2024;
# this one, of S. Merity, refuses the name by which urllib presents itself.
URL = f"https://wikitext.smerity.com/{FILE_NAME}"
AGENT = "Mozilla/5.0 (compatible; orrery)"
HOMEPAGE = "https://arxiv.org/abs/1609.07843"
LICENCE = "CC BY-SA 3.0 (Wikipedia contributors; Merity et al. 2016)"
# Both hold the same articles; in the second those of train are reordered.
VERSIONS = {
    "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c": (
        "official file"
    ),
    "84a704854cba95c04b2ec56fdc47caaa8a29a0a0ce3d305fee9289a3d7000293": (
        "official articles, train in another order"
    ),
}


def read_wikitext2(data_dir=None, download=True):
    """Reads WikiText-2: 2,051,910 / 213,886 / 241,211 words.

    The words of the files are separated by white space and read as they stand:
    case, headings and the literal `<unk>` are kept, no end-of-line word is
    added. The file `wikitext-2-v1.zip` is looked for in `data_dir` or else in
    the folder `ORRERY_DATA_DIR` and the cache (`ORRERY_CACHE`, by default
    `~/.cache/orrery`), and downloaded to the cache if it is in neither.

    Args:
        data_dir: string or path, the folder that holds the file. Defaults to
            `None`.
        download: bool, whether the network may be used. Defaults to `True`.

    Returns:
        A `Corpus`. Its `sha256` is that of the file, its `version` says which
        of the known files it is.

    Raises:
        FileNotFoundError: if the file is not in a given `data_dir`, or
            nowhere and `download` is `False`.
        ConnectionError: if the file cannot be downloaded.
        OSError: if the cache cannot be written.
        ValueError: if the file is truncated, corrupted or another one.

    Reference:
        Merity et al., Pointer Sentinel Mixture Models, arXiv:1609.07843.
    """
    path = find_wikitext2(data_dir, download)
    digest = check_wikitext2(path)
    with zipfile.ZipFile(path) as archive:
        texts = {
            split: archive.read(f"wikitext-2/wiki.{split}.tokens").decode()
            for split in SPLITS
        }
    return Corpus(
        name="wikitext2",
        texts=texts,
        source=URL,
        licence=LICENCE,
        sha256=digest,
        version=VERSIONS[digest],
    )


def find_wikitext2(data_dir=None, download=True):
    """Finds the zip file, or downloads it; see `read_wikitext2`.

    Returns:
        The path of the file, whose content is still to be checked.
    """
    if data_dir is not None:
        folders = [pathlib.Path(data_dir).expanduser()]
    else:
        folders = [cache_dir()]
        if os.environ.get("ORRERY_DATA_DIR"):
            folders.insert(0, pathlib.Path(os.environ["ORRERY_DATA_DIR"]))
    for folder in folders:
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    if data_dir is not None or not download:
        raise FileNotFoundError(
            f"{FILE_NAME} is not in {' or '.join(map(str, folders))}. "
            f"{_advice(folders[-1])}"
        )
    return _download(folders[-1])


def check_wikitext2(path):
    """Returns the SHA-256 of the file if it is one of those known.

    Raises:
        ValueError: if it is not.
    """
    digest = file_sha256(path)
    if digest not in VERSIONS:
        known = "; ".join(f"{key} ({name})" for key, name in VERSIONS.items())
        raise ValueError(
            f"{path} is truncated, corrupted or another file. Its sha256 is "
            f"{digest}. Allowed: {known}. {_advice(pathlib.Path(path).parent)}"
        )
    return digest


def _download(folder):
    """Downloads the file into a folder; keeps it only if it is right."""
    path = folder / FILE_NAME
    try:
        with replacing(path) as partial, open(partial, "wb") as file:
            _fetch(file, folder)
            file.close()
            check_wikitext2(partial)
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(
            f"{FILE_NAME} cannot be kept in {folder} ({error}): set "
            "ORRERY_CACHE to a folder that can be written."
        ) from error
    return path


def _fetch(file, folder):
    try:
        request = urllib.request.Request(URL, headers={"User-Agent": AGENT})
        with urllib.request.urlopen(request, timeout=30) as response:
            shutil.copyfileobj(response, file)
    except OSError as error:  # Those of urllib are OSErrors.
        raise ConnectionError(
            f"{URL} could not be downloaded: {error}. {_advice(folder)}"
        ) from error


def _advice(folder):
    return (
        f"Download {URL} by hand and put it into {folder}, or name its folder "
        "by --data-dir or ORRERY_DATA_DIR."
    )
