"""Orrery: a Keras 3 zoo of networks built from dynamical systems."""

__version__ = "0.1.0"
