"""Orrery: a Keras 3 zoo of networks built from dynamical systems.

Importing it registers every layer, loss, metric and model with Keras, so that
`.keras` files find them. It picks no backend and sets no seed.
"""

from . import callbacks, layers, losses, metrics, optimizers, zoo
from .zoo.registry import list_models, load

__version__ = "0.1.0"

__all__ = [
    "callbacks",
    "layers",
    "list_models",
    "load",
    "losses",
    "metrics",
    "optimizers",
    "zoo",
]
