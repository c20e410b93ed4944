"""Layers: one concept per file, written once in Keras for every backend."""

from .attention_potential import AttentionPotential
from .causal_attention import CausalSelfAttention
from .decoder_block import DecoderBlock
from .early_exit import EarlyExitRouter
from .edmd import StreamingEDMD
from .energy_account import EnergyAccount
from .equilibrium_propagation import EquilibriumPropagation
from .hamiltonian import HamiltonianBlock
from .hopfield_energy import HopfieldEnergy
from .koopman_operator import KoopmanOperator
from .kovae_decoder import KoVAEDecoder
from .kovae_encoder import KoVAEEncoder
from .kovae_prior import KoVAEPrior
from .language_head import LanguageHead
from .lift import Lift
from .linear_recurrence import LinearRecurrence
from .mechanical_potentials import (
    HarmonicPotential,
    HenonHeilesPotential,
    KeplerPotential,
    PendulumPotential,
)
from .mixture_of_experts import MixtureOfExperts
from .mlp_potential import MLPPotential
from .pairwise_potential import PairwisePotential
from .potential import Potential
from .radial_potential import RadialPotential
from .resolvent_mixer import ResolventMixer
from .selective_koopman import SelectiveKoopman
from .stable_koopman import StableKoopman
from .two_layer_potential import TwoLayerPotential

__all__ = [
    "AttentionPotential",
    "CausalSelfAttention",
    "DecoderBlock",
    "EarlyExitRouter",
    "EnergyAccount",
    "EquilibriumPropagation",
    "HamiltonianBlock",
    "HarmonicPotential",
    "HenonHeilesPotential",
    "HopfieldEnergy",
    "KeplerPotential",
    "KoVAEDecoder",
    "KoVAEEncoder",
    "KoVAEPrior",
    "KoopmanOperator",
    "LanguageHead",
    "Lift",
    "LinearRecurrence",
    "MLPPotential",
    "MixtureOfExperts",
    "PairwisePotential",
    "PendulumPotential",
    "Potential",
    "RadialPotential",
    "ResolventMixer",
    "SelectiveKoopman",
    "StableKoopman",
    "StreamingEDMD",
    "TwoLayerPotential",
]
