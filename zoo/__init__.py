"""The models, one per file, and the registry of trained ones."""

from .hamiltonian_lm import HamiltonianLM
from .hamiltonian_net import HamiltonianNet
from .koopman_lm import KoopmanLM
from .lstm_lm import LSTMLM
from .neural_ode import NeuralODE
from .plain_hnn import PlainHNN

__all__ = [
    "HamiltonianLM",
    "HamiltonianNet",
    "KoopmanLM",
    "LSTMLM",
    "NeuralODE",
    "PlainHNN",
]
