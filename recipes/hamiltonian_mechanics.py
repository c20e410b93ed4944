"""Learn a mechanical system from trajectories, beside its controls.

    python recipes/hamiltonian_mechanics.py                    # a pendulum
    python recipes/hamiltonian_mechanics.py --system kepler
    python recipes/hamiltonian_mechanics.py --system my_data.csv

Six networks of about as many weights are trained on the same windows: the
Hamiltonian network under a symplectic integrator of order 4, the same under
one of order 2, under Runge-Kutta and under forward Euler, a Hamiltonian that is
not separable, and a neural ODE. `--arms radial` is the first with a potential
of the distance to the origin alone. They are judged by the true system's energy
along what they predict, and by positions. Numbers, pictures and `report.md` are
left in `--out`.
"""

import _command_line
from _mechanics_names import NAMES

DEFAULT_ARMS = tuple(arm for arm in NAMES if arm != "radial")
# What a user's file decides, where a simulation is told.
SIMULATED = ("trajectories", "step_size", "noise", "friction", "control")


def command_line(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add(
        "--system",
        "--dataset",
        default="pendulum",
        help="pendulum, spring, kepler, henon_heiles, or the path of a .csv "
        "file with the columns trajectory, t, q0 ..., p0 ..., perhaps u0 ...",
    )
    add("--preset", help="of HamiltonianNet, instead of --hidden-dim")
    add(
        "--epochs",
        type=int,
        help="passes over the windows (default: 50 for pendulum and spring, "
        "else 150)",
    )
    add("--learning-rate", type=float, default=1e-2, help="the highest")
    add("--window", type=int, default=10, help="steps that the loss spans")
    add(
        "--hidden-dim",
        type=int,
        default=32,
        help="width of the learned potential; the other arms get as many "
        "weights",
    )
    add(
        "--integrator",
        default="yoshida4",
        choices=("yoshida4", "leapfrog", "symplectic_euler"),
        help="of the arm hamiltonian",
    )
    add("--trajectories", type=int, default=200, help="simulated for training")
    add(
        "--step-size",
        type=float,
        default=0.1,
        help="simulated: time between two points",
    )
    add(
        "--noise",
        type=float,
        default=0.0,
        help="standard deviation on the training states",
    )
    add("--friction", type=float, default=0.0, help="simulated, in 1 / time")
    add(
        "--control",
        type=float,
        default=0.0,
        help="simulated: largest size of a random force, another every step",
    )
    add(
        "--learn-friction",
        action="store_true",
        help="whether the separable arms have a friction; they have with "
        "--friction",
    )
    add(
        "--rollout-steps",
        type=int,
        help="of the long roll-outs (default: 10000, with --control 1000)",
    )
    add(
        "--arms",
        nargs="+",
        choices=tuple(NAMES),
        default=DEFAULT_ARMS,
        help="what to train",
    )
    flags.set_defaults(batch_size=64)
    arguments = _command_line.parse(flags, argv)
    if arguments.data_dir is not None:
        flags.error("--data-dir has no effect: nothing is downloaded")
    if arguments.system.endswith(".csv"):
        for name in SIMULATED:
            if getattr(arguments, name) != flags.get_default(name):
                flag = name.replace("_", "-")
                flags.error(
                    f"--{flag} has no effect with a file; got "
                    f"{getattr(arguments, name)}"
                )
    if (
        arguments.preset is not None
        and arguments.hidden_dim != flags.get_default("hidden_dim")
    ):
        flags.error("--hidden-dim has no effect with --preset")

    from _mechanics_setup import check_positive

    check_positive(flags, arguments)
    return arguments


@_command_line.plain_errors
def main(argv=None):
    arguments = command_line(argv)

    import _mechanics_experiment

    _mechanics_experiment.run(arguments)


if __name__ == "__main__":
    main()
