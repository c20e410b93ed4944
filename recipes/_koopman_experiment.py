"""The experiment of `koopman_lm.py`: arms, controls and what is measured."""

import math
import pathlib

import keras
import numpy as np
from _command_line import (
    default_folder,
    distribute,
    open_folder,
    versions,
    write_json,
)
from _koopman_report import write_report
from _scoring import locate
from _training import summarize, token_losses, train
from orrery.callbacks import KoopmanMonitor, KoopmanSchedule
from orrery.datasets import load_text
from orrery.zoo import KoopmanLM
from orrery.zoo.kneser_ney import KneserNey
from orrery.zoo.lstm_lm import LSTMLM
from orrery.zoo.registry import load

# A text file takes those of stdlib.
DEFAULTS = {
    "stdlib": {
        "preset": "koopman_lm_stdlib",
        "epochs": 5,
        "operator_epochs": 1,
        "learning_rate": 4e-3,
    },
    "wikitext2": {
        "preset": "koopman_lm_small",
        "epochs": 10,
        "operator_epochs": 2,
        "learning_rate": 2e-3,
    },
}
SCHEDULE = {"warmup": 1, "ramp": 2, "max_weight": 0.05}
# In the operators' own epochs: nine rows of ten start with an operator, most
# of them run nothing else.
OPERATOR_SCHEDULE = {**SCHEDULE, "warmup": 0, "ramp": 1}
FIRST_SHARE, LAST_SHARE = 0.9, 0.75
WITHOUT_OPERATORS = {"koopman": None, "replacement": 0.0}
SMOKE_BLOCKS = 64


def run(arguments):
    """Train the arms, measure the controls, write everything to `--out`."""
    defaults = DEFAULTS.get(arguments.dataset, DEFAULTS["stdlib"])
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.preset not in KoopmanLM.presets:
        raise SystemExit(
            f"--preset must be one of {sorted(KoopmanLM.presets)}; got "
            f"{arguments.preset!r}"
        )
    if arguments.smoke:
        arguments.epochs = min(arguments.epochs, 2)
        arguments.operator_epochs = min(arguments.operator_epochs, 1)
    if arguments.out is None:
        name = pathlib.Path(str(arguments.dataset)).stem
        arguments.out = default_folder(
            f"koopman_lm-{name}-{arguments.backend}", arguments.resume
        )
    folder = arguments.out
    open_folder(folder)
    distribute(arguments.devices)
    keras.config.set_dtype_policy(arguments.precision)

    vocabulary = None
    if arguments.start_from:
        arguments.start_from, vocabulary = locate(arguments.start_from)
    data = load_text(
        arguments.dataset,
        tokenizer=arguments.tokenizer,
        data_dir=arguments.data_dir,
        vocabulary=vocabulary,
    )
    limit = SMOKE_BLOCKS if arguments.smoke else None
    blocks = {
        split: tuple(array[:limit] for array in data.blocks(split))
        for split in ("train", "valid", "test")
    }
    announce(arguments, data, blocks)
    configuration = {
        "arguments": vars(arguments),
        "preset": KoopmanLM.presets[arguments.preset],
        "schedule": SCHEDULE,
        "versions": versions(),
        "data": data.metadata,
    }
    write_json(folder / "config.json", configuration)
    data.vocabulary.save(folder / "vocabulary.txt")

    measured = {"arms": {}}
    for arm in arguments.arms:
        print(f"\n=== {arm} ===", flush=True)
        if arm == "ngram":
            measured["arms"][arm] = count_words(data, blocks)
        else:
            model, measured["arms"][arm] = train_arm(
                arm, data, blocks, arguments
            )
            if arm == "koopman":
                model.save(folder / "model.keras")
        write_json(folder / "metrics.json", measured)
    if "koopman" in arguments.arms:
        model = load(folder / "model.keras")
        measured["replaced"] = replace(model, data, blocks, arguments)
        write_json(folder / "metrics.json", measured)
        sample = generate(model, data, arguments)
        (folder / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    write_report(folder)
    print(f"\nWrote {folder}/report.md, pictures and model.keras")


def announce(arguments, data, blocks):
    tokens = {split: x.size for split, (x, _) in blocks.items()}
    steps = -(-len(blocks["train"][0]) // arguments.batch_size)
    print(
        f"Koopman language model: preset {arguments.preset} on {data.name} "
        f"({tokens['train']:,} / {tokens['valid']:,} / {tokens['test']:,} "
        f"tokens, vocabulary {len(data.vocabulary):,}), backend "
        f"{arguments.backend}, {arguments.devices} device(s).\n"
        f"{arguments.epochs} epochs of {steps} steps of "
        f"{arguments.batch_size} x {data.sequence_length} tokens for each of: "
        f"{', '.join(arguments.arms)}; then {arguments.operator_epochs} of "
        f"koopman's operators alone. Results go to {arguments.out}."
    )


def build(arm, arguments, vocabulary_size):
    """A fresh model; arms of one seed share the weights they have in common."""
    keras.utils.set_random_seed(arguments.seed)
    if arm == "koopman" and arguments.start_from:
        return load(arguments.start_from)
    base = KoopmanLM.from_preset(
        arguments.preset,
        load_weights=False,
        vocabulary_size=vocabulary_size,
        **({} if arm == "koopman" else WITHOUT_OPERATORS),
    )
    base.build()
    if arm != "lstm":
        return base
    lstm = LSTMLM.of_size(
        base.count_params(), vocabulary_size, base.dim, dropout=base.dropout
    )
    lstm.build()
    return lstm


def train_arm(arm, data, blocks, arguments):
    """The trained model of one arm, and what was measured of it."""
    model = build(arm, arguments, len(data.vocabulary))
    measured = count_weights(model)
    history = fit(model, arm, data, arguments)
    measured["seconds"] = sum(history["seconds"])
    if arm == "koopman" and arguments.operator_epochs:
        history = fit_operators_only(model, data, arguments)
        measured["operator_seconds"] = sum(history["seconds"])
    return model, {**measured, **score(model, data, blocks, arguments)}


def fit(model, arm, data, arguments):
    folder = arguments.out / arm
    callbacks = []
    if arm == "koopman":
        callbacks = [
            KoopmanSchedule(**SCHEDULE),
            KoopmanMonitor(folder / "operators"),
        ]
    return train(
        model,
        data,
        folder,
        epochs=arguments.epochs,
        callbacks=callbacks,
        **settings(arm, arguments),
    )


def fit_operators_only(model, data, arguments):
    """The operators' own epochs, in which the language model stays as it is."""
    folder = arguments.out / "koopman" / "operators_only"
    model.train_operators_only(
        np.linspace(FIRST_SHARE, LAST_SHARE, model.num_layers).tolist()
    )
    return train(
        model,
        data,
        folder,
        epochs=arguments.operator_epochs,
        callbacks=[
            KoopmanSchedule(**OPERATOR_SCHEDULE),
            KoopmanMonitor(folder / "operators"),
        ],
        **settings("operators only", arguments),
    )


def settings(arm, arguments):
    """What all training of a run has in common."""
    return {
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "seed": arguments.seed,
        "resume": arguments.resume,
        "limit": SMOKE_BLOCKS if arguments.smoke else None,
        "config": {
            "arm": arm,
            "preset": arguments.preset,
            "dataset": str(arguments.dataset),
        },
    }


def count_weights(model):
    """Trainable weights: the language model's, and the operators' apart."""
    operators = sum(
        math.prod(weight.shape)
        for operator in getattr(model, "operators", ())
        for weight in operator.trainable_weights
    )
    total = sum(math.prod(w.shape) for w in model.trainable_weights)
    return {
        "parameters": total - operators,
        "operator_parameters": operators,
    }


def score(model, data, blocks, arguments):
    """Validation and test perplexity."""
    return {
        split: summarize(
            token_losses(model, *blocks[split], arguments.batch_size),
            blocks[split][1],
            data.vocabulary.unknown_id,
        )
        for split in ("valid", "test")
    }


def count_words(data, blocks):
    """The controls that only count: a 5-gram and a unigram model."""
    train = data.splits["train"]
    if len(blocks["train"][0]) < len(data.blocks("train")[0]):
        train = np.concatenate([blocks["train"][0].ravel()])
    size = len(data.vocabulary)
    model, unigram = KneserNey(train, size), KneserNey(train, size, order=1)
    return {
        **{
            split: model.perplexity(*blocks[split])
            for split in ("valid", "test")
        },
        "unigram": unigram.perplexity(*blocks["valid"]),
    }


def replace(model, data, blocks, arguments):
    """Validation perplexity with the first 0 .. L blocks replaced.

    The same weights of the model every time; by its own operators and by the
    controls: the same lift solved by exact EDMD after training, an affine
    least-squares map with and without delays, and leaving the block out.
    """
    x, y = blocks["valid"]
    lift = {
        key: model.koopman[key]
        for key in ("delays", "lift_dim")
        if key in model.koopman
    }
    delays = {"delays": lift.get("delays", 0)}
    kinds = {
        "own operators": "own",
        "fitted afterwards by EDMD": lift,
        "affine least squares, delays": {"lift_dim": 0, **delays},
        "affine least squares": {"lift_dim": 0},
        "block left out": None,
    }
    curves = {}
    for kind, koopman in kinds.items():
        probe = model
        if koopman != "own":
            # A fresh operator is the identity map: it leaves its block out.
            probe = model.with_operators(koopman or {"lift_dim": 0})
        if isinstance(koopman, dict):
            probe.fit_operators(blocks["train"][0], arguments.batch_size)
        curves[kind] = replaced_curve(probe, x, y, arguments)
        print(f"{kind}: {format_curve(curves[kind])}", flush=True)
    return curves


def replaced_curve(model, x, y, arguments):
    curve = []
    for count in range(model.num_layers + 1):
        model.set_replaced(range(count))
        losses = token_losses(model, x, y, arguments.batch_size)
        curve.append(math.exp(float(np.mean(losses, dtype="float64"))))
    model.set_replaced(())
    return curve


def format_curve(curve):
    return " ".join(f"{value:,.1f}" for value in curve)


def generate(model, data, arguments):
    """A sample of 60 tokens, or why there is none."""
    try:
        return model.generate(
            arguments.prompt,
            max_length=60,
            sampler="top_p",
            seed=arguments.seed,
            vocabulary=data.vocabulary,
        )
    except ImportError as error:
        return f"(no sample: {error})"
