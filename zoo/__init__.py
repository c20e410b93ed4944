"""The models, one per file, and the registry of trained ones."""

from .koopman_lm import KoopmanLM

__all__ = ["KoopmanLM"]
