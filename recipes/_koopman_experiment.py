"""The experiment of `koopman_lm.py`: arms, controls, and what is written."""

import json

import keras
from _command_line import distribute, open_folder, versions, write_json
from _koopman_arms import build, fallback_complaint, train_arm
from _koopman_controls import count_words, describe_operators, replace
from _koopman_report import write_report
from _koopman_setup import (
    SAMPLE_LENGTH,
    SCHEDULE,
    check_prompt,
    complete,
    describe,
    phases,
    settings_of,
)
from _scoring import locate
from _training import check_state, count_weights, cut_blocks
from orrery.datasets import Vocabulary, load_text
from orrery.datasets.words import join_words
from orrery.zoo.registry import load

# An epoch on two CPU cores.
PACE = {
    "koopman_lm_stdlib": "half a minute",
    "koopman_lm_small": "six minutes",
}


def run(arguments):
    """Train the arms, measure the controls, write everything to `--out`."""
    complete(arguments)
    folder = arguments.out
    open_folder(folder)
    distribute(arguments.devices)
    keras.config.set_dtype_policy(arguments.precision)
    source = vocabulary = None
    if arguments.start_from:
        source, vocabulary = locate(arguments.start_from)
    data = load_text(
        arguments.dataset,
        tokenizer=arguments.tokenizer,
        data_dir=arguments.data_dir,
        vocabulary=vocabulary,
    )
    check_prompt(arguments.prompt, data.vocabulary)
    blocks = cut_blocks(data, arguments.smoke)
    architecture = describe(arguments, source, data.vocabulary)
    settings = {
        phase: settings_of(phase, arguments, architecture, data)
        for phase in (*arguments.arms, "operators_only")
    }
    for phase, path in phases(folder, arguments):
        check_state(path, settings[phase], arguments.resume)

    announce(arguments, architecture, data, blocks)
    configuration = {
        "arguments": vars(arguments),
        "architecture": architecture,
        "schedule": SCHEDULE,
        "versions": versions(),
        "data": data.metadata,
    }
    write_json(folder / "config.json", configuration)
    data.vocabulary.save(folder)
    measured = former_measures(folder) if arguments.resume else {"arms": {}}
    for arm in arguments.arms:
        print(f"\n=== {arm} ===", flush=True)
        if arm == "ngram":
            measured["arms"][arm] = count_words(data, blocks)
        else:
            model = build(arm, arguments, architecture, source)
            measured["arms"][arm] = train_arm(
                arm, model, data, blocks, arguments, settings
            )
            if arm == "koopman":
                model.save(folder / "model.keras")
        write_json(folder / "metrics.json", measured)
    if "koopman" in arguments.arms:
        model = load(folder / "model.keras")
        base = folder / "base" / "model.keras"
        measured["replaced"] = replace(
            model,
            blocks,
            arguments.batch_size,
            arguments.seed,
            base=load(base) if "base" in arguments.arms else None,
        )
        measured["operators"] = describe_operators(
            model, blocks["valid"][0], arguments.batch_size
        )
        write_json(folder / "metrics.json", measured)
        sample = generate(model, data, arguments)
        (folder / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    write_report(folder)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")
    for result in measured["arms"].values():
        if complaint := fallback_complaint(result):
            raise SystemExit(complaint)


def former_measures(folder):
    path = folder / "metrics.json"
    if not path.exists():
        return {"arms": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def announce(arguments, architecture, data, blocks):
    tokens = {split: x.size for split, (x, _) in blocks.items()}
    steps = -(-len(blocks["train"][0]) // arguments.batch_size)
    model = build("koopman", arguments, architecture)
    weights = count_weights(model)
    pace = PACE.get(arguments.preset)
    print(
        "Koopman language model: "
        f"{arguments.preset or arguments.start_from}, "
        f"{weights['parameters']:,} trainable weights and "
        f"{weights['operator_parameters']:,} of operators, on {data.name} "
        f"({tokens['train']:,} / {tokens['valid']:,} / {tokens['test']:,} "
        f"tokens, vocabulary {len(data.vocabulary):,}), backend "
        f"{arguments.backend}, {arguments.devices} device(s).\n"
        f"{arguments.epochs} epochs of {steps} steps of "
        f"{arguments.batch_size} x {data.sequence_length} tokens for each of: "
        f"{', '.join(arguments.arms)}; then {arguments.operator_epochs} of "
        "koopman's operators alone."
        + (f" An epoch takes about {pace} on two cores." if pace else "")
        + f" Results go to {arguments.out}.",
        flush=True,
    )


def generate(model, data, arguments):
    """A sample of text as people write it, or why there is none."""
    try:
        text = model.generate(
            arguments.prompt,
            max_length=SAMPLE_LENGTH,
            sampler="top_p",
            seed=arguments.seed,
            vocabulary=data.vocabulary,
        )
    except ImportError as error:
        return f"(no sample: {error})"
    by_word = isinstance(data.vocabulary, Vocabulary)
    return join_words(text.split()) if by_word else text
