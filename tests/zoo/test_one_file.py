"""One `.keras` file, written on any backend, computes and trains on all."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from orrery.testing import (
    compare_backends,
    installed_backends,
    updated_weights,
)
from orrery.testing.cross_backend import run_in_process
from orrery.zoo import KoopmanLM

TOKENS = np.random.default_rng(0).integers(0, 50, (4, 13)).astype("int32")
X, Y = TOKENS[:, :-1], TOKENS[:, 1:]
BACKENDS = installed_backends()


def build(path):
    """Every layer and loss of the package in one model, its weights moved."""
    keras.utils.set_random_seed(0)
    model = KoopmanLM(
        50,
        dim=16,
        num_layers=3,
        num_heads=2,
        mixer=["attention", "koopman", "resolvent"],
        num_experts=2,
        dropout=0.0,
        koopman={"operator": "gradient", "delays": 1, "lift_dim": 8},
        replacement=0.75,
        embedding_stddev=0.5,
    )
    model.build()
    model.koopman_weight.assign(0.1)
    updated_weights(
        model, keras.optimizers.AdamW(1e-2), {"tokens": X, "targets": Y}, Y
    )
    model.save(path)


def compute(path):
    """Outputs from everybody's file, and weights after a few steps."""
    found = {}
    for backend in BACKENDS:
        file = Path(path).with_name(f"{backend}.keras")
        for name, array in outputs(file).items():
            found[f"{backend}'s file: {name}"] = array
    for optimizer in (keras.optimizers.SGD, keras.optimizers.AdamW):
        model = keras.saving.load_model(path, compile=False)
        steps = updated_weights(
            model, optimizer(1e-3), {"tokens": X, "targets": Y}, Y
        )
        for name, array in steps.items():
            found[f"{optimizer.__name__}: {name}"] = array
    return found


def outputs(file):
    model = keras.saving.load_model(file, compile=False)
    standard = ops.convert_to_numpy(model(X))
    nll = ops.convert_to_numpy(model({"tokens": X, "targets": Y}))
    model.set_replaced((0, 1, 2))
    return {
        "logits": standard,
        "replaced": ops.convert_to_numpy(model(X)),
        "perplexity": np.exp(nll.mean()),
        "weights": np.concatenate([w.ravel() for w in model.get_weights()]),
    }


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_file")
    for backend in BACKENDS:
        file = folder / f"{backend}.keras"
        run_in_process(backend, __file__, "build", file)
    return compare_backends(__file__, folder, build=file, run="compute")


@pytest.mark.cross_backend
@pytest.mark.parametrize("writer", BACKENDS)
def test_outputs_whoever_wrote_the_file(writer, differences):
    found = {
        name: differences[f"{writer}'s file: {name}"]
        for name in ("weights", "logits", "replaced", "perplexity")
    }
    assert found["weights"].absolute == 0.0
    assert found["logits"].absolute < 1e-4
    assert found["replaced"].absolute < 1e-4
    assert found["perplexity"].relative < 1e-5


@pytest.mark.cross_backend
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_updated_weights(optimizer, differences):
    found = {
        name.removeprefix(f"{optimizer}: "): difference
        for name, difference in differences.items()
        if name.startswith(f"{optimizer}: ")
    }
    assert len(found) > 30
    assert found.pop("losses").absolute < 1e-4
    for path, difference in found.items():
        assert difference.relative < 1e-4, (path, difference)
