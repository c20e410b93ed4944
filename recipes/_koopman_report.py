"""Pictures and `report.md` of `koopman_lm.py`, from the files of a run."""

import csv
import importlib.util
import json
import math

OPERATORS_ALONE = "koopman/operators_only"
COLORS = {"koopman": "C0", "base": "C1", "lstm": "C2"}


def write_report(folder):
    """Draw what was measured and write `report.md`."""
    read = {
        name: json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ("config", "metrics")
    }
    histories = {
        arm: _history(folder / arm / "history.csv")
        for arm in (*read["metrics"]["arms"], OPERATORS_ALONE)
        if (folder / arm / "history.csv").exists()
    }
    pictures = []
    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install 'orrery[plot]' draws them.")
    else:
        pictures = _draw(folder, read["metrics"], histories)
    text = _text(folder, read["config"], read["metrics"], histories, pictures)
    (folder / "report.md").write_text(text, encoding="utf-8")


def _history(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def _draw(folder, metrics, histories):
    from matplotlib.figure import Figure

    def save(figure, name):
        figure.savefig(folder / name, dpi=150)
        pictures.append(name)

    pictures = []
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, perplexity = figure.subplots(1, 2)
    for arm in filter(histories.get, COLORS):
        history, color = histories[arm], COLORS[arm]
        loss.plot(
            history["epoch"],
            [math.log(value) for value in history["perplexity"]],
            color=color,
            linestyle=":",
            label=f"{arm}, training",
        )
        loss.plot(
            history["epoch"],
            [math.log(value) for value in history["val_perplexity"]],
            color=color,
            marker="o",
            label=f"{arm}, validation",
        )
        perplexity.plot(
            history["epoch"],
            history["val_perplexity"],
            color=color,
            marker="o",
            label=arm,
        )
    if "ngram" in metrics["arms"]:
        value = metrics["arms"]["ngram"]["valid"]["perplexity"]
        perplexity.axhline(
            value, color="0.5", linestyle="--", label="Kneser-Ney 5-gram"
        )
    loss.set(xlabel="epoch", ylabel="nats per token", title="Cross-entropy")
    perplexity.set(
        xlabel="epoch", ylabel="perplexity", title="Validation perplexity"
    )
    _log_scale(perplexity)
    for axes in (loss, perplexity):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    save(figure, "curves.png")

    if "koopman" in histories:
        history = histories["koopman"]
        alone = len(history["epoch"])
        if OPERATORS_ALONE in histories:
            last = histories[OPERATORS_ALONE]
            history = {key: history[key] + last[key] for key in last}
            history["epoch"] = list(range(1, len(history["epoch"]) + 1))
        figure = Figure(figsize=(10, 4), layout="constrained")
        weight, error = figure.subplots(1, 2)
        weight.plot(
            history["epoch"],
            history["koopman_effective_weight"],
            marker="o",
            label="weight in force",
        )
        weight.plot(
            history["epoch"],
            history["koopman_contribution_fraction"],
            marker="o",
            label="part of the total loss",
        )
        weight.set(xlabel="epoch", title="Koopman loss in training")
        for key, name in (
            ("koopman_linear", "relative error, lifted"),
            ("koopman_state", "relative error, state"),
            ("koopman_skill", "skill against identity"),
            ("koopman_held_out_skill", "skill, validation text"),
            ("koopman_held_out_r_squared", "R², validation text"),
        ):
            if key in history:
                error.plot(
                    history["epoch"], history[key], marker="o", label=name
                )
        error.set(xlabel="epoch", title="How well the operators predict")
        error.axhline(0, color="0.8", linewidth=1)
        # Operators that were not trained yet may leave the picture.
        error.set_ylim(-1.05, 1.05)
        for axes in (weight, error):
            if len(history["epoch"]) > alone:
                axes.axvline(
                    alone + 0.5,
                    color="0.5",
                    linestyle=":",
                    label="then the operators alone",
                )
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend()
        save(figure, "koopman.png")
        for phase in ("koopman/operators_only", "koopman"):
            picture = f"{phase}/operators/eigenvalues.png"
            if (folder / picture).exists():
                pictures.append(picture)
                break

    if "replaced" in metrics:
        figure = Figure(figsize=(10, 5), layout="constrained")
        axes = figure.subplots()
        for kind, curve in metrics["replaced"].items():
            axes.plot(range(len(curve)), curve, marker="o", label=kind)
        if "ngram" in metrics["arms"]:
            axes.axhline(
                metrics["arms"]["ngram"]["unigram"]["perplexity"],
                color="0.5",
                linestyle="--",
                label="unigram",
            )
        _log_scale(axes)
        # A model without its blocks is lost; its curve may leave the picture.
        axes.set_ylim(top=20 * curve[0])
        axes.set(
            xlabel="leading blocks replaced by operators",
            ylabel="validation perplexity",
            title="Koopman-forward perplexity of the same weights",
            xticks=range(len(curve)),
        )
        figure.legend(loc="outside right upper")
        save(figure, "replaced.png")
    return pictures


def _log_scale(axes):
    """Perplexities on a log scale, as plain numbers."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_formatter("")


def training_seconds(result):
    """Of an arm, the operators' own epochs included; 0 without training."""
    return result.get("seconds", 0) + result.get("operator_seconds", 0)


def _text(folder, config, metrics, histories, pictures):
    arguments, data = config["arguments"], config["data"]
    model = (
        f"Preset `{arguments['preset']}`"
        if arguments["preset"]
        else f"Fine-tuned from `{arguments['start_from']}`"
    )
    seeds = "one seed: differences between arms may be noise"
    lines = [
        "# Koopman language model",
        "",
        f"{model}, data `{data['name']}` "
        f"({data['tokens']['train']:,} training tokens, vocabulary "
        f"{data['vocabulary_size']:,}), {arguments['epochs']} epochs, then "
        f"{arguments['operator_epochs']} of the operators alone, seed "
        f"{arguments['seed']}, backend {arguments['backend']}; {seeds}.",
        "",
        f"    python {config['versions']['command']}",
        "",
        "## Perplexity",
        "",
        "Token-weighted, blocks of "
        f"{data['sequence_length'] + 1} tokens without carried context. "
        "`<unk>` targets are scored in the first two columns of perplexity.",
        "",
        "| arm | trainable weights | operators | valid | test | "
        "valid without `<unk>` | test without `<unk>` | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, result in metrics["arms"].items():
        seconds = training_seconds(result)
        cells = [
            {"ngram": "Kneser-Ney 5-gram", "lstm": "LSTM"}.get(arm, arm),
            f"{result['parameters']:,}" if "parameters" in result else "-",
            f"{result.get('operator_parameters', 0):,}",
            *(
                f"{result[split][key]:.1f}"
                for key in ("perplexity", "perplexity_without_unknown")
                for split in ("valid", "test")
            ),
            f"{seconds / 60:.1f}" if seconds else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        if "unigram" in result:
            unigram = f"{result['unigram']['perplexity']:.1f}"
            lines.append(f"| unigram | - | 0 | {unigram} |" + " - |" * 4)
    if "replaced" in metrics:
        curves = metrics["replaced"]
        count = len(curves["own operators"])
        lines += [
            "",
            "## Koopman-forward perplexity",
            "",
            "Validation; the first n blocks run as operators. In brackets the "
            "ratio to the standard perplexity of the same weights.",
            "",
            f"| n | {' | '.join(map(str, range(count)))} |",
            "|---|" + "---|" * count,
            *(
                f"| {kind} | "
                + " | ".join(
                    f"{value:,.1f} ({value / curve[0]:.2f})" for value in curve
                )
                + " |"
                for kind, curve in curves.items()
            ),
        ]
    if "operators" in metrics:
        rows = metrics["operators"]
        lines += [
            "",
            "## Operators",
            "",
            "Each on its own block, validation text, no dropout: R² (0 is the "
            "best constant) and skill (0 is the identity map).",
            "",
            f"| {' | '.join(name.replace('_', ' ') for name in rows[0])} |",
            "|---|" + "---|" * (len(rows[0]) - 1),
            *(
                f"| {' | '.join(f'{value:.4g}' for value in row.values())} |"
                for row in rows
            ),
        ]
    sample = folder / "sample.txt"
    if sample.exists():
        lines += ["", "## Sample", ""]
        text = sample.read_text("utf-8").strip()
        lines += [f"> {line}" for line in text.splitlines()]
    lines += ["", "## Pictures", ""]
    lines += [f"![{name}]({name})" for name in pictures]
    return "\n".join(lines) + "\n"
