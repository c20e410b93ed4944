"""Metrics: one per file."""

from .compute_cost import exit_compute_cost
from .energy_drift import EnergyDrift
from .forecast_scores import (
    central_interval,
    crps,
    interval_coverage,
    nrmse,
    skill_score,
    window_mean_relative_error,
)
from .perplexity import Perplexity
from .risk_control import calibrate_threshold, risk_resampling
from .timegan_scores import discriminative_score, predictive_score

__all__ = [
    "EnergyDrift",
    "Perplexity",
    "calibrate_threshold",
    "central_interval",
    "crps",
    "discriminative_score",
    "exit_compute_cost",
    "interval_coverage",
    "nrmse",
    "predictive_score",
    "risk_resampling",
    "skill_score",
    "window_mean_relative_error",
]
