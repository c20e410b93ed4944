"""Publishing a saved model: golden arrays, metadata and the card.

`publish` writes `<folder>/{model.keras, golden.npz, metadata.json, README.md}`.
The caller supplies what only the caller knows (`model_card.REQUIRED`);
versions, sizes, hashes and the differences between backends are measured here.
"""

import json
import shutil
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from ..testing.cross_backend import installed_backends, run_in_process
from .model_card import REQUIRED, write_card
from .registry import file_sha256, find, load

LARGEST_FILE = 25_000_000


def publish(folder, model, golden_inputs, metadata, files=()):
    """Write a saved model, complete and verified on every installed backend.

    Args:
        folder: path, `saved_models/<name>`; made if absent.
        model: the trained `keras.Model`.
        golden_inputs: NumPy array or dict of them, the inputs whose outputs
            are recorded; a few samples are enough.
        metadata: dict with the keys of `REQUIRED`.
        files: paths of further files to copy there (`vocabulary.txt`).

    Returns:
        The metadata written, a dict.

    Raises:
        ValueError: a key is missing, or a file is above 25 MB.
    """
    _check_metadata(metadata)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.keras")
    # Once more without the optimizer, whose state is twice the weights.
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    model.save(folder / "model.keras")
    write_golden(folder, model, golden_inputs)
    for file in files:
        shutil.copyfile(file, folder / Path(file).name)
    complete = write_metadata(folder, model, metadata)
    write_card(folder)
    return complete


def write_golden(folder, model, inputs):
    """Record `golden.npz`: arrays `input_<name>` and `output_<i>`.

    Args:
        folder: path of the saved model.
        model: the model whose outputs are recorded.
        inputs: NumPy array or dict of them.
    """
    named = inputs if isinstance(inputs, dict) else {"0": inputs}
    arrays = {f"input_{name}": np.asarray(x) for name, x in named.items()}
    np.savez_compressed(
        Path(folder) / "golden.npz", **arrays, **_outputs(model, inputs)
    )


def golden_differences(name):
    """Largest difference from each recorded output, on this backend.

    Args:
        name: str, a saved model's name or folder.

    Returns:
        Dict from `output_<i>` to float, absolute where the output is below
        one and relative to it above.
    """
    folder = find(name)
    with np.load(folder / "golden.npz") as file:
        recorded = dict(file)
    inputs = {
        key.removeprefix("input_"): array
        for key, array in recorded.items()
        if key.startswith("input_")
    }
    if set(inputs) == {"0"}:
        inputs = inputs["0"]
    differences = {}
    for key, output in _outputs(load(folder), inputs).items():
        unit = np.maximum(1.0, np.abs(recorded[key]))
        error = np.abs(output - recorded[key]) / unit
        differences[key] = float(error.max(initial=0.0))
    return differences


def _outputs(model, inputs):
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    outputs = keras.tree.flatten(model(tensors, training=False))
    return {
        f"output_{i}": np.asarray(keras.ops.convert_to_numpy(output))
        for i, output in enumerate(outputs)
    }


def write_metadata(folder, model, metadata):
    """Complete the metadata with what can be measured, and write it.

    Args:
        folder: path of the saved model, its other files already written.
        model: the model, for its size.
        metadata: dict with the keys of `REQUIRED`; others are kept as well.

    Returns:
        The complete dict.

    Raises:
        ValueError: a required key is missing, or a file is above 25 MB.
    """
    _check_metadata(metadata)
    folder = Path(folder).resolve()
    written_after = ("metadata.json", "README.md")
    files = sorted(p for p in folder.iterdir() if p.name not in written_after)
    for path in files:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(
                f"{path} has {path.stat().st_size:,} bytes; a file of a saved "
                f"model may have {LARGEST_FILE:,}"
            )
    complete = {
        "name": folder.name,
        "version": version("orrery"),
        "date": date.today().isoformat(),
        "keras_version": keras.__version__,
        "backend": keras.backend.backend(),
        "parameters": {
            "trainable": _size(model.trainable_weights),
            "total": _size(model.weights),
        },
        **metadata,
        "files": {path.name: file_sha256(path) for path in files},
    }
    # Another process can only check the model once its hashes are written.
    _write_json(folder, complete)
    complete["verified"] = {
        backend: _verify(folder, backend) for backend in installed_backends()
    }
    _write_json(folder, complete)
    return complete


def _check_metadata(metadata):
    if missing := [key for key in REQUIRED if key not in metadata]:
        wanted = "; ".join(f"{key}: {REQUIRED[key]}" for key in missing)
        raise ValueError(f"`metadata` lacks {missing} ({wanted})")


def _size(weights):
    return int(sum(np.prod(weight.shape) for weight in weights))


def _write_json(folder, content):
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / "metadata.json").write_text(text + "\n", encoding="utf-8")


def _verify(folder, backend):
    """The largest difference from the golden outputs on one backend."""
    with tempfile.TemporaryDirectory() as scratch:
        outputs = Path(scratch) / "differences.npz"
        run_in_process(backend, __name__, "golden_differences", folder, outputs)
        with np.load(outputs) as file:
            difference = max(float(value) for value in file.values())
    if not np.isfinite(difference):
        raise ValueError(f"{folder}: outputs on {backend} are not finite")
    return difference
