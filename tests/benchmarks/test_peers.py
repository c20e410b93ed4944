"""The peers are the model they are measured against, and so are their steps."""

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from orrery.optimizers import GuardedOptimizer
from orrery.zoo import KoopmanLM

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZES = {
    "vocabulary_size": 60,
    "dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 24,
}
RANDOM = np.random.default_rng(0)
TEXT = RANDOM.integers(0, 60, (4, 11)).astype("int32")
TOKENS, TARGETS = TEXT[:, :-1], TEXT[:, 1:]


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def peers(load):
    return load("peers")


def heads(peers):
    library = hasattr(torch.nn.functional, "linear_cross_entropy")
    return peers.HEADS if library else peers.HEADS[:2]


def test_heads_agree(peers, monkeypatch):
    """Also where the last chunk is short, and under a scale from outside."""
    monkeypatch.setattr(peers, "CHUNK_SIZE", 16)
    results = {}
    for head in heads(peers):
        generator = torch.Generator().manual_seed(0)
        hidden, weight, bias = (
            torch.randn(shape, generator=generator).requires_grad_()
            for shape in ((40, 8), (60, 8), (60,))
        )
        targets = torch.from_numpy(TARGETS).long().flatten()
        loss = peers.crossentropy(head, hidden, weight, bias, targets)
        (3 * loss).backward()
        results[head] = loss, hidden.grad, weight.grad, bias.grad
    for result in results.values():
        for value, expected in zip(result, results["naive"], strict=True):
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_peer_trains_as_the_keras_model(peers, name):
    model = KoopmanLM(**SIZES, dropout=0.0, embedding_stddev=0.3)
    model.build()
    paths = {w.path.partition("/")[2]: w for w in model.trainable_weights}
    if name == "sgd":
        inner = keras.optimizers.SGD(1e-3)
    else:
        inner = keras.optimizers.AdamW(1e-3, weight_decay=0.01)
    model.compile(GuardedOptimizer(inner, clip_norm=0.5))

    peer = peers.LanguageModel(**SIZES, length=10, dropout=0.0)
    before = {}
    for path, array in peers.keras_weights(peer):
        before[path] = np.array(keras.ops.convert_to_numpy(paths[path]))
        array.copy_(torch.from_numpy(before[path]))
    assert before.keys() == paths.keys()
    if name == "sgd":
        optimizer = torch.optim.SGD(peer.parameters(), 1e-3)
    else:
        optimizer = peers.optimizer(peer)

    history = model.fit(
        {"tokens": TOKENS, "targets": TARGETS},
        TARGETS,
        batch_size=len(TOKENS),
        epochs=5,
        verbose=0,
    ).history
    with torch.enable_grad():
        losses = [
            peers.train_step(
                peer,
                optimizer,
                step,
                torch.tensor(TOKENS).long().cpu(),
                torch.tensor(TARGETS).long().cpu(),
            )
            for step in range(1, 6)
        ]
    np.testing.assert_allclose(losses, history["loss"], atol=1e-5)
    for path, array in peers.keras_weights(peer):
        expected = keras.ops.convert_to_numpy(paths[path])
        assert np.any(expected != before[path]), path
        np.testing.assert_allclose(
            array, expected, atol=1e-4 * np.abs(expected).max(), err_msg=path
        )


def test_sizes_are_those_of_the_presets(load):
    for sizes in load("train_step").SIZES.values():
        preset = KoopmanLM.presets.get(sizes["preset"], sizes["model"])
        if sizes["model"]["vocabulary_size"] > 300:
            assert sizes["model"].items() <= preset.items()


def test_spread_and_file_names(load, tmp_path):
    measure = load("_measure")
    assert measure.spread([5.0, 1.0, 2.0, 3.0, 4.0]) == (3.0, 2.0, 4.0)
    path = measure.results_file("steps", ("keras", "absent"), tmp_path, "A b/1")
    assert path.name == f"steps_a-b-1_keras-{keras.__version__}.csv"


@pytest.mark.slow
@pytest.mark.cross_backend
def test_smoke(tmp_path):
    """Every variant runs, agrees within its family, and has its ratios."""
    script = [sys.executable, BENCHMARKS / "train_step.py", "--smoke"]
    subprocess.run([*script, "--out", tmp_path], check=True)
    (path,) = tmp_path.glob("train_step_smoke_*.csv")
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {"peer", "base", "koopman", "preset"} <= {r["model"] for r in rows}
    for row in rows:
        assert float(row["over_compiled_best"]) > 0
        assert float(row["loss_difference"]) < 1e-4
    assert list(tmp_path.glob("head_memory_smoke_*.csv"))
