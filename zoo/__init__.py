"""The models, one per file, and the registry of trained ones."""

from .early_exit_lm import EarlyExitLM
from .equilibrium_classifier import EquilibriumClassifier
from .hamiltonian_lm import HamiltonianLM
from .hamiltonian_net import HamiltonianNet
from .koopman_lm import KoopmanLM
from .lstm_lm import LSTMLM
from .neural_ode import NeuralODE
from .plain_hnn import PlainHNN
from .unrolled_classifier import UnrolledClassifier

__all__ = [
    "EarlyExitLM",
    "EquilibriumClassifier",
    "HamiltonianLM",
    "HamiltonianNet",
    "KoopmanLM",
    "LSTMLM",
    "NeuralODE",
    "PlainHNN",
    "UnrolledClassifier",
]
