"""Optimizers and what guards them."""

from .adamw_cosine import adamw_cosine
from .guarded_optimizer import GuardedOptimizer

__all__ = ["GuardedOptimizer", "adamw_cosine"]
