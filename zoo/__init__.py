"""The models, one per file, and the registry of trained ones."""

from .deep_koopman import DeepKoopman
from .early_exit_lm import EarlyExitLM
from .equilibrium_classifier import EquilibriumClassifier
from .hamiltonian_lm import HamiltonianLM
from .hamiltonian_net import HamiltonianNet
from .koopman_lm import KoopmanLM
from .kovae import KoVAE
from .kovae_generator import KoVAEGenerator
from .lstm_lm import LSTMLM
from .mamko import MamKO
from .neural_ode import NeuralODE
from .plain_forecasters import GRUForecaster, MLPForecaster
from .plain_hnn import PlainHNN
from .unrolled_classifier import UnrolledClassifier

__all__ = [
    "DeepKoopman",
    "EarlyExitLM",
    "EquilibriumClassifier",
    "GRUForecaster",
    "HamiltonianLM",
    "HamiltonianNet",
    "KoVAE",
    "KoVAEGenerator",
    "KoopmanLM",
    "LSTMLM",
    "MLPForecaster",
    "MamKO",
    "NeuralODE",
    "PlainHNN",
    "UnrolledClassifier",
]
