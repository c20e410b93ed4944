"""Contracts for layers, losses and metrics, and the cross-backend harness.

Needs NumPy alone; a contract runs on the backend of the process.
"""

from .contract import run_layer_contract
from .cross_backend import (
    compare_backends,
    installed_backends,
    updated_weights,
)
from .loss_contract import run_loss_contract
from .metric_contract import run_metric_contract

__all__ = [
    "compare_backends",
    "installed_backends",
    "run_layer_contract",
    "run_loss_contract",
    "run_metric_contract",
    "updated_weights",
]
