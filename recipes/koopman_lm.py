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
from _koopman_defaults import DEFAULTS, FINE_TUNING

ARMS = ("koopman", "base", "lstm", "ngram")
# The flags that mean something where a model is only scored, where the
# original is trained, and where a saved model is.
SCORING = {"backend", "batch_size", "evaluate"}
TRAINING = {"backend", "data_dir", "batch_size", "seed", "dataset"}
TRAINING |= {"epochs", "out", "resume", "smoke"}
LEGACY = {*TRAINING, "protocol", "preset"}
LEGACY_PRESET = "resnet_bk_legacy_koopman"
FINE_TUNED = {*TRAINING, "start_from", "operator_epochs", "learning_rate"}
FINE_TUNED |= {"arms", "prompt", "devices"}
WITHOUT_OPERATORS = {"operator_epochs", "prompt", "start_from"}


def command_line(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add(
        "--dataset",
        default="stdlib",
        help="stdlib, wikitext2, or the path of a text file",
    )
    text, wikitext2 = DEFAULTS["stdlib"], DEFAULTS["wikitext2"]

    def default(name):
        return f"{text[name]}, for wikitext2 {wikitext2[name]}"

    add("--preset", help=f"of KoopmanLM (default: {default('preset')})")
    add(
        "--epochs",
        type=int,
        help=f"passes over the data (default: {default('epochs')})",
    )
    add(
        "--operator-epochs",
        type=int,
        help="further passes that train the operators alone (default: "
        f"{default('operator_epochs')})",
    )
    add(
        "--learning-rate",
        type=float,
        help=f"the highest (default: {default('learning_rate')}, with "
        f"--start-from {FINE_TUNING['learning_rate']})",
    )
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
        _command_line.refuse(flags, arguments, "--evaluate", SCORING)
    elif arguments.protocol == "legacy":
        _command_line.refuse(flags, arguments, "--protocol legacy", LEGACY)
    elif arguments.start_from:
        _command_line.refuse(flags, arguments, "--start-from", FINE_TUNED)
    if arguments.arms is None:
        # Beside arms that start from nothing a trained one would be flattered.
        arguments.arms = ("koopman", "ngram") if arguments.start_from else ARMS
    everything = set(vars(arguments))
    if "koopman" not in arguments.arms:
        mode = "--arms that leave koopman out"
        _command_line.refuse(
            flags, arguments, mode, everything - WITHOUT_OPERATORS
        )
    if arguments.dataset != "wikitext2":
        mode = f"--dataset {arguments.dataset}"
        _command_line.refuse(flags, arguments, mode, everything - {"data_dir"})
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


@_command_line.plain_errors
def main(argv=None):
    arguments = command_line(argv)
    if arguments.evaluate:
        import _scoring

        _scoring.score_file(*arguments.evaluate, arguments)
        return
    if arguments.protocol == "legacy":
        import _legacy_experiment as experiment

        arguments.preset = arguments.preset or LEGACY_PRESET
    else:
        import _koopman_experiment as experiment

    experiment.run(arguments)


if __name__ == "__main__":
    main()
