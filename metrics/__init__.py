"""Metrics: one per file."""

from .compute_cost import exit_compute_cost
from .energy_drift import EnergyDrift
from .perplexity import Perplexity
from .risk_control import calibrate_threshold, risk_resampling

__all__ = [
    "EnergyDrift",
    "Perplexity",
    "calibrate_threshold",
    "exit_compute_cost",
    "risk_resampling",
]
