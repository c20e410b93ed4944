"""Layers: one concept per file, written once in Keras for every backend."""

from .causal_attention import CausalSelfAttention
from .decoder_block import DecoderBlock
from .edmd import StreamingEDMD
from .koopman_operator import KoopmanOperator
from .language_head import LanguageHead
from .lift import Lift
from .linear_recurrence import LinearRecurrence
from .mixture_of_experts import MixtureOfExperts
from .resolvent_mixer import ResolventMixer

__all__ = [
    "CausalSelfAttention",
    "DecoderBlock",
    "KoopmanOperator",
    "LanguageHead",
    "Lift",
    "LinearRecurrence",
    "MixtureOfExperts",
    "ResolventMixer",
    "StreamingEDMD",
]
