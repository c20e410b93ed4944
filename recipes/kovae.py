"""Train a Koopman variational autoencoder: forecasts, or new series.

    python recipes/kovae.py                              # a wastewater plant
    python recipes/kovae.py --size full --weather recorded
    python recipes/kovae.py --dataset my.csv --controls valve
    python recipes/kovae.py --dataset sines              # generation
    python recipes/kovae.py --preset effective           # the report's model

The plant is simulated once and kept. A forecaster is judged beside persistence
and a ridge regression on the same windows; a generator by the scores of TimeGAN
beside real series. Numbers, pictures and `report.md` are left in `--out`.
"""

import _command_line

GENERATED = ("sines", "stocks")


def command_line(argv=None):
    import _forecast_flags

    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add(
        "--dataset",
        default="bsm1",
        help="bsm1, the wastewater plant; sines or stocks, windows of 24 rows "
        "to imitate; or the path of a .csv file with one row a time",
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
        help="of forecasts, where not the preset's; linear gives a model for "
        "control",
    )
    add(
        "--epochs",
        type=int,
        help="of at most 42 batches (default: 100 on the small plant, 401 on "
        "what is larger; 600 to generate)",
    )
    add("--learning-rate", type=float, help="the highest, for the preset's")
    _forecast_flags.add_flags(flags)
    flags.set_defaults(batch_size=None)
    arguments = _command_line.parse(flags, argv)
    generates = arguments.dataset in GENERATED
    if arguments.batch_size is None:
        arguments.batch_size = 64 if generates else 256
    if arguments.task is None:
        arguments.task = "generate" if generates else "forecast"
    if generates != (arguments.task == "generate"):
        flags.error(
            f"--task {arguments.task} does not fit --dataset "
            f"{arguments.dataset}: sines and stocks are imitated, all else "
            "is forecast"
        )
    _forecast_flags.check_flags(flags, arguments)
    if arguments.preset == "effective" or generates:
        for name in ("koopman", "decoder"):
            if getattr(arguments, name) is not None:
                flags.error(
                    f"--{name} has no effect with --preset "
                    f"{arguments.preset} --task {arguments.task}"
                )
    if generates and arguments.preset != "new":
        flags.error(f"--preset {arguments.preset} has no effect with generate")
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
