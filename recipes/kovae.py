"""Train a Koopman variational autoencoder: forecasts, or new series.

    python recipes/kovae.py                              # a wastewater plant
    python recipes/kovae.py --size full --weather recorded
    python recipes/kovae.py --dataset my.csv --controls valve
    python recipes/kovae.py --dataset sines              # generation
    python recipes/kovae.py --dataset my.csv --task generate --length 48
    python recipes/kovae.py --preset effective           # the report's model

The plant is simulated once and kept. A forecaster is judged beside persistence
and a ridge regression on the same windows; a generator by the scores of TimeGAN
beside real series. Numbers, pictures and `report.md` are left in `--out`.
"""

import _command_line

GENERATED = ("sines", "stocks")
# Flags of one task alone.
TO_GENERATE = ("prior_history", "drop", "length")
TO_FORECAST = ("koopman", "decoder", "controls", "disturbances", "unit")
TO_FORECAST += ("history", "horizon", "preset")


def command_line(argv=None):
    import _forecast_flags

    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add(
        "--dataset",
        default="bsm1",
        help="bsm1, the wastewater plant; sines or stocks, windows to imitate; "
        "or the path of a .csv file with one row a time",
    )
    add(
        "--task",
        choices=("forecast", "generate"),
        help="(default: generate for sines and stocks, else forecast)",
    )
    add(
        "--preset",
        default="new",
        choices=("new", "old", "effective", "lean"),
        help="new: sizes and weights of the report's second version, on a "
        "sound model; old: of its first; effective: what its code really ran; "
        "lean: half the width, no dropout, a bounded operator",
    )
    add(
        "--koopman",
        choices=("bounded", "stable", "soft", "free", "lstsq"),
        help="the operator, where not the preset's",
    )
    add(
        "--decoder",
        choices=("mlp", "linear", "gru"),
        help="of forecasts, where not the preset's",
    )
    add(
        "--epochs",
        type=int,
        help="of at most 42 batches (default: 100 on the small plant, 401 on "
        "what is larger; 600 to generate)",
    )
    add("--learning-rate", type=float, help="the highest, for the preset's")
    add(
        "--prior-history",
        default="prior",
        choices=("prior", "posterior"),
        help="to generate: what the divergence takes as the past, a path that "
        "the prior draws, as the paper's code has it, or the encoded one, "
        "which makes the loss an evidence lower bound",
    )
    add(
        "--drop",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="to generate: irregular sampling, the share of all rows that are "
        "dropped at random",
    )
    add("--length", type=int, default=24, help="to generate: rows of a window")
    _forecast_flags.add_flags(flags)
    flags.set_defaults(batch_size=None)
    arguments = _command_line.parse(flags, argv)
    imitated = arguments.dataset in GENERATED
    if arguments.task is None:
        arguments.task = "generate" if imitated else "forecast"
    generates = arguments.task == "generate"
    if arguments.batch_size is None:
        arguments.batch_size = 64 if generates else 256
    if imitated > generates or (generates and arguments.dataset == "bsm1"):
        flags.error(
            f"--task {arguments.task} does not fit --dataset "
            f"{arguments.dataset}: sines and stocks are imitated, the plant is "
            "forecast, a .csv file either"
        )
    _forecast_flags.check_flags(flags, arguments)
    without = TO_FORECAST if generates else TO_GENERATE
    mode = f"--task {arguments.task}"
    if arguments.preset == "effective" and not generates:
        without += ("koopman", "decoder")
        mode += " --preset effective"
    for name in without:
        if getattr(arguments, name) != flags.get_default(name):
            flags.error(f"--{name.replace('_', '-')} has no effect with {mode}")
    if not 0 <= arguments.drop < 1:
        flags.error(f"--drop must be in [0, 1); got {arguments.drop}")
    if arguments.length < 2:
        flags.error(f"--length must be at least 2; got {arguments.length}")
    if arguments.preset == "effective" and arguments.learning_rate is not None:
        flags.error("--learning-rate has no effect with --preset effective")
    if arguments.epochs is not None and arguments.epochs < 1:
        flags.error(f"--epochs must be at least 1; got {arguments.epochs}")
    return arguments


@_command_line.plain_errors
def main(argv=None):
    arguments = command_line(argv)
    if arguments.task == "forecast":
        import _kovae_experiment as experiment
    else:
        import _generation_experiment as experiment
    experiment.run(arguments)


if __name__ == "__main__":
    main()
