"""The experiment of `early_exit_lm.py`: arms, exits, what is written."""

import dataclasses
import json
import pathlib

from _command_line import (
    default_folder,
    distribute,
    open_folder,
    versions,
    write_json,
)
from _early_exit_arms import LENGTH, build, train_arm
from _early_exit_measures import measure
from _early_exit_report import write_report
from _training import SMOKE_BLOCKS, check_state, count_weights
from orrery.datasets import load_text
from orrery.zoo import EarlyExitLM
from orrery.zoo.exit_fitting import fit_exit_heads
from orrery.zoo.registry import load

# Of the training text, from its end: to fit the exit head, and to calibrate.
HEADS, CALIBRATION = 0.03, 0.05


def run(arguments):
    """Train the arms, fit and calibrate the exit, write all to `--out`."""
    architecture = preset_of(arguments)
    if arguments.smoke:
        arguments.epochs = min(arguments.epochs, 2)
    if arguments.out is None:
        name = pathlib.Path(str(arguments.dataset)).stem
        arguments.out = default_folder(
            f"early_exit_lm-{name}-{arguments.backend}", arguments.resume
        )
    folder = arguments.out
    open_folder(folder)
    distribute(arguments.devices)
    data = read(arguments)
    settings = {
        arm: settings_of(arm, arguments, architecture, data)
        for arm in arguments.arms
    }
    for arm in arguments.arms:
        check_state(folder / arm, settings[arm], arguments.resume)
    announce(arguments, architecture, data)
    write_json(
        folder / "config.json",
        {
            "arguments": vars(arguments),
            "architecture": architecture,
            "versions": versions(),
            "data": data.metadata,
        },
    )
    data.vocabulary.save(folder)
    path, measured = folder / "metrics.json", {"arms": {}}
    if arguments.resume and path.exists():
        measured = json.loads(path.read_text(encoding="utf-8"))
    blocks = windows(data, arguments.smoke)
    models = {}
    for arm in arguments.arms:
        print(f"\n=== {arm} ===", flush=True)
        models[arm] = build(arm, arguments.seed, architecture)
        measured["arms"][arm] = train_arm(
            models[arm],
            data,
            blocks,
            folder / arm,
            settings[arm],
            arguments.resume,
        )
        write_json(path, measured)
    print("\n=== the exit: its head, thresholds, time ===", flush=True)
    fit_exit_heads(
        models["exits"],
        blocks["heads"][0],
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    measured["bytes_per_word"] = bytes_per_word(data)
    for name, part in measure(models, blocks, arguments):
        measured[name] = part
        write_json(path, measured)
    models["exits"].save(folder / "model.keras")
    load(folder / "model.keras")
    write_report(folder)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")


def read(arguments):
    """The bytes of the text, divided."""
    return divided(
        load_text(
            arguments.dataset,
            "byte",
            sequence_length=LENGTH,
            data_dir=arguments.data_dir,
        )
    )


def divided(data):
    """The text with two parts cut from the end of its training split."""
    ids = data.splits["train"]
    first, last = (
        int(len(ids) * (1 - share))
        for share in (CALIBRATION + HEADS, CALIBRATION)
    )
    parts = {
        "train": ids[:first],
        "heads": ids[first:last],
        "calibration": ids[last:],
    }
    for split, part in parts.items():
        if len(part) <= LENGTH:
            raise ValueError(
                f"the text is too short: its part {split!r} has {len(part)} "
                f"bytes, and a window {LENGTH + 1}"
            )
    return dataclasses.replace(data, splits={**data.splits, **parts})


def windows(data, smoke):
    """Of every part but the training text: inputs and targets."""
    limit = SMOKE_BLOCKS if smoke else None
    return {
        split: tuple(part[:limit] for part in data.blocks(split))
        for split in ("heads", "calibration", "valid", "test")
    }


def preset_of(arguments):
    """The arguments of `EarlyExitLM` that `--preset` names."""
    presets = EarlyExitLM.presets
    if arguments.preset not in presets:
        raise SystemExit(
            f"--preset must be one of {sorted(presets)}; got "
            f"{arguments.preset!r}"
        )
    return presets[arguments.preset]


def bytes_per_word(data):
    """Of the test text, white space counted with the words."""
    ids = data.splits["test"]
    return len(ids) / max(1, len(data.vocabulary.decode(ids).split()))


def settings_of(arm, arguments, architecture, data):
    """What must agree between a run and its continuation."""
    return {
        "arm": arm,
        "architecture": architecture,
        "dataset": str(arguments.dataset),
        "sha256": data.metadata["sha256"],
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "saves_per_epoch": arguments.saves_per_epoch,
        "seed": arguments.seed,
        "limit": SMOKE_BLOCKS if arguments.smoke else None,
        "backend": arguments.backend,
    }


def announce(arguments, architecture, data):
    model = build("exits", arguments.seed, architecture)
    rows = len(data.blocks("train")[0])
    rows = min(rows, SMOKE_BLOCKS) if arguments.smoke else rows
    print(
        f"Early-exit language model: {arguments.preset}, "
        f"{count_weights(model)['parameters']:,} trainable weights, on the "
        f"bytes of {data.name} ({rows * LENGTH:,} to train on), backend "
        f"{arguments.backend}, {arguments.devices} device(s).\n"
        f"{arguments.epochs} epochs of {-(-rows // arguments.batch_size)} "
        f"steps of {arguments.batch_size} x {LENGTH} bytes for each of: "
        f"{', '.join(arguments.arms)}. Results go to {arguments.out}.",
        flush=True,
    )
