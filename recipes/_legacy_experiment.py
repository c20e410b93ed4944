"""The original network under its own protocol, beside its published curve."""

import csv
import importlib.util

import keras
from _command_line import default_folder, open_folder, versions, write_json
from _training import check_state, summarize, token_losses, train
from orrery.callbacks import NonFiniteGuard
from orrery.datasets import load_text
from orrery.metrics import Perplexity
from orrery.zoo.legacy.resnet_bk import ResNetBK
from orrery.zoo.legacy.resnet_bk_koopman import operator_change
from orrery.zoo.legacy.resnet_bk_training import (
    compile_as_published,
    published_callbacks,
)

PRESET, EPOCHS, LEARNING_RATE = "resnet_bk_legacy_koopman", 10, 1e-3
SMOKE_BLOCKS = 64
# Validation perplexity (mean of batch means) on WikiText-2 in the repository
# neko-jpg/Project-ResNet-BK-An-O-N-Language-Model-Architecture: a fresh run, of
# the variant with a physics term; its Koopman run was started from a trained
# model, which is where the Koopman-forward figure comes from.
PUBLISHED = (
    [578.16, 512.19, 501.65, 490.69, 488.19]
    + [486.48, 483.09, 482.69, 479.89, 476.57]
)  # fmt: skip
PUBLISHED_FORWARD = 8560.36


def run(arguments):
    """Train one seed, with its leak and its faults, and say how it compares."""
    arguments.preset = arguments.preset or PRESET
    arguments.epochs = arguments.epochs or EPOCHS
    if arguments.preset not in ResNetBK.presets:
        raise SystemExit(
            "--protocol legacy takes --preset from "
            f"{sorted(ResNetBK.presets)}; got {arguments.preset}"
        )
    folder = arguments.out or default_folder(
        f"koopman_lm-legacy-{arguments.backend}", arguments.resume
    )
    open_folder(folder)
    data = load_text(arguments.dataset, data_dir=arguments.data_dir)
    limit = SMOKE_BLOCKS if arguments.smoke else None
    keras.utils.set_random_seed(arguments.seed)
    model = ResNetBK.from_preset(
        arguments.preset,
        vocabulary_size=len(data.vocabulary),
        length=data.sequence_length,
    )
    config = {
        "preset": arguments.preset,
        "dataset": str(arguments.dataset),
        "sha256": data.metadata["sha256"],
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "learning_rate": LEARNING_RATE,
        "seed": arguments.seed,
        "limit": limit,
        "backend": arguments.backend,
    }
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
    model.build((None, data.sequence_length))
    initial = operators(model)
    history = train(
        model,
        data,
        folder,
        config,
        callbacks=[*published_callbacks(model), NonFiniteGuard()],
        resume=arguments.resume,
        compile_model=lambda model: compile_as_published(model, [Perplexity()]),
    )
    x, y = (array[:limit] for array in data.blocks("valid"))
    measured = {"valid": score(model, x, y, data, arguments)}
    if model.koopman:
        model.set_replaced(range(model.num_layers))
        measured["koopman_forward"] = score(model, x, y, data, arguments)
        measured["operator_change"] = [
            operator_change(before, after)
            for before, after in zip(initial, operators(model), strict=True)
        ]
    write_json(folder / "metrics.json", measured)
    rows = beside_published(arguments, history)
    with open(folder / "curve.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(folder / "curve.png", rows)
    report(folder, arguments, rows, measured)
    print(f"\nWrote {folder}/report.md")


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


def beside_published(arguments, history):
    """A row per epoch; the published curve where the data are the same."""
    compare = arguments.dataset == "wikitext2" and not arguments.smoke
    published = PUBLISHED if compare else []
    curves = zip(
        history["val_batch_mean_perplexity"],
        history["val_perplexity"],
        strict=True,
    )
    return [
        {
            "preset": arguments.preset,
            "seed": arguments.seed,
            "epoch": epoch + 1,
            "batch-mean perplexity": round(own, 2),
            "token-weighted": round(weighted, 2),
            "published": published[epoch] if epoch < len(published) else "",
        }
        for epoch, (own, weighted) in enumerate(curves)
    ]


def draw(path, rows):
    if importlib.util.find_spec("matplotlib") is None:
        print("No picture: pip install 'orrery[plot]' draws it.")
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for column in ("batch-mean perplexity", "published"):
        points = [(row["epoch"], row[column]) for row in rows if row[column]]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=column)
    axes.set(
        xlabel="epoch",
        ylabel="validation perplexity",
        title="ResNet-BK, faults included",
        ylim=(0, None),
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    figure.savefig(path, dpi=150)


def report(folder, arguments, rows, measured):
    """The curve beside the published one, and what Koopman-forward gives."""
    lines = [
        "# The original ResNet-BK, reproduced",
        "",
        f"`{arguments.preset}`, data `{arguments.dataset}`, seed "
        f"{arguments.seed}, backend {arguments.backend}. Every core sees the "
        "token it is to predict: these perplexities are not a language "
        "model's. Published: a fresh run, with the physics term.",
        "",
        "| epoch | batch-mean perplexity | token-weighted | published |",
        "|---|---|---|---|",
        *(
            f"| {row['epoch']} | {row['batch-mean perplexity']:.1f} | "
            f"{row['token-weighted']:.1f} | {row['published'] or '-'} |"
            for row in rows
        ),
    ]
    if "koopman_forward" in measured:
        standard, forward = (
            measured[key]["perplexity"] for key in ("valid", "koopman_forward")
        )
        lines += [
            "",
            f"Koopman-forward, all blocks: {forward:,.1f}, "
            f"{forward / standard:.1f} times the standard {standard:,.1f}"
            + (
                f" (published, from a warm start: {PUBLISHED_FORWARD:,.0f}, "
                "17.9 times)."
                if rows[0]["published"]
                else "."
            ),
            "",
            "Change of K, as the original reported it and as it is: "
            + "; ".join(
                f"{change['reported']:.2%} and {change['relative']:.1%}"
                for change in measured["operator_change"]
            )
            + ".",
        ]
    (folder / "report.md").write_text("\n".join(lines) + "\n", "utf-8")
