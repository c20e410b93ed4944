"""Control a wastewater plant by a Koopman model, beside its own controllers.

    python recipes/koopman_mpc.py                        # generated weather
    python recipes/koopman_mpc.py --weather storm --size full --days 14
    python recipes/koopman_mpc.py --model runs/my_run/model.keras

A forecaster is trained on episodes of other weather whose controls nobody chose
by looking at the plant; every 15 minutes a quadratic programme, linear about
its forecast of the last plan, then chooses aeration and recycle for the best
effluent at the least energy, near set-points of oxygen and nitrate. The same
plant under PI controllers, at the benchmark's set-points and at those, and
without any, stands beside it.
Numbers, pictures and `report.md` are left in `--out`.
"""

import _command_line

CONTROLLERS = ("mpc", "pi", "retuned", "openloop")
FLOWS = ("daily", "held", "known")
WEATHERS = (
    "generated",
    "generated_rain",
    "generated_storm",
    "dry",
    "rain",
    "storm",
)


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
        default=CONTROLLERS,
        choices=CONTROLLERS,
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
        default=0.2,
        help="of a kWh, in kg of pollution; fixed on generated weather",
    )
    add(
        "--change",
        type=float,
        default=2e3,
        help="price of a change through a control's whole range, kg/d",
    )
    add(
        "--tracking",
        type=float,
        default=3e3,
        help="price of being 1 g/m3 off a set-point, kg/d",
    )
    add(
        "--setpoints",
        type=float,
        nargs=2,
        default=(1.25, 2.0),
        metavar=("OXYGEN", "NITRATE"),
        help="of the MPC and of the retuned controllers, g/m3",
    )
    add(
        "--flow",
        default="daily",
        choices=FLOWS,
        help="what the MPC takes for the flow to come: that of the day before, "
        "scaled; the last one, held; or what will come",
    )
    flags.set_defaults(batch_size=256)
    arguments = _command_line.parse(flags, argv)
    for name in ("steps", "days", "price"):
        if not getattr(arguments, name) > 0:
            flags.error(
                f"--{name} must be above 0; got {getattr(arguments, name)}"
            )
    for name in ("change", "tracking"):
        if not getattr(arguments, name) >= 0:
            flags.error(
                f"--{name} must be at least 0; got {getattr(arguments, name)}"
            )
    if not min(arguments.setpoints) > 0:
        flags.error(f"--setpoints must be above 0; got {arguments.setpoints}")
    if not 1 <= arguments.days <= 14:
        flags.error(f"--days must be in [1, 14]; got {arguments.days}")
    if arguments.model is not None:
        for name in ("forecaster", "size", "steps", "batch_size", "seed"):
            if getattr(arguments, name) != flags.get_default(name):
                flag = name.replace("_", "-")
                flags.error(f"--{flag} has no effect with --model")
    if "mpc" not in arguments.controllers:
        names = ("model", "forecaster", "size", "steps", "price", "change")
        names += ("tracking", "flow", "batch_size", "seed")
        for name in names:
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
