r"""Compare Koopman forecasters with each other and with those that are none.

    python recipes/compare_koopman.py                     # small, two seeds
    python recipes/compare_koopman.py --size full --weather recorded \\
        --steps 2000 --seeds 5
    python recipes/compare_koopman.py --arms ridge KoVAE "KoVAE, linear"

All are trained on the same windows for the same number of steps, and judged by
one function on episodes and on a storm that none has seen, once knowing what
will disturb the process and once not. Persistence and linear regressions stand
beside them. A row of the table is the mean over seeds with a 95 % t interval.
Numbers, pictures and `report.md` are left in `--out`; what is there already is
not trained again (`--resume`).
"""

import _command_line


def command_line(argv=None):
    import _forecast_flags

    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add("--dataset", default="bsm1", help="bsm1, or the path of a .csv file")
    add("--steps", type=int, default=150, help="of training, of each network")
    add("--seeds", type=int, default=2, help="2 or more, from 0")
    add("--learning-rate", type=float, default=2e-3, help="the highest")
    add(
        "--arms",
        nargs="+",
        help="who is compared (default: all but the ablations of KoVAE)",
    )
    add(
        "--robustness",
        action="store_true",
        help="also forecast from noisy sensors, and such that lose values",
    )
    _forecast_flags.add_flags(flags)
    flags.set_defaults(batch_size=256)
    arguments = _command_line.parse(flags, argv)
    if arguments.dataset in ("sines", "stocks"):
        flags.error("--dataset must be bsm1 or the path of a .csv file")
    _forecast_flags.check_flags(flags, arguments)
    if arguments.history < 2:
        flags.error(
            "--history must be at least 2, for what disturbs is held at the "
            f"row before the last; got {arguments.history}"
        )
    if arguments.seed:
        flags.error("--seed has no effect: seeds count from 0; see --seeds")
    for name, least in (("steps", 1), ("seeds", 2)):
        if getattr(arguments, name) < least:
            flags.error(
                f"--{name} must be at least {least}; got "
                f"{getattr(arguments, name)}"
            )
    return arguments


@_command_line.plain_errors
def main(argv=None):
    arguments = command_line(argv)

    import _comparison

    _comparison.run(arguments)


if __name__ == "__main__":
    main()
