"""Train a language model of bytes whose tokens may leave early.

    python recipes/early_exit_lm.py                      # embedded, minutes
    python recipes/early_exit_lm.py --dataset wikitext2  # the experiment
    python recipes/early_exit_lm.py --dataset wikitext2 --protocol legacy

The network (`exits`) is trained with a loss at its exit; beside it the layers
below the exit alone (`shallow`) and, with `--arms`, all of them without one
(`full`). Then, on text that no arm was trained on, the exit head is fitted and
thresholds are calibrated. Test text is scored in the end: perplexity against
multiply-accumulates and against time, with the other arms beside it.
`--protocol legacy` is the original's run instead, over words, faults included;
it also reads a folder of the raw files, which its published figures are of.
Numbers, pictures and `report.md` are left in `--out`.
"""

import math

import _command_line

ARMS = ("exits", "full", "shallow")
DEFAULT_ARMS = ("exits", "shallow")
LEGACY = {"backend", "data_dir", "seed", "dataset", "out", "smoke"}
LEGACY |= {"protocol", "init", "resume"}
DEFAULTS = {
    "stdlib": {"preset": "early_exit_lm_stdlib", "epochs": 1},
    "wikitext2": {"preset": "early_exit_lm_small", "epochs": 2},
}


def command_line(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add(
        "--dataset",
        default="stdlib",
        help="stdlib, wikitext2, or the path of a text file",
    )
    text, wikitext2 = DEFAULTS["stdlib"], DEFAULTS["wikitext2"]
    for name, kind, what in (
        ("preset", str, "of EarlyExitLM"),
        ("epochs", int, "passes over the data"),
    ):
        add(
            f"--{name}",
            type=kind,
            help=f"{what} (default: {text[name]}, for wikitext2 "
            f"{wikitext2[name]})",
        )
    add(
        "--saves-per-epoch",
        type=int,
        default=1,
        help="how often the state is written from which --resume goes on",
    )
    add("--learning-rate", type=float, default=2e-3, help="the highest")
    add(
        "--arms",
        nargs="+",
        choices=ARMS,
        default=DEFAULT_ARMS,
        help="what to train: exits, and what to compare it with",
    )
    add(
        "--protocol",
        default="honest",
        choices=("honest", "legacy"),
        help="legacy is the original network under its own protocol",
    )
    add(
        "--init",
        default="torch",
        choices=("torch", "keras"),
        help="of legacy: the original's initial weights, or Keras's draws",
    )
    arguments = _command_line.parse(flags, argv)
    if arguments.protocol == "legacy":
        _command_line.refuse(flags, arguments, "--protocol legacy", LEGACY)
    elif arguments.init != flags.get_default("init"):
        flags.error("--init has no effect without --protocol legacy")
    if not 0 < arguments.learning_rate < math.inf:
        flags.error(
            f"--learning-rate must be above 0; got {arguments.learning_rate}"
        )
    if arguments.epochs is not None and arguments.epochs < 1:
        flags.error(f"--epochs must be at least 1; got {arguments.epochs}")
    if arguments.saves_per_epoch < 1:
        flags.error(
            "--saves-per-epoch must be at least 1; got "
            f"{arguments.saves_per_epoch}"
        )
    if "exits" not in arguments.arms:
        flags.error(f"--arms must have exits; got {' '.join(arguments.arms)}")
    return arguments


@_command_line.plain_errors
def main(argv=None):
    arguments = command_line(argv)
    if arguments.protocol == "legacy":
        import _ashem_experiment

        _ashem_experiment.run(arguments)
        return
    import _early_exit_experiment

    defaults = DEFAULTS.get(arguments.dataset, DEFAULTS["stdlib"])
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    _early_exit_experiment.run(arguments)


if __name__ == "__main__":
    main()
