"""The flags of the benchmarks that time training steps."""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from _train_step_variants import SIZES, installed

BACKENDS = ("jax", "tensorflow", "torch")


class Count(NamedTuple):
    """A flag that takes a positive integer, and the most that a smoke does."""

    default: int
    smoke: int
    help: str


def parser(description, counts):
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    add = flags.add_argument
    add("--backend", nargs="+", choices=BACKENDS, help="default: all installed")
    add("--size", choices=sorted(SIZES), default="d64", help="default: d64")
    for name, count in counts.items():
        add(f"--{name}", type=int, default=count.default, help=count.help)
    add("--out", type=Path, help="folder of the CSV; default: results/")
    add("--smoke", action="store_true", help="tiny models, no claims")
    return flags


def parse(flags, counts):
    """The arguments, checked, their backends installed."""
    arguments = flags.parse_args()
    for name, count in counts.items():
        value = getattr(arguments, name)
        if value < 1:
            flags.error(f"--{name} must be at least 1; got {value}")
        if arguments.smoke:
            setattr(arguments, name, min(value, count.smoke))
    if arguments.smoke:
        arguments.size = "smoke"
        arguments.out = arguments.out or Path(tempfile.mkdtemp())
    present = [name for name in BACKENDS if installed(name)]
    arguments.backend = arguments.backend or present
    if missing := set(arguments.backend) - set(present):
        flags.error(f"--backend {' '.join(missing)}: not installed")
    return arguments
