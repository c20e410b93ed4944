"""Orrery: a Keras 3 zoo of networks built from dynamical systems.

Importing it registers every layer, loss, metric and model with Keras, so that
`.keras` files find them. It picks no backend and sets no seed.
"""

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    backend = (error.name or "").partition(".")[0]
    if backend in ("jax", "torch", "tensorflow"):
        error.add_note(
            f"Keras is set to compute with {backend}, which is not installed. "
            f'Run: pip install "orrery[{backend}]", or set KERAS_BACKEND to '
            "jax, torch or tensorflow, whichever is installed."
        )
    raise
except ValueError as error:
    error.add_note("KERAS_BACKEND must be jax, torch or tensorflow.")
    raise

from . import callbacks, datasets, layers, losses, metrics, optimizers, zoo
from .zoo.registry import list_models, load

__version__ = "0.1.0"

__all__ = [
    "callbacks",
    "datasets",
    "layers",
    "list_models",
    "load",
    "losses",
    "metrics",
    "optimizers",
    "zoo",
]
