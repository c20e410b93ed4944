"""The models, one per file, and the registry of trained ones."""

from .koopman_lm import KoopmanLM
from .lstm_lm import LSTMLM

__all__ = ["KoopmanLM", "LSTMLM"]
