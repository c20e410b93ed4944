"""One `.keras` file, written on any backend, computes and trains on all."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import ResolventMixer
from orrery.metrics import Perplexity
from orrery.optimizers import GuardedOptimizer
from orrery.testing import (
    compare_backends,
    installed_backends,
    updated_weights,
)
from orrery.testing.cross_backend import run_in_process
from orrery.zoo import HamiltonianLM, KoopmanLM
from orrery.zoo.language_model import LanguageModel

TOKENS = np.random.default_rng(0).integers(0, 50, (4, 13)).astype("int32")
X, Y = TOKENS[:, :-1], TOKENS[:, 1:]
# Enough to determine an operator.
TEXT = np.random.default_rng(1).integers(0, 50, (40, 12)).astype("int32")
BACKENDS = installed_backends()
SIZES = {
    "vocabulary_size": 50,
    "dim": 16,
    "num_heads": 2,
    "num_experts": 2,
    "dropout": 0.0,
    "embedding_stddev": 0.5,
}


def gradient():
    """Every layer and loss that one language model can have."""
    return KoopmanLM(
        **SIZES,
        num_layers=3,
        mixer=["attention", "koopman", "resolvent"],
        koopman={"operator": "gradient", "delays": 1, "lift_dim": 8},
        replacement=0.75,
    )


def edmd():
    """Operators that are solved, and a head with a kernel of its own."""
    return KoopmanLM(
        **SIZES,
        num_layers=2,
        tie_embeddings=False,
        koopman={"operator": "edmd", "lift_dim": 8, "solve_every": 1},
    )


def hamiltonian():
    """Blocks that integrate, a loss on their energy, operators beside them."""
    sizes = {key: SIZES[key] for key in SIZES if key != "num_experts"}
    return HamiltonianLM(
        **sizes,
        num_layers=2,
        hidden_dim=24,
        energy_weight=10.0,
        koopman={"operator": "gradient", "lift_dim": 8},
    )


def bidirectional():
    """The mixer that no causal language model can have."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(50, 16),
            ResolventMixer(2, mode="bidirectional"),
            keras.layers.Dense(50),
        ]
    )


MODELS = {
    make.__name__: make for make in (gradient, edmd, hamiltonian, bidirectional)
}
OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(1e-3),
    "AdamW": lambda: keras.optimizers.AdamW(1e-3),
    "guarded AdamW": lambda: GuardedOptimizer(
        keras.optimizers.AdamW(1e-3), clip_norm=0.5
    ),
}
# The gradient of an untied embedding is sparse on TensorFlow. Keras' AdamW
# squares it before it adds up a repeated id; clipping makes it dense first.
TRAINED = [
    ("gradient", "SGD"),
    ("gradient", "AdamW"),
    ("edmd", "SGD"),
    ("edmd", "guarded AdamW"),
    ("hamiltonian", "SGD"),
    ("hamiltonian", "AdamW"),
    ("bidirectional", "SGD"),
    ("bidirectional", "guarded AdamW"),
]


def file_of(model, path):
    """The file of one model among those of the backend that wrote `path`."""
    return Path(path).with_stem(f"{Path(path).stem}_{model}")


def train(model, optimizer):
    """Weights after a few steps, with the loss that the model needs."""
    if isinstance(model, LanguageModel):
        return updated_weights(model, optimizer, {"tokens": X, "targets": Y}, Y)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return updated_weights(model, optimizer, X, Y, loss=loss)


def build(path):
    """Every model with its weights moved; `path` itself names the backend."""
    for name, make in MODELS.items():
        keras.utils.set_random_seed(0)
        model = make()
        if isinstance(model, LanguageModel):
            model.build()
            model.koopman_weight.assign(0.1)
        train(model, keras.optimizers.AdamW(1e-2))
        model.save(file_of(name, path))
    Path(path).touch()


def compute(path):
    """Outputs from everybody's files, and weights after a few steps."""
    found = {}
    for name in MODELS:
        for backend in BACKENDS:
            file = file_of(name, Path(path).with_stem(backend))
            for key, array in outputs(file).items():
                found[f"{name}, {backend}'s file: {key}"] = array
    for name, optimizer in TRAINED:
        model = keras.saving.load_model(file_of(name, path), compile=False)
        for key, array in train(model, OPTIMIZERS[optimizer]()).items():
            found[f"{name}, {optimizer}: {key}"] = array
    return found


def outputs(file):
    model = keras.saving.load_model(file, compile=False)
    perplexity = Perplexity()
    found = {
        "weights": np.concatenate([w.ravel() for w in model.get_weights()]),
        "logits": ops.convert_to_numpy(model(X)),
    }
    if isinstance(model, LanguageModel):
        perplexity.update_state(Y, model({"tokens": X, "targets": Y}))
        model.set_replaced(range(model.num_layers))
        found["replaced"] = ops.convert_to_numpy(model(X))
        if model.koopman["operator"] == "edmd":
            model.fit_operators(TEXT)
            found["solved"] = ops.convert_to_numpy(model(X))
    else:
        perplexity.update_state(Y, model(X))
    found["perplexity"] = ops.convert_to_numpy(perplexity.result())
    return found


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_file")
    for backend in BACKENDS:
        file = folder / f"{backend}.keras"
        run_in_process(backend, __file__, "build", file)
    return compare_backends(__file__, folder, build=file, run="compute")


def of(differences, prefix):
    return {
        name.removeprefix(prefix): difference
        for name, difference in differences.items()
        if name.startswith(prefix)
    }


@pytest.mark.cross_backend
@pytest.mark.parametrize("writer", BACKENDS)
@pytest.mark.parametrize(
    ("model", "operators"),
    [
        ("gradient", {"replaced"}),
        ("edmd", {"replaced", "solved"}),
        ("hamiltonian", {"replaced"}),
        ("bidirectional", set()),
    ],
)
def test_outputs_whoever_wrote_the_file(model, operators, writer, differences):
    found = of(differences, f"{model}, {writer}'s file: ")
    assert found.keys() == {"weights", "logits", "perplexity", *operators}
    assert found.pop("weights").absolute == 0.0
    assert found.pop("perplexity").relative < 1e-5
    for name, difference in found.items():
        # A solution multiplies the rounding of its sums by their condition.
        tolerance = 5e-4 if name == "solved" else 1e-4
        assert difference.absolute < tolerance, name


@pytest.mark.cross_backend
@pytest.mark.parametrize(("model", "optimizer"), TRAINED)
def test_updated_weights(model, optimizer, differences):
    found = of(differences, f"{model}, {optimizer}: ")
    assert found.pop("losses").absolute < 1e-4
    weights = {"gradient": 30, "edmd": 20, "hamiltonian": 30}
    weights["bidirectional"] = 8
    assert len(found) > weights[model]
    for path, difference in found.items():
        assert difference.relative < 1e-4, (path, difference)
