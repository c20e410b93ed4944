"""The rules of the house: rooms, names, versions, links."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import orrery
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each room may import from those before it, and from its own files.
ROOMS = {
    "losses": set(),
    "layers": {"losses"},
    "metrics": set(),
    "optimizers": set(),
    "callbacks": {"layers", "metrics", "optimizers"},
    "datasets": set(),
    "testing": set(),
    "zoo": {
        "callbacks",
        "datasets",
        "layers",
        "losses",
        "metrics",
        "optimizers",
        "testing",
    },
}
# `_backend.py` alone may ask which backend runs, or import one.
BACKENDS = {"jax", "jaxlib", "tensorflow", "torch"}


def sources(*folders):
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py")
    )


def imported(path):
    """Absolute names of all modules that a file of the package imports."""
    package = ["orrery", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            parts = [*base] if node.level else []
            parts += [node.module] if node.module else []
            # `from ..x import y`: y may be a module or a name in one.
            yield from (".".join([*parts, a.name]) for a in node.names)


def identifier(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sources(*ROOMS), ids=identifier)
def test_rooms_import_downwards(path):
    room = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "orrery" and len(parts) > 1 and parts[1] in ROOMS:
            assert parts[1] in {room, *ROOMS[room]}, (
                f"{room}/ may import from {sorted(ROOMS[room])}; "
                f"{identifier(path)} imports {name}"
            )
        assert parts[0] not in {*ROOMS, "recipes", "benchmarks"}, (
            f"{identifier(path)} imports a bare {parts[0]}"
        )
        legacy = name.startswith("orrery.zoo.legacy")
        assert not legacy or "legacy" in path.parts, (
            f"{identifier(path)} imports {name}"
        )


@pytest.mark.parametrize("path", sources(*ROOMS), ids=identifier)
def test_backend_stays_in_its_file(path):
    for name in imported(path):
        assert name.split(".")[0] not in BACKENDS, (
            f"{identifier(path)} imports {name}"
        )
        assert not name.startswith("keras.src"), (
            f"{identifier(path)} imports {name}"
        )
    if path.relative_to(ROOT).parts[0] in ("layers", "losses", "metrics"):
        text = path.read_text(encoding="utf-8")
        assert "backend.backend()" not in text, (
            f"{identifier(path)} asks which backend runs"
        )


@pytest.mark.parametrize(
    "path", sources("recipes", "benchmarks", "tests"), ids=identifier
)
def test_scripts_import_the_package(path):
    for name in imported(path):
        top = name.split(".")[0]
        assert top not in ROOMS, f"{identifier(path)} imports a bare {top}"


def test_no_bare_room_was_imported():
    """Not even through the working directory on `sys.path`."""
    for room in ROOMS:
        module = sys.modules.get(room)
        assert not hasattr(module, "__path__"), f"{room} was imported bare"


def run_python(code):
    """A fresh process with the environment's backend; its output."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT / "docs",
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


def test_import_leaves_the_process_alone():
    """No seed, thread count or autograd flag; no optional package."""
    state = """
import os, sys, random, hashlib, keras, numpy as np
def state():
    values = [random.getstate(), np.random.get_state(), dict(os.environ),
              keras.config.backend(), keras.config.dtype_policy().name,
              keras.random.uniform.__module__, keras.config.floatx()]
    if "torch" in sys.modules:
        import torch
        values += [torch.get_rng_state().tolist(), torch.get_num_threads(),
                   torch.is_grad_enabled()]
    return hashlib.sha256(repr(values).encode()).hexdigest()
before, modules = state(), set(sys.modules)
import orrery
assert state() == before
new = {name.split(".")[0] for name in set(sys.modules) - modules}
print(*(new & {"jax", "torch", "tensorflow", "keras_hub", "matplotlib",
               "tensorflow_datasets", "tokenizers"}))
"""
    assert run_python(state) == []


def test_import_respects_the_backend():
    import keras

    found = run_python("import orrery, keras; print(keras.backend.backend())")
    assert found == [keras.backend.backend()]


def test_public_classes_have_docstrings():
    missing = [
        f"{identifier(path)}: {node.name}"
        for path in sources(*ROOMS)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not missing


@pytest.mark.parametrize("room", ["layers", "losses", "metrics", "zoo"])
def test_keras_objects_are_registered(room):
    import keras

    bases = (keras.layers.Layer, keras.losses.Loss, keras.metrics.Metric)
    wrong = []
    for path in sources(room):
        name = ".".join(
            ("orrery", *path.relative_to(ROOT).with_suffix("").parts)
        )
        module = importlib.import_module(name.removesuffix(".__init__"))
        for item in vars(module).values():
            if (
                inspect.isclass(item)
                and issubclass(item, bases)
                and item.__module__ == name
                and not item.__name__.startswith("_")
                and keras.saving.get_registered_name(item)
                != f"orrery>{item.__name__}"
            ):
                wrong.append(f"{name}.{item.__name__}")
    assert not wrong


@pytest.mark.cross_backend
def test_examples_of_the_readme():
    pytest.importorskip("keras_hub")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    check = "rotation = np.exp(0.6435j)\n"
    check += "assert np.abs(operator.spectrum() - rotation).min() < 1e-3\n"
    check += "assert np.abs(predicted - x @ angle.T).max() < 1e-3\n"
    run_python("\n".join([*blocks, check]))


def test_a_missing_backend_says_what_to_install():
    import keras

    backend = keras.backend.backend()
    code = f"import sys; sys.modules[{backend!r}] = None; import orrery"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert process.returncode != 0
    assert f'pip install "orrery[{backend}]"' in process.stderr


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.search(r"^version: (\S+)$", citation, re.M).group(1)
    latest = re.search(r"^## (\d\S*)", changelog, re.M).group(1)
    assert orrery.__version__ == project["version"] == version == latest


def test_every_room_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = settings["tool"]["setuptools"]["packages"]
    rooms = {
        ".".join(("orrery", *path.relative_to(ROOT).parts[:-1]))
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(packages) == {"orrery", *rooms}


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]),
    ids=identifier,
)
def test_relative_links(path):
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:|#", target):
            continue
        file = path.parent / target.split("#")[0]
        assert file.exists(), f"{identifier(path)} links to {target}"
