"""Metrics: one per file."""

from .compute_cost import exit_compute_cost
from .energy_drift import EnergyDrift
from .perplexity import Perplexity

__all__ = ["EnergyDrift", "Perplexity", "exit_compute_cost"]
