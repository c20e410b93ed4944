"""Data sets: readers, vocabularies, blocks and batches."""

from .blocks import blocks
from .byte_pair import BytePairVocabulary
from .byte_vocabulary import ByteVocabulary
from .digits import digits, noisy_patterns
from .dynamics import henon_heiles, kepler, mass_spring, pendulum, simulate
from .labelled_batches import LabelledBatches
from .language_batches import LanguageBatches
from .mechanical_systems import (
    MechanicalSystem,
    henon_heiles_system,
    kepler_system,
    mass_spring_system,
    pendulum_system,
)
from .stdlib import read_stdlib
from .text import TextData, load_text, load_vocabulary
from .text_file import read_text_file
from .time_grid import time_step
from .trajectory_file import read_trajectories, write_trajectories
from .trajectory_windows import TrajectoryWindows
from .vocabulary import Vocabulary
from .wikitext2 import read_wikitext2

__all__ = [
    "BytePairVocabulary",
    "ByteVocabulary",
    "LabelledBatches",
    "LanguageBatches",
    "MechanicalSystem",
    "TextData",
    "TrajectoryWindows",
    "Vocabulary",
    "blocks",
    "digits",
    "henon_heiles",
    "henon_heiles_system",
    "kepler",
    "kepler_system",
    "load_text",
    "load_vocabulary",
    "mass_spring",
    "mass_spring_system",
    "noisy_patterns",
    "pendulum",
    "pendulum_system",
    "read_stdlib",
    "read_text_file",
    "read_trajectories",
    "read_wikitext2",
    "simulate",
    "time_step",
    "write_trajectories",
]
