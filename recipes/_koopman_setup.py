"""What `koopman_lm.py` is about to do: defaults, checks, what must agree."""

import pathlib

from _command_line import default_folder
from _koopman_defaults import DEFAULTS, FINE_TUNING
from _scoring import check_vocabulary
from _training import SMOKE_BLOCKS
from orrery.zoo import KoopmanLM
from orrery.zoo.registry import load

SCHEDULE = {"warmup": 1, "ramp": 2, "max_weight": 0.05}
SAMPLE_LENGTH = 60


def complete(arguments):
    """Fill in what depends on the data set; refuse what does not fit."""
    defaults = DEFAULTS.get(arguments.dataset, DEFAULTS["stdlib"])
    if arguments.start_from:
        defaults = {**defaults, **FINE_TUNING}
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if not arguments.start_from:
        check_preset(arguments.preset)
    if arguments.smoke:
        arguments.epochs = min(arguments.epochs, 2)
        arguments.operator_epochs = min(arguments.operator_epochs, 1)
    if arguments.out is None:
        name = pathlib.Path(str(arguments.dataset)).stem
        arguments.out = default_folder(
            f"koopman_lm-{name}-{arguments.backend}", arguments.resume
        )


def check_preset(name):
    if name not in KoopmanLM.presets:
        raise SystemExit(
            f"--preset must be one of {sorted(KoopmanLM.presets)}; got {name!r}"
        )


def check_prompt(prompt, vocabulary):
    length = len(vocabulary.encode(prompt))
    if not 0 < length < SAMPLE_LENGTH:
        raise SystemExit(
            f"--prompt must have 1 to {SAMPLE_LENGTH - 1} tokens; got {length}"
        )


def describe(arguments, source, vocabulary):
    """The arguments of the koopman arm's model, a JSON-plain dict."""
    if source is None:
        preset = KoopmanLM.presets[arguments.preset]
        return {**preset, "vocabulary_size": len(vocabulary)}
    model = load(source)
    if not isinstance(model, KoopmanLM):
        raise ValueError(
            "--start-from must be a KoopmanLM; got a "
            f"{type(model).__name__} in {source}"
        )
    check_vocabulary(model, vocabulary)
    config = model.get_config()
    for name in ("name", "trainable", "dtype", "replaced"):
        del config[name]
    return config


def settings_of(phase, arguments, architecture, data):
    """What must agree between a run and its continuation."""
    epochs = (
        arguments.operator_epochs
        if phase == "operators_only"
        else arguments.epochs
    )
    return {
        "arm": phase,
        "architecture": architecture,
        "start_from": arguments.start_from,
        "dataset": str(arguments.dataset),
        "sha256": data.metadata["sha256"],
        "tokenizer": data.metadata["tokenizer"],
        "epochs": epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "schedule": SCHEDULE,
        "seed": arguments.seed,
        "limit": SMOKE_BLOCKS if arguments.smoke else None,
        "precision": arguments.precision,
        "backend": arguments.backend,
    }


def phases(folder, arguments):
    """Every phase of training and its folder."""
    for arm in arguments.arms:
        if arm != "ngram":
            yield arm, folder / arm
    if "koopman" in arguments.arms and arguments.operator_epochs:
        yield "operators_only", folder / "koopman" / "operators_only"
