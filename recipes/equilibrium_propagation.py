"""Train a classifier by equilibrium propagation, beside back-propagation.

    python recipes/equilibrium_propagation.py                  # digits
    python recipes/equilibrium_propagation.py --dataset synthetic
    python recipes/equilibrium_propagation.py --hidden-dims 128 64 --rho tanh

The network answers by relaxing to the minimum of an energy, and learns from
the difference of two minima a small nudge apart, without a backward pass.
Beside it, on the same batches: back-propagation through the same energy, from
the same weights; and an ordinary network of the same widths under AdamW.
Numbers, pictures and `report.md` are left in `--out`.
"""

import math

import _command_line

ARMS = ("equilibrium", "one_sided", "backprop", "mlp")
DEFAULT_ARMS = ("equilibrium", "backprop", "mlp")


def command_line(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add(
        "--dataset",
        default="digits",
        choices=("digits", "synthetic"),
        help="digits: the 1,797 of scikit-learn; synthetic: noisy patterns",
    )
    add("--epochs", type=int, default=30, help="passes over the data")
    add(
        "--learning-rate",
        type=float,
        default=1e-2,
        help="the highest, of the networks with an energy",
    )
    add(
        "--mlp-learning-rate",
        type=float,
        default=3e-3,
        help="the highest, of the ordinary network",
    )
    add("--hidden-dims", type=int, nargs="+", default=[128], help="widths")
    add("--beta", type=float, default=0.1, help="strength of the nudge")
    add(
        "--rho",
        default="tanh",
        choices=("tanh", "hard_sigmoid"),
        help="activity of a state",
    )
    add("--step-size", type=float, default=0.5, help="of the descent")
    add("--max-steps", type=int, default=500, help="of each descent")
    add("--tolerance", type=float, default=1e-6, help="of its residual")
    add(
        "--unrolled-steps",
        type=int,
        default=30,
        help="steps at the equilibrium that back-propagation goes through",
    )
    add(
        "--arms",
        nargs="+",
        choices=ARMS,
        default=DEFAULT_ARMS,
        help="what to train; one_sided nudges to one side only",
    )
    flags.set_defaults(batch_size=64)
    arguments = _command_line.parse(flags, argv)
    if arguments.data_dir is not None:
        flags.error("--data-dir has no effect: nothing is downloaded")
    for name in ("epochs", "max_steps", "unrolled_steps"):
        if getattr(arguments, name) < 1:
            flags.error(
                f"--{name.replace('_', '-')} must be at least 1; got "
                f"{getattr(arguments, name)}"
            )
    for name in ("learning_rate", "mlp_learning_rate"):
        if not 0 < getattr(arguments, name) < math.inf:
            flags.error(
                f"--{name.replace('_', '-')} must be above 0; got "
                f"{getattr(arguments, name)}"
            )
    return arguments


@_command_line.plain_errors
def main(argv=None):
    arguments = command_line(argv)

    import _equilibrium_experiment

    _equilibrium_experiment.run(arguments)


if __name__ == "__main__":
    main()
