"""Metrics: one per file."""

from .energy_drift import EnergyDrift
from .perplexity import Perplexity

__all__ = ["EnergyDrift", "Perplexity"]
