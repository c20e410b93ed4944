"""Callbacks: what happens around a step."""

from .expert_usage import ExpertUsage
from .koopman_monitor import KoopmanMonitor
from .koopman_schedule import KoopmanSchedule
from .lagrange_multiplier import LagrangeMultiplier
from .non_finite_guard import NonFiniteGuard
from .training_state import TrainingState

__all__ = [
    "ExpertUsage",
    "KoopmanMonitor",
    "KoopmanSchedule",
    "LagrangeMultiplier",
    "NonFiniteGuard",
    "TrainingState",
]
