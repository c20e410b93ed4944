"""The experiment of `hamiltonian_lm.py`: arms, controls, what is written."""

import json
import pathlib

from _command_line import (
    default_folder,
    distribute,
    open_folder,
    versions,
    write_json,
)
from _hamiltonian_arms import (
    KOOPMAN,
    MULTIPLIER,
    SCHEDULE,
    build,
    collapse_complaint,
    least_spread_ratio,
    multiplier_of,
    train_arm,
)
from _hamiltonian_report import write_report
from _training import SMOKE_BLOCKS, check_state, count_weights, cut_blocks
from orrery.datasets import load_text
from orrery.zoo import HamiltonianLM
from orrery.zoo.registry import load

# Compiling takes longer than the few steps of a smoke run.
SMOKE_LAYERS = 2


def run(arguments):
    """Train the arms, measure their energies, write everything to `--out`."""
    preset = preset_of(arguments)
    if arguments.smoke:
        arguments.epochs = min(arguments.epochs, 2)
    if arguments.out is None:
        name = pathlib.Path(str(arguments.dataset)).stem
        arguments.out = default_folder(
            f"hamiltonian_lm-{name}-{arguments.backend}", arguments.resume
        )
    folder = arguments.out
    open_folder(folder)
    distribute(arguments.devices)
    data = load_text(arguments.dataset, data_dir=arguments.data_dir)
    blocks = cut_blocks(data, arguments.smoke)
    architecture = {**preset, "vocabulary_size": len(data.vocabulary)}
    if arguments.smoke:
        architecture["num_layers"] = SMOKE_LAYERS
    settings = {
        arm: settings_of(arm, arguments, architecture, data)
        for arm in arguments.arms
    }
    for arm in arguments.arms:
        check_state(folder / arm, settings[arm], arguments.resume)
    announce(arguments, architecture, data, blocks)
    write_json(
        folder / "config.json",
        {
            "arguments": vars(arguments),
            "architecture": architecture,
            "multiplier": MULTIPLIER,
            "koopman": {**KOOPMAN, "schedule": SCHEDULE},
            "versions": versions(),
            "data": data.metadata,
        },
    )
    data.vocabulary.save(folder)
    measured = {}
    path = folder / "metrics.json"
    if arguments.resume and path.exists():
        measured = json.loads(path.read_text(encoding="utf-8"))
    for arm in arguments.arms:
        print(f"\n=== {arm} ===", flush=True)
        model = build(arm, arguments.seed, architecture)
        measured[arm] = train_arm(
            arm,
            model,
            data,
            blocks,
            folder / arm,
            settings[arm],
            arguments.resume,
        )
        write_json(path, measured)
    main_arm = "physics" if "physics" in arguments.arms else arguments.arms[0]
    load(folder / main_arm / "model.keras").save(folder / "model.keras")
    write_report(folder)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")
    for arm in ("physics", "both"):
        if arm in arguments.arms:
            complaint = collapse_complaint(*ratios(measured[arm]))
            if complaint:
                raise SystemExit(f"{arm}: {complaint}")


def preset_of(arguments):
    """The arguments of `HamiltonianLM` that `--preset` names."""
    presets = HamiltonianLM.presets
    if arguments.preset not in presets:
        raise SystemExit(
            f"--preset must be one of {sorted(presets)}; got "
            f"{arguments.preset!r}"
        )
    return presets[arguments.preset]


def ratios(measured):
    """What `collapse_complaint` asks for, on validation text."""
    perplexity = measured["valid"]["perplexity"]
    return (
        least_spread_ratio(measured["energies"]["valid"]),
        measured["without_potential"] / perplexity,
    )


def settings_of(arm, arguments, architecture, data):
    """What must agree between a run and its continuation."""
    return {
        "arm": arm,
        "architecture": architecture,
        "multiplier": multiplier_of(arm),
        "koopman": KOOPMAN,
        "schedule": SCHEDULE,
        "dataset": str(arguments.dataset),
        "sha256": data.metadata["sha256"],
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "seed": arguments.seed,
        "limit": SMOKE_BLOCKS if arguments.smoke else None,
        "backend": arguments.backend,
    }


def announce(arguments, architecture, data, blocks):
    steps = -(-len(blocks["train"][0]) // arguments.batch_size)
    model = build("physics", arguments.seed, architecture)
    print(
        f"Hamiltonian language model: {arguments.preset}, "
        f"{count_weights(model)['parameters']:,} trainable weights, on "
        f"{data.name} ({blocks['train'][0].size:,} training tokens, vocabulary "
        f"{len(data.vocabulary):,}), backend {arguments.backend}, "
        f"{arguments.devices} device(s).\n{arguments.epochs} epochs of {steps} "
        f"steps of {arguments.batch_size} x {data.sequence_length} tokens for "
        f"each of: {', '.join(arguments.arms)}. Results go to {arguments.out}.",
        flush=True,
    )
