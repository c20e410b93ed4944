"""Train a causal language model with Koopman operators, beside its controls.

    python recipes/koopman_lm.py                       # embedded data, minutes
    python recipes/koopman_lm.py --dataset wikitext2   # the real experiment
    python recipes/koopman_lm.py --evaluate MODEL FILE # score any text

Every arm (the model with operators, without, an LSTM of as many parameters)
sees the same batches in the same order; a Kneser-Ney 5-gram is the fourth
control. Numbers, pictures and `report.md` are left in `--out`.
"""

import math

import _command_line

ARMS = ("koopman", "base", "lstm", "ngram")
EVERYWHERE = {"backend", "data_dir", "batch_size", "seed"}
# The flags that mean something where a model is only scored, where the
# original is trained, and where a saved model is.
SCORING = {*EVERYWHERE, "evaluate"}
TRAINING = {*EVERYWHERE, "dataset", "epochs", "out", "resume", "smoke"}
LEGACY = {*TRAINING, "protocol", "preset"}
FINE_TUNING = {*TRAINING, "start_from", "operator_epochs", "learning_rate"}
FINE_TUNING |= {"arms", "prompt", "devices"}


def command_line(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add(
        "--dataset",
        default="stdlib",
        help="stdlib, wikitext2, or the path of a text file",
    )
    add("--preset", help="a KoopmanLM preset; the data set's if not given")
    add("--epochs", type=int, help="passes over the data; as above")
    add(
        "--operator-epochs",
        type=int,
        help="further passes that train the operators alone; as above",
    )
    add("--learning-rate", type=float, help="the highest; as above")
    add("--tokenizer", default="word", help="word or byte_pair")
    add(
        "--arms",
        nargs="+",
        choices=ARMS,
        help="what to train; all if not given, koopman and ngram with "
        "--start-from",
    )
    add(
        "--precision",
        default="float32",
        choices=("float32", "mixed_bfloat16"),
        help="of the computation; weights stay float32",
    )
    add("--start-from", help="saved model to fine-tune (arm koopman)")
    add("--prompt", default="The", help="how the generated sample begins")
    add(
        "--protocol",
        default="standard",
        choices=("standard", "legacy"),
        help="legacy trains the original network under its own protocol",
    )
    add(
        "--evaluate",
        nargs=2,
        metavar=("MODEL", "FILE"),
        help="only score a text file with a saved model",
    )
    arguments = _command_line.parse(flags, argv)
    if arguments.evaluate:
        refuse(flags, arguments, "--evaluate", SCORING)
    elif arguments.protocol == "legacy":
        refuse(flags, arguments, "--protocol legacy", LEGACY)
    elif arguments.start_from:
        refuse(flags, arguments, "--start-from", FINE_TUNING)
    if arguments.arms is None:
        # Beside arms that start from nothing a trained one would be flattered.
        arguments.arms = ("koopman", "ngram") if arguments.start_from else ARMS
    rate = arguments.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        flags.error(f"--learning-rate must be above 0; got {rate}")
    if arguments.epochs is not None and arguments.epochs < 1:
        flags.error(f"--epochs must be at least 1; got {arguments.epochs}")
    if arguments.operator_epochs is not None and arguments.operator_epochs < 0:
        flags.error(
            "--operator-epochs must not be negative; got "
            f"{arguments.operator_epochs}"
        )
    return arguments


def refuse(flags, arguments, mode, allowed):
    """No flag is silently without effect."""
    for name, value in vars(arguments).items():
        if name not in allowed and value != flags.get_default(name):
            flag = name.replace("_", "-")
            flags.error(f"--{flag} has no effect with {mode}; got {value!r}")


@_command_line.plain_errors
def main(argv=None):
    arguments = command_line(argv)
    if arguments.evaluate:
        import _scoring

        _scoring.score_file(*arguments.evaluate, arguments)
        return
    if arguments.protocol == "legacy":
        import _legacy_experiment as experiment
    else:
        import _koopman_experiment as experiment

    experiment.run(arguments)


if __name__ == "__main__":
    main()
