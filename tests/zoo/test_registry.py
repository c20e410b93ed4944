"""The front door: finding, checking, loading and publishing models."""

import shutil

import keras
import numpy as np
import pytest
from orrery.zoo.model_card import REQUIRED, render_card
from orrery.zoo.publishing import golden_differences, publish, write_metadata
from orrery.zoo.registry import find, list_models, load, read_metadata

INPUTS = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
METADATA = {
    "task": "Three numbers in, two out.",
    "inputs": [
        {
            "name": "x",
            "shape": ["batch", 3],
            "dtype": "float32",
            "range": "any",
        }
    ],
    "outputs": [
        {
            "name": "y",
            "shape": ["batch", 2],
            "dtype": "float32",
            "range": "any",
        }
    ],
    "data": {
        "name": "none",
        "source": "drawn at random",
        "licence": "CC0-1.0",
        "sha256": None,
    },
    "training": {"command": "true", "seconds": 0.5, "hardware": "2 cores"},
    "metrics": [
        {
            "name": "mse",
            "split": "test",
            "value": 0.25,
            "seeds": [0, 1, 2],
            "interval": [0.2, 0.3],
        }
    ],
    "intended_use": "Tests.",
    "limits": "Predicts nothing.",
    "licence": "Apache-2.0",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A saved model; verifying it on other backends has its own test."""
    root = tmp_path_factory.mktemp("models")
    vocabulary = root / "vocabulary.txt"
    vocabulary.write_text("<unk>\nthe\n", encoding="utf-8")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer="adam", loss="mse")
    model.fit(INPUTS, INPUTS[:, :2], verbose=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orrery.zoo.publishing.installed_backends", tuple)
        publish(root / "tiny", model, INPUTS, METADATA, [vocabulary])
    vocabulary.unlink()
    return root


@pytest.fixture
def models(published, tmp_path, monkeypatch):
    """A copy of it that a test may spoil."""
    root = tmp_path / "models"
    shutil.copytree(published, root)
    monkeypatch.setenv("ORRERY_MODELS", str(root))
    return root


def test_publish_writes_everything(models):
    assert {path.name for path in (models / "tiny").iterdir()} == {
        "README.md",
        "golden.npz",
        "metadata.json",
        "model.keras",
        "vocabulary.txt",
    }
    metadata = read_metadata("tiny")
    assert metadata["parameters"] == {"trainable": 8, "total": 8}
    assert metadata["backend"] == keras.backend.backend()
    assert metadata["verified"] == {}
    assert set(metadata["files"]) == {
        "golden.npz",
        "model.keras",
        "vocabulary.txt",
    }
    card = (models / "tiny" / "README.md").read_text(encoding="utf-8")
    assert card == render_card(metadata)
    for fact in ("Predicts nothing.", "0.2, 0.3", "CC0-1.0", "orrery.load"):
        assert fact in card


def test_load_by_name_folder_and_file(models):
    assert "tiny" in list_models("ti*")
    assert "tiny" not in list_models("koop*")
    assert find("tiny") == models / "tiny"
    assert not load("tiny", compile=True).compiled
    assert max(golden_differences("tiny").values()) <= 1e-6
    by_name = load("tiny").get_weights()
    for name in (models / "tiny", models / "tiny" / "model.keras"):
        for a, b in zip(by_name, load(name).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_load_file_outside_a_saved_model(models, tmp_path):
    path = tmp_path / "mine.keras"
    shutil.copy(models / "tiny" / "model.keras", path)
    assert load(str(path)).count_params() == 8


def test_unknown_name_lists_what_exists(models):
    with pytest.raises(ValueError, match="'tinny'.*tiny.*Did you mean 'tiny'"):
        load("tinny")
    with pytest.raises(ValueError, match="no such file"):
        load("absent.keras")


def test_changed_file(models):
    with open(models / "tiny" / "vocabulary.txt", "a") as file:
        file.write("a\n")
    with pytest.raises(ValueError, match="vocabulary.txt is truncated or was"):
        load("tiny")


def test_missing_file(models):
    (models / "tiny" / "golden.npz").unlink()
    with pytest.raises(ValueError, match="golden.npz is missing"):
        load("tiny")


@pytest.mark.parametrize("kept", [0, 100, -10])
def test_truncated_model(models, tmp_path, kept):
    content = (models / "tiny" / "model.keras").read_bytes()[:kept]
    (models / "tiny" / "model.keras").write_bytes(content)
    with pytest.raises(ValueError, match="truncated"):
        load("tiny")
    alone = tmp_path / "alone.keras"
    alone.write_bytes(content)
    with pytest.raises(ValueError, match="not a .keras file, or it is trunc"):
        load(alone)


def test_flipped_byte(models, tmp_path):
    content = bytearray((models / "tiny" / "model.keras").read_bytes())
    content[len(content) // 2] ^= 0xFF
    alone = tmp_path / "alone.keras"
    alone.write_bytes(content)
    with pytest.raises(ValueError, match="sound|truncated"):
        load(alone)


def test_damaged_metadata(models):
    (models / "tiny" / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match="metadata.json is damaged"):
        load("tiny")


def test_override_must_exist(monkeypatch):
    monkeypatch.setenv("ORRERY_MODELS", "/nowhere/at/all")
    with pytest.raises(ValueError, match="ORRERY_MODELS is '/nowhere/at/all'"):
        list_models()


def test_required_metadata(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for key in REQUIRED:
        partial = {k: v for k, v in METADATA.items() if k != key}
        with pytest.raises(ValueError, match=key):
            publish(tmp_path / "partial", model, INPUTS, partial)
    assert not (tmp_path / "partial").exists()


def test_large_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("orrery.zoo.publishing.LARGEST_FILE", 10)
    (tmp_path / "model.keras").write_bytes(b"x" * 11)
    with pytest.raises(ValueError, match="has 11 bytes"):
        write_metadata(tmp_path, None, METADATA)


@pytest.mark.cross_backend
def test_publish_verifies_every_backend(tmp_path):
    from orrery.testing import installed_backends

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    metadata = publish(tmp_path / "tiny", model, INPUTS, METADATA)
    assert set(metadata["verified"]) == set(installed_backends())
    assert max(metadata["verified"].values()) < 1e-6
