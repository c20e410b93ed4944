"""Optimizers and what guards them."""

from .adamw_cosine import adamw_cosine
from .guarded_optimizer import GuardedOptimizer
from .symplectic import SymplecticAdam, SymplecticSGD

__all__ = [
    "GuardedOptimizer",
    "SymplecticAdam",
    "SymplecticSGD",
    "adamw_cosine",
]
