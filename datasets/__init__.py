"""Data sets: readers, vocabularies, blocks and batches."""

from .blocks import blocks
from .bsm1 import BSM1Plant
from .byte_pair import BytePairVocabulary
from .byte_vocabulary import ByteVocabulary
from .digits import digits, noisy_patterns
from .dynamics import henon_heiles, kepler, mass_spring, pendulum, simulate
from .forecast_windows import ForecastWindows
from .influent import generated_influent, load_influent
from .labelled_batches import LabelledBatches
from .language_batches import LanguageBatches
from .mechanical_systems import (
    MechanicalSystem,
    henon_heiles_system,
    kepler_system,
    mass_spring_system,
    pendulum_system,
)
from .plant_data import load_plant_data
from .plant_performance import plant_performance
from .plant_simulation import simulate_plant
from .series import Episode, SeriesData
from .series_batches import SeriesBatches
from .stdlib import read_stdlib
from .text import TextData, load_text, load_vocabulary
from .text_file import read_text_file
from .time_grid import time_step
from .timeseries import drop_values, read_series, sines, stock_windows
from .trajectory_file import read_trajectories, write_trajectories
from .trajectory_windows import TrajectoryWindows
from .vocabulary import Vocabulary
from .wikitext2 import read_wikitext2

__all__ = [
    "BSM1Plant",
    "BytePairVocabulary",
    "ByteVocabulary",
    "Episode",
    "ForecastWindows",
    "LabelledBatches",
    "LanguageBatches",
    "MechanicalSystem",
    "SeriesBatches",
    "SeriesData",
    "TextData",
    "TrajectoryWindows",
    "Vocabulary",
    "blocks",
    "digits",
    "drop_values",
    "generated_influent",
    "henon_heiles",
    "henon_heiles_system",
    "kepler",
    "kepler_system",
    "load_influent",
    "load_plant_data",
    "load_text",
    "load_vocabulary",
    "mass_spring",
    "mass_spring_system",
    "noisy_patterns",
    "pendulum",
    "pendulum_system",
    "plant_performance",
    "read_series",
    "read_stdlib",
    "read_text_file",
    "read_trajectories",
    "read_wikitext2",
    "simulate",
    "simulate_plant",
    "sines",
    "stock_windows",
    "time_step",
    "write_trajectories",
]
