"""The front door: find, check and load the saved models."""

import difflib
import fnmatch
import json
import os
import zipfile
from pathlib import Path

import keras

from ..datasets.corpus import file_sha256

SHIPPED = Path(__file__).resolve().parent.parent / "saved_models"


def list_models(pattern="*"):
    """Names of the saved models that can be loaded.

    Args:
        pattern: str, shell-style: `"koop*"`.

    Returns:
        Sorted list of str.

    Example:
    ```python
    orrery.list_models("koopman*")
    ```
    """
    return sorted(fnmatch.filter(_folders(), pattern))


def load(name, compile=False):
    """Load a saved model by name, or any `.keras` file by path.

    A saved model is a folder `<name>/` with `model.keras` and `metadata.json`;
    every file named in the metadata is checked against its sha256 first.
    Folders are looked for in the directory that the environment variable
    `ORRERY_MODELS` names, then among those that come with the package.

    Args:
        name: str, one of `list_models()`; or a path, of a `.keras` file or of
            a saved model's folder.
        compile: bool. Whether to restore the optimizer and losses as well,
            where the file holds them.

    Returns:
        A `keras.Model` on the running backend.

    Raises:
        ValueError: no such model; or a file is missing, truncated or changed.

    Example:
    ```python
    model = orrery.load("koopman_lm_stdlib")
    model.summary()
    ```
    """
    path = Path(name)
    if path.suffix == ".keras" or path.is_file():
        if not path.is_file():
            raise ValueError(
                f"`name` is {str(name)!r}, and no such file exists"
            )
        folder = path.resolve().parent
        metadata = read_metadata(folder) if _is_saved_model(folder) else {}
        if path.name in metadata.get("files", {}):
            _check_file(folder, path.name, metadata["files"][path.name])
    else:
        folder = find(name)
        metadata = read_metadata(folder)
        for file, sha256 in metadata["files"].items():
            _check_file(folder, file, sha256)
        path = folder / "model.keras"
    _check_archive(path)
    try:
        return keras.saving.load_model(path, compile=compile)
    except Exception as error:
        error.add_note(
            f"{path} was saved with Keras "
            f"{metadata.get('keras_version', '(unknown)')}; this is Keras "
            f"{keras.__version__} on {keras.backend.backend()}."
        )
        raise


def find(name):
    """The folder of a saved model, where its vocabulary and card lie.

    Args:
        name: str, one of `list_models()`, or the path of such a folder.

    Returns:
        A `pathlib.Path`.

    Raises:
        ValueError: no such model; the message lists those that exist.
    """
    if _is_saved_model(Path(name)):
        return Path(name).resolve()
    folders = _folders()
    if str(name) in folders:
        return folders[str(name)]
    if Path(name).exists():
        raise ValueError(
            f"`name` is the path {str(name)!r}, which is neither a .keras file "
            "nor the folder of a saved model (model.keras and metadata.json)"
        )
    close = difflib.get_close_matches(str(name), folders, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"`name` is {str(name)!r}, which is neither a saved model nor a path. "
        f"Saved models: {', '.join(sorted(folders)) or 'none'}.{hint}"
    )


def read_metadata(name):
    """What `metadata.json` says about a saved model, as a dict.

    Args:
        name: str, as in `find`.

    Returns:
        dict; its keys are those of `orrery.zoo.model_card.REQUIRED`
        and what `orrery.zoo.publishing` measured.

    Raises:
        ValueError: no such model, or its metadata is not valid JSON.
    """
    path = find(name) / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        metadata["files"]["model.keras"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged: {type(error).__name__}: {error}"
        ) from error
    return metadata


def _is_saved_model(folder):
    return (folder / "metadata.json").is_file()


def _folders():
    """Dict from names to folders; `ORRERY_MODELS` hides the shipped ones."""
    roots = [SHIPPED]
    if override := os.environ.get("ORRERY_MODELS"):
        roots.append(Path(override))
        if not roots[-1].is_dir():
            raise ValueError(
                f"ORRERY_MODELS is {override!r}, which is not a directory"
            )
    return {
        folder.name: folder
        for root in roots
        if root.is_dir()
        for folder in root.iterdir()
        if _is_saved_model(folder)
    }


def _check_file(folder, name, expected):
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{path} is missing, though metadata.json names it")
    found = file_sha256(path)
    if found != expected:
        raise ValueError(
            f"{path} is truncated or was changed: it has sha256 {found}, "
            f"metadata.json names {expected}"
        )


def _check_archive(path):
    """A `.keras` file is a zip archive; say so before Keras fails in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            missing = {"config.json", "model.weights.h5"} - {
                *archive.namelist()
            }
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path} is not a .keras file, or it is truncated: {error}"
        ) from error
    if damaged or missing:
        raise ValueError(
            f"{path} is not a sound .keras file: "
            f"damaged {damaged}, missing {sorted(missing)}"
        )
