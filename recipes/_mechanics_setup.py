"""What `hamiltonian_mechanics.py` trains on: simulated, or a user's file."""

import dataclasses
import math
import pathlib

import numpy as np
from _command_line import default_folder
from orrery.datasets import (
    henon_heiles_system,
    kepler_system,
    mass_spring_system,
    pendulum_system,
    read_trajectories,
    simulate,
    time_step,
)
from orrery.datasets.corpus import file_sha256

SYSTEMS = {
    "pendulum": pendulum_system,
    "spring": mass_spring_system,
    "kepler": kepler_system,
    "henon_heiles": henon_heiles_system,
}
NUM_POINTS = 50
VALID_TRAJECTORIES = TEST_TRAJECTORIES = 20
# Every seed of a run is judged on the same trajectories.
TEST_SEED, VALID_SEED = 10**6, 10**6 + 1
HORIZONS = (10, 100, 1000)
EPOCHS = {"pendulum": 50, "spring": 50}
MORE_EPOCHS = 150
# Of a user's file, what is trained on, what validates; the rest tests.
TRAIN_PART, VALID_PART = 0.7, 0.15
SMOKE = {
    "epochs": 2,
    "trajectories": 16,
    "window": 2,
    "hidden_dim": 8,
    "rollout_steps": 200,
}


@dataclasses.dataclass
class Problem:
    """Trajectories in three parts, and the true system where it is known."""

    name: str
    dim: int
    step_size: float
    parts: dict
    system: object
    num_controls: int
    friction: bool
    units: dict
    source: dict

    @property
    def conserves(self):
        """Whether a true energy exists, and stays what it is."""
        known = self.system is not None
        return known and not self.friction and not self.num_controls


def complete(arguments):
    """Fill in what depends on other flags."""
    stem = pathlib.Path(arguments.system).stem
    name = f"hamiltonian_mechanics-{stem}-{arguments.backend}"
    if arguments.out is None:
        arguments.out = default_folder(name, arguments.resume)
    if arguments.smoke:
        for flag, value in SMOKE.items():
            setattr(arguments, flag, value)
    if arguments.epochs is None:
        arguments.epochs = EPOCHS.get(arguments.system, MORE_EPOCHS)
    if arguments.rollout_steps is None:
        # With a control the truth is integrated from point to point.
        arguments.rollout_steps = 1_000 if arguments.control else 10_000


def load_problem(arguments):
    """The `Problem` that the flags describe."""
    if arguments.system not in SYSTEMS:
        return _from_file(arguments)
    if arguments.seed in (TEST_SEED, VALID_SEED):
        raise SystemExit(
            f"--seed must not be {arguments.seed}: from it come the "
            "trajectories that every run is judged on"
        )
    system = SYSTEMS[arguments.system]()

    def make(count, points, seed, noise=0.0):
        return simulate(
            system,
            count,
            points,
            step_size=arguments.step_size,
            seed=seed,
            noise=noise,
            friction=arguments.friction,
            control=_forcing(arguments, seed, (count, points, system.dim)),
        )

    parts = {
        "train": make(
            arguments.trajectories,
            NUM_POINTS,
            arguments.seed,
            arguments.noise,
        ),
        "valid": make(VALID_TRAJECTORIES, NUM_POINTS, VALID_SEED),
        "test": make(TEST_TRAJECTORIES, arguments.rollout_steps + 1, TEST_SEED),
    }
    return Problem(
        name=arguments.system,
        dim=system.dim,
        step_size=arguments.step_size,
        parts=parts,
        system=system,
        num_controls=system.dim if arguments.control else 0,
        friction=arguments.friction > 0 or arguments.learn_friction,
        units={},
        source={"simulated": "SciPy DOP853, tolerance 1e-12"},
    )


def _forcing(arguments, seed, shape):
    """A random force, another in every step, or `None`."""
    if not arguments.control:
        return None
    generator = np.random.default_rng([seed, 2])
    return generator.uniform(-arguments.control, arguments.control, shape)


def _from_file(arguments):
    path = pathlib.Path(arguments.system).expanduser()
    if path.suffix != ".csv":
        raise ValueError(
            f"--system must be one of {', '.join(SYSTEMS)}, or the path of a "
            f".csv file. Received: {arguments.system!r}"
        )
    data = read_trajectories(path)
    parts = split_trajectories(data, arguments.window, path)
    step_size = time_step(data)
    return Problem(
        name=path.stem,
        dim=data["q"].shape[-1],
        step_size=step_size,
        parts=parts,
        system=None,
        num_controls=data["u"].shape[-1] if "u" in data else 0,
        friction=arguments.learn_friction,
        units=typical_values(parts["train"], step_size, path),
        source={"file": path.name, "sha256": file_sha256(path)},
    )


def split_trajectories(data, window, path):
    """Training, validation and test trajectories of a user's file.

    Whole trajectories where there are at least three; else each is cut in
    three, one part behind the other.

    Raises:
        ValueError: if a part has no window of that many steps.
    """
    count = len(data["q"])
    if count >= 3:
        first = min(count - 2, max(1, round(TRAIN_PART * count)))
        second = min(count - 1, first + max(1, round(VALID_PART * count)))
        cuts = [slice(0, first), slice(first, second), slice(second, count)]
        parts = [{k: x[cut] for k, x in data.items()} for cut in cuts]
    else:
        # Of each as much as the shortest has.
        points = int(data["length"].min())
        first = round(TRAIN_PART * points)
        second = round((TRAIN_PART + VALID_PART) * points)
        cuts = [slice(0, first), slice(first, second), slice(second, points)]
        parts = [
            {k: x[:, cut] for k, x in data.items() if k != "length"}
            for cut in cuts
        ]
        for part in parts:
            part["length"] = np.full(count, part["q"].shape[1])
    for name, part in zip(("train", "valid", "test"), parts, strict=True):
        if part["length"].max() <= window:
            raise ValueError(
                f"{path}: the longest trajectory of the {name} part has "
                f"{part['length'].max()} points; --window {window} needs "
                f"{window + 1}"
            )
    return dict(zip(("train", "valid", "test"), parts, strict=True))


def typical_values(data, step_size, path):
    """The units in which a user's data are of order one.

    Raises:
        ValueError: if positions or momenta never change.
    """

    def size(x):
        return float(np.sqrt(np.nanmean(np.square(x))))

    units = {name: size(data[name]) for name in "qpu" if name in data}
    velocity = size(np.diff(data["q"], axis=1) / step_size)
    if not units["q"] or not units["p"] or not velocity:
        raise ValueError(
            f"{path}: the positions or the momenta of the training part never "
            "change; there is nothing to learn."
        )
    units["t"] = units["q"] / velocity
    return {name: value or 1.0 for name, value in units.items()}


def shared_points(problem):
    """The points that every test trajectory has."""
    test = problem.parts["test"]
    return int(np.min(test.get("length", test["q"].shape[1])))


def check_positive(flags, arguments):
    """Say which number is out of its range."""
    for name in (
        "epochs",
        "trajectories",
        "window",
        "hidden_dim",
        "rollout_steps",
    ):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            flags.error(f"--{flag} must be at least 1; got {value}")
    for name in ("noise", "friction", "control"):
        value = getattr(arguments, name)
        if not 0 <= value < math.inf:
            flags.error(f"--{name} must not be negative; got {value}")
    for name in ("learning_rate", "step_size"):
        value = getattr(arguments, name)
        if not 0 < value < math.inf:
            flag = name.replace("_", "-")
            flags.error(f"--{flag} must be above 0; got {value}")
