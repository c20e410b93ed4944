"""Callbacks: what happens around a step."""

from .exit_histogram import ExitHistogram
from .expert_usage import ExpertUsage
from .koopman_monitor import KoopmanMonitor
from .koopman_schedule import KoopmanSchedule
from .lagrange_multiplier import LagrangeMultiplier
from .non_finite_guard import NonFiniteGuard
from .routed_evaluation import RoutedEvaluation
from .training_state import TrainingState

__all__ = [
    "ExitHistogram",
    "ExpertUsage",
    "KoopmanMonitor",
    "KoopmanSchedule",
    "LagrangeMultiplier",
    "NonFiniteGuard",
    "RoutedEvaluation",
    "TrainingState",
]
