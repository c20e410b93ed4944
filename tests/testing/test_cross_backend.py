"""The harness itself: agreement, disagreement and failures are seen."""

import keras
import numpy as np
import pytest
from orrery.testing import compare_backends, installed_backends, updated_weights

INPUTS = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
TARGETS = INPUTS[:, :1] - INPUTS[:, 1:2]

pytestmark = pytest.mark.cross_backend


def build(path):
    keras.utils.set_random_seed(0)
    keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(1),
        ]
    ).save(path)


def run(path):
    arrays = {"logits": keras.saving.load_model(path)(INPUTS)}
    arrays = {k: keras.ops.convert_to_numpy(v) for k, v in arrays.items()}
    for optimizer in (keras.optimizers.SGD(1e-3), keras.optimizers.AdamW(1e-3)):
        updated = updated_weights(
            keras.saving.load_model(path),
            optimizer,
            INPUTS,
            TARGETS,
            loss="mse",
        )
        arrays |= {f"{optimizer.name}.{k}": v for k, v in updated.items()}
    return arrays


def run_wrongly(path):
    value = {"jax": 1.0, "torch": 1.5}.get(keras.backend.backend(), 1.0)
    return {"value": np.array(value)}


def fail(path):
    raise OverflowError("deliberately")


def test_dense_agrees(tmp_path):
    differences = compare_backends(__file__, tmp_path)
    assert differences["logits"].absolute < 1e-6
    assert len(differences) == 1 + 2 * 5
    assert max(d.relative for d in differences.values()) < 1e-5


def test_disagreement_is_measured(tmp_path):
    if "torch" not in installed_backends():
        pytest.skip("needs PyTorch beside another backend")
    differences = compare_backends(__file__, tmp_path, run="run_wrongly")
    assert differences["value"].absolute == 0.5


def test_failure_is_shown(tmp_path):
    with pytest.raises(RuntimeError, match="OverflowError: deliberately"):
        compare_backends(__file__, tmp_path, build="fail")


def test_unknown_backend():
    with pytest.raises(ValueError, match="not installed"):
        compare_backends(__file__, ".", backends=("jax", "theano"))
