"""Flags of the recipes that forecast: what, from how much, how far."""

PLANT = ("sensors", "size", "weather")
TABLE = ("controls", "disturbances", "time", "unit")


def add_flags(flags):
    """The data's flags, of the plant and of a .csv file."""
    add = flags.add_argument
    add(
        "--sensors",
        default="measured",
        choices=("measured", "full"),
        help="of the plant: eleven sensors, or all 145 states",
    )
    add(
        "--size",
        default="small",
        choices=("small", "original", "full"),
        help="of the plant's data: half a minute, five or twenty minutes of "
        "simulation, once",
    )
    add(
        "--weather",
        default="generated",
        choices=("generated", "recorded"),
        help="of the plant: by formula, or varied from the benchmark's files",
    )
    add(
        "--controls",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="of a .csv file: what somebody sets",
    )
    add(
        "--disturbances",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="of a .csv file: what acts, but nobody sets",
    )
    add("--time", metavar="COLUMN", help="of a .csv file: times of the rows")
    add("--unit", default="h", help="of that column: s, min, h or d")
    add("--history", type=int, default=20, help="rows that are seen")
    add("--horizon", type=int, default=20, help="rows that are forecast")


def check_flags(flags, arguments):
    """No flag of one kind of data is without effect on the other."""
    apart = {"bsm1": TABLE, "stocks": (*PLANT, *TABLE)}
    apart["sines"] = (*apart["stocks"], "data_dir")
    for name in ("stocks", "sines"):
        apart[name] = (*apart[name], "history", "horizon")
    if str(arguments.dataset).endswith(".csv"):
        without = (*PLANT, "data_dir")
    elif arguments.dataset in apart:
        without = apart[arguments.dataset]
    else:
        flags.error(
            "--dataset must be bsm1, sines, stocks or the path of a .csv file; "
            f"got {arguments.dataset!r}"
        )
    for name in without:
        if getattr(arguments, name) != flags.get_default(name):
            flags.error(
                f"--{name.replace('_', '-')} has no effect with --dataset "
                f"{arguments.dataset}"
            )
    for name in ("history", "horizon"):
        if getattr(arguments, name) < 1:
            flags.error(
                f"--{name} must be at least 1; got {getattr(arguments, name)}"
            )
