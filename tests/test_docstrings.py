"""The examples of the docstrings, run as they stand."""

import ast
import doctest
import importlib
import textwrap
from pathlib import Path

import keras
import numpy as np
import orrery
import pytest
from keras import ops
from orrery import callbacks, datasets, layers, losses, metrics, optimizers, zoo

ROOMS = (callbacks, datasets, layers, losses, metrics, optimizers, zoo)
# Their examples need files that are not in the repository.
NEED_DATA = {"load_text", "WikiText2"}


def examples():
    """Every section `Example` of a room: where it stands, and its text."""
    for room in ROOMS:
        for path in sorted(Path(room.__path__[0]).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                    text = ast.get_docstring(node) or ""
                    text = text.partition("Example:")[2].split("Reference:")[0]
                    if text and node.name not in NEED_DATA:
                        module = f"{room.__name__}.{path.stem}"
                        yield pytest.param(module, text, id=node.name)


def run(text, names):
    """Run an example in either form; what it says it prints, it must."""
    if "```" in text:
        exec(text.split("```python")[1].split("```")[0], names)
        return
    for step in doctest.DocTestParser().get_examples(textwrap.dedent(text)):
        if step.want:
            assert repr(eval(step.source, names)) == step.want.strip()
        else:
            exec(step.source, names)


@pytest.fixture(scope="module")
def surroundings():
    """What examples take for granted: names, a model and its data."""
    model = zoo.KoopmanLM(
        20, dim=8, num_layers=2, num_heads=2, koopman={"lift_dim": 4}
    )
    model.build()
    model.compile("adam")
    x = np.random.default_rng(0).integers(0, 20, (4, 7), "int32")
    batches = datasets.LanguageBatches(x[:, :-1], x[:, 1:], batch_size=2)
    names = {"keras": keras, "np": np, "ops": ops, "orrery": orrery}
    names |= {"model": model, "dataset": batches, "batches": batches}
    for room in ROOMS:
        names |= {name: getattr(room, name) for name in room.__all__}
    return names


@pytest.mark.one_backend("torch")
@pytest.mark.parametrize(("module", "text"), list(examples()))
def test_example(module, text, surroundings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(text, {**surroundings, **vars(importlib.import_module(module))})
