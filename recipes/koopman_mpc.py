"""Control a wastewater plant by a Koopman model, beside its own controllers.

    python recipes/koopman_mpc.py                        # generated weather
    python recipes/koopman_mpc.py --weather storm --size full --days 14
    python recipes/koopman_mpc.py --model runs/my_run/model.keras

A forecaster is trained on episodes of other weather; every 15 minutes a
quadratic programme, linear about its forecast of the last plan, then chooses
aeration and recycle for the best effluent at the least energy. The same plant
under the benchmark's PI controllers, and without any, stands beside it.
Numbers, pictures and `report.md` are left in `--out`.
"""

import _command_line

WEATHERS = ("generated", "generated_storm", "dry", "rain", "storm")


def command_line(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add(
        "--weather",
        default="generated",
        choices=WEATHERS,
        help="of the evaluation: by formula, or the benchmark's files",
    )
    add(
        "--controllers",
        nargs="+",
        default=("mpc", "pi", "openloop"),
        choices=("mpc", "pi", "openloop"),
        help="who controls",
    )
    add("--model", help="a saved forecaster of the task (default: train one)")
    add(
        "--forecaster",
        default="KoVAE",
        choices=("KoVAE", "KoVAE, linear", "MamKO", "GRU"),
        help="who is trained",
    )
    add(
        "--size",
        default="small",
        choices=("small", "original", "full"),
        help="of the data to train on",
    )
    add("--steps", type=int, default=400, help="of training")
    add("--days", type=float, default=3.0, help="of the evaluation's weather")
    add(
        "--price",
        type=float,
        default=0.5,
        help="of a kWh, in kg of pollution; fixed on generated weather",
    )
    add(
        "--change",
        type=float,
        default=2e4,
        help="price of a change through a control's whole range, kg/d",
    )
    add(
        "--foresight",
        action="store_true",
        help="the flow to come is known; else it is taken to stay",
    )
    flags.set_defaults(batch_size=256)
    arguments = _command_line.parse(flags, argv)
    for name in ("steps", "days", "price"):
        if not getattr(arguments, name) > 0:
            flags.error(
                f"--{name} must be above 0; got {getattr(arguments, name)}"
            )
    if arguments.change < 0:
        flags.error(f"--change must be at least 0; got {arguments.change}")
    if not 1 <= arguments.days <= 14:
        flags.error(f"--days must be in [1, 14]; got {arguments.days}")
    if arguments.model is not None:
        for name in ("forecaster", "size", "steps", "batch_size", "seed"):
            if getattr(arguments, name) != flags.get_default(name):
                flag = name.replace("_", "-")
                flags.error(f"--{flag} has no effect with --model")
    if "mpc" not in arguments.controllers:
        names = ("model", "forecaster", "size", "steps", "price", "change")
        for name in (*names, "foresight", "batch_size", "seed"):
            if getattr(arguments, name) != flags.get_default(name):
                flag = name.replace("_", "-")
                flags.error(f"--{flag} has no effect without --controllers mpc")
    if arguments.devices > 1:
        flags.error("--devices has no effect: training takes minutes on one")
    if arguments.resume:
        flags.error("--resume has no effect: give the trained --model")
    return arguments


@_command_line.plain_errors
def main(argv=None):
    arguments = command_line(argv)

    import _mpc_experiment

    _mpc_experiment.run(arguments)


if __name__ == "__main__":
    main()
