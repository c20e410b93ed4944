"""Losses: one per file, independent of every other room."""

from .energy_conservation import EnergyConservation
from .fused_linear_crossentropy import fused_linear_crossentropy
from .gaussian_divergence import gaussian_divergence
from .koopman_consistency import KoopmanConsistency
from .spectral_penalty import SpectralPenalty

__all__ = [
    "EnergyConservation",
    "KoopmanConsistency",
    "SpectralPenalty",
    "fused_linear_crossentropy",
    "gaussian_divergence",
]
