"""The original network under its own protocol, beside its published curve."""

import csv
import pathlib
import sys

import keras
from _command_line import default_folder, open_folder, versions, write_json
from _legacy_pictures import draw_curve, draw_energies
from _legacy_published import beside_published
from _legacy_report import report
from _training import check_state, summarize, token_losses, train
from orrery.callbacks import NonFiniteGuard
from orrery.datasets import load_text
from orrery.metrics import Perplexity
from orrery.zoo.legacy.resnet_bk import ResNetBK
from orrery.zoo.legacy.resnet_bk_koopman import operator_change
from orrery.zoo.legacy.resnet_bk_physics import PhysicsResNetBK
from orrery.zoo.legacy.resnet_bk_training import (
    compile_as_published,
    published_callbacks,
)

EPOCHS, LEARNING_RATE = 10, 1e-3
SMOKE_BLOCKS = 64
CLASSES = {
    preset: cls for cls in (ResNetBK, PhysicsResNetBK) for preset in cls.presets
}


def run(arguments):
    """Train one seed, with its leak and its faults, and say how it compares.

    Args:
        arguments: the flags of any recipe, `preset` set, `epochs` and `out`
            maybe `None`; `epochs` is set here.
    """
    arguments.epochs = arguments.epochs or EPOCHS
    if arguments.preset not in CLASSES:
        raise SystemExit(
            f"--protocol legacy takes --preset from {sorted(CLASSES)}; got "
            f"{arguments.preset}"
        )
    recipe = pathlib.Path(sys.argv[0]).stem
    folder = arguments.out or default_folder(
        f"{recipe}-legacy-{arguments.backend}", arguments.resume
    )
    open_folder(folder)
    data = load_text(arguments.dataset, data_dir=arguments.data_dir)
    config = describe(arguments, data)
    check_state(folder, config, arguments.resume)
    print(
        f"Original ResNet-BK: {arguments.preset} on {data.name}, "
        f"{arguments.epochs} epochs, backend {arguments.backend}, faults "
        f"included: its features see the token to predict. Results go to "
        f"{folder}.",
        flush=True,
    )
    configuration = {"arguments": vars(arguments), "versions": versions()}
    write_json(folder / "config.json", configuration)
    model = build(config, data)
    initial = operators(model)
    history = fit(model, data, folder, config, resume=arguments.resume)
    x, y = (array[: config["limit"]] for array in data.blocks("valid"))
    measured = {"valid": score(model, x, y, data, arguments)}
    if model.koopman:
        model.set_replaced(range(model.num_layers))
        measured["koopman_forward"] = score(model, x, y, data, arguments)
        measured["operator_change"] = [
            operator_change(before, after)
            for before, after in zip(initial, operators(model), strict=True)
        ]
    write_json(folder / "metrics.json", measured)
    rows = beside_published(
        arguments.preset, arguments.seed, history, comparable(arguments)
    )
    with open(folder / "curve.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    runs = {"here": rows}
    draw_curve(folder / "curve.png", runs)
    if "drift" in rows[0]:
        draw_energies(folder / "energies.png", runs)
    report(folder, arguments, rows, measured)
    print(f"\nWrote {folder}/report.md")


def describe(arguments, data):
    """What must agree between a run and its continuation."""
    return {
        "preset": arguments.preset,
        "dataset": str(arguments.dataset),
        "sha256": data.metadata["sha256"],
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": LEARNING_RATE,
        "seed": arguments.seed,
        "limit": SMOKE_BLOCKS if arguments.smoke else None,
        "backend": arguments.backend,
    }


def comparable(arguments):
    """Whether the published figures are of the same data."""
    return arguments.dataset == "wikitext2" and not arguments.smoke


def build(config, data):
    """The model with the weights of the seed."""
    keras.utils.set_random_seed(config["seed"])
    cls = CLASSES[config["preset"]]
    sizes = {
        "vocabulary_size": len(data.vocabulary),
        "length": data.sequence_length,
    }
    if cls is PhysicsResNetBK:
        sizes["batch_size"] = config["batch_size"]
    model = cls.from_preset(config["preset"], **sizes)
    model.build((None, data.sequence_length))
    return model


def fit(model, data, folder, config, resume, callbacks=None):
    """Train as published; the history. `callbacks` in the original's place."""
    if callbacks is None:
        callbacks = published_callbacks(model)
    return train(
        model,
        data,
        folder,
        config,
        callbacks=[*callbacks, NonFiniteGuard()],
        resume=resume,
        compile_model=lambda model: compile_as_published(model, [Perplexity()]),
    )


def operators(model):
    if not model.koopman:
        return []
    return [
        keras.ops.convert_to_numpy(block.koopman.operator)
        for block in model.blocks
    ]


def score(model, x, y, data, arguments):
    losses = token_losses(model, x, y, arguments.batch_size)
    return summarize(losses, y, data.vocabulary.unknown_id)
