"""Pictures and `report.md` of `early_exit_lm.py`, from a run's files."""

import importlib.util
import json
import math

COLORS = {"propagate": "C0", "defer": "C2", "full": "C1", "shallow": "C3"}
LABELS = {
    "full": "all layers, trained without an exit",
    "shallow": "the lower layers, trained alone",
}
# Of a paragraph: what was told at the exit, what by the whole network.
DEPTHS = ("#b7e3b0", "#fbc58b")
WIDTH = 80


def write_report(folder):
    """Draw what was measured and write `report.md`."""
    config, metrics = (
        json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ("config", "metrics")
    )
    pictures = []
    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install 'orrery[plot]' draws them.")
    else:
        pictures = _draw(folder, metrics)
    text = _text(config, metrics, pictures)
    (folder / "report.md").write_text(text, encoding="utf-8")


def _draw(folder, metrics):
    from matplotlib.figure import Figure

    pictures = []

    def save(figure, name):
        figure.savefig(folder / name, dpi=150)
        pictures.append(name)

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    cost, speed = figure.subplots(1, 2)
    _draw_cost(cost, metrics)
    _draw_speed(speed, metrics)
    save(figure, "pareto.png")
    figure = Figure(figsize=(12, 4), layout="constrained")
    histogram, reliability = figure.subplots(1, 2)
    _draw_histogram(histogram, metrics["exits"], metrics["chosen"])
    _draw_reliability(reliability, metrics["exits"])
    save(figure, "confidence.png")
    figure = Figure(figsize=(11, 2.2), layout="constrained")
    _draw_paragraph(figure, metrics["paragraph"])
    save(figure, "paragraph.png")
    return pictures


def _draw_cost(axes, metrics):
    """Perplexity of some test windows over multiply-accumulates, with heads."""
    rows, full = metrics["curve"]["rows"], math.exp(metrics["curve"]["full"])
    for policy, label in (
        ("propagate", "keys from the exit (propagate)"),
        ("defer", "keys filled in later (defer)"),
    ):
        axes.plot(
            [
                metrics["curve"]["nobody_leaves"],
                *(row[policy]["macs_with_head"] for row in rows),
            ],
            [full, *(row[policy]["perplexity"] for row in rows)],
            marker=".",
            color=COLORS[policy],
            label=label,
        )
    for arm, perplexity in metrics["curve"]["arms"].items():
        axes.plot(
            metrics["arms"][arm]["cost"],
            perplexity,
            marker="*",
            markersize=12,
            linestyle="",
            color=COLORS[arm],
            label=LABELS[arm],
        )
    axes.set(
        xlabel="multiply-accumulates / full depth",
        ylabel="test perplexity per byte",
        title="Perplexity against cost",
    )
    axes.legend()


def _draw_speed(axes, metrics):
    """Perplexity over time, of the same steps."""
    rows = metrics["speeds"]
    for color, batch in enumerate(sorted({row["batch"] for row in rows})):
        mine = [row for row in rows if row["batch"] == batch]
        curve = sorted(
            (row for row in mine if row["what"].startswith("exits")),
            key=lambda row: row["exit_rate"],
        )
        axes.plot(
            [row["speedup"] for row in curve],
            [100 * math.expm1(row["nats_more"]) for row in curve],
            marker=".",
            color=f"C{color}",
            label=f"batch {batch}",
        )
        for row in mine:
            arm = row["what"].removeprefix("arm ")
            if arm in LABELS:
                axes.plot(
                    row["speedup"],
                    100 * math.expm1(row["nats_more"]),
                    marker="*",
                    markersize=12,
                    color=COLORS[arm],
                    markeredgecolor=f"C{color}",
                    linestyle="",
                    label=f"{LABELS[arm]}, batch {batch}",
                )
    axes.axhline(1, color="0.5", linestyle=":", label="1 % more perplexity")
    axes.axhline(0, color="0.8", linewidth=0.8)
    axes.set(
        xlabel="steps per second / those at full depth",
        ylabel="perplexity above full depth, %",
        title="Perplexity against time, the same steps",
    )
    axes.legend()


def _draw_histogram(axes, exits, chosen):
    """What leaving is taken to cost bytes of test text, and who leaves."""
    counts, edges = exits["histogram"], exits["edges"]
    axes.stairs(
        [count / sum(counts) for count in counts],
        edges,
        fill=True,
        color=COLORS["propagate"],
    )
    if chosen["threshold"] is not None:
        leave, level = chosen["exit_rate"], -math.log(chosen["threshold"])
        level = min(max(level, edges[0]), edges[-1])
        for color, between, what in (
            (DEPTHS[0], (edges[0], level), f"{leave:.1%} leave at the exit"),
            (DEPTHS[1], (level, edges[-1]), f"{1 - leave:.1%} at full depth"),
        ):
            axes.axvspan(*between, color=color, alpha=0.5, zorder=0, label=what)
        axes.legend()
    axes.set(
        xscale="log",
        xlabel="estimated cost of leaving, -ln(confidence), nats",
        ylabel="share of bytes",
        title="Who leaves, test text",
    )


def _draw_reliability(axes, exits):
    """What leaving costs, over what the exit head takes it to cost."""
    axes.plot(
        exits["estimated"],
        exits["divergence"],
        marker=".",
        color=COLORS["propagate"],
        label="twentieths of the bytes, by confidence",
    )
    most = max(exits["estimated"] + exits["divergence"])
    axes.plot([0, most], [0, most], color="0.5", linestyle=":")
    axes.set(
        xlabel="estimated cost of leaving, nats",
        ylabel="divergence from the last exit, nats",
        title="Is the estimate right?",
    )
    axes.legend()


def _draw_paragraph(figure, paragraph):
    """Each byte on the colour of the exit that foretold it."""
    axes = figure.subplots()
    axes.axis("off")
    rows = 0
    for tokens, exits in zip(
        paragraph["tokens"], paragraph["exit"], strict=True
    ):
        for place, byte in enumerate(tokens):
            row, column = divmod(place, WIDTH)
            color = "white" if place == 0 else DEPTHS[exits[place - 1]]
            axes.text(
                column,
                -rows - row,
                chr(byte) if 32 <= byte < 127 else "\u00b7",
                family="monospace",
                fontsize=9,
                ha="center",
                va="center",
                bbox={"facecolor": color, "edgecolor": "none", "pad": 1.5},
            )
        rows += math.ceil(len(tokens) / WIDTH) + 0.5
    axes.set(
        xlim=(-1, WIDTH),
        ylim=(-rows, 1),
        title="Green: foretold at the exit; orange: by the whole network",
    )


def _text(config, metrics, pictures):
    words = metrics["bytes_per_word"]
    return "\n".join(
        [
            *_heading(config, words),
            *_arms(metrics, words),
            *_leaving(metrics, words),
            *_times(metrics),
            *_risks(metrics["risks"]),
            "",
            "## Pictures",
            "",
            *(f"![{name}]({name})" for name in pictures),
            "",
        ]
    )


def _heading(config, words):
    arguments, data = config["arguments"], config["data"]
    return [
        "# Early-exit language model",
        "",
        f"Preset `{arguments['preset']}`, the bytes of `{data['name']}`, "
        f"{arguments['epochs']} epochs, seed {arguments['seed']}, backend "
        f"{arguments['backend']}; one seed. A loss of x nats per byte is "
        f"{words:.2f} x nats per word of the test text.",
        "",
        f"    python {config['versions']['command']}",
        "",
    ]


def _arms(metrics, words):
    lines = [
        "## Perplexity",
        "",
        "| arm | weights | valid, per byte | test, per byte | test, per word "
        "| s / epoch |",
        "|---|---|---|---|---|---|",
    ]
    for arm, result in metrics["arms"].items():
        lines.append(
            _row(
                arm,
                f"{result['parameters']:,}",
                f"{result['valid']['perplexity']:.3f}",
                f"{result['test']['perplexity']:.3f}",
                f"{math.exp(result['test']['nats'] * words):.1f}",
                f"{result['seconds_per_epoch']:.0f}",
            )
        )
    arms = metrics["arms"]
    if "shallow" in arms:
        gain = arms["shallow"]["test"]["nats"] - arms["exits"]["test"]["nats"]
        lines += [
            "",
            "The layers below the exit, trained alone, have "
            f"{_more(gain)} more perplexity than the network with an exit at "
            "full depth: what there is to lose.",
        ]
    return [*lines, ""]


def _leaving(metrics, words):
    shares = [f"{row['share']:.0%}" for row in metrics["thresholds"]["rows"]]
    lines = [
        "## Leaving early, test text",
        "",
        "Perplexity above that of full depth, per byte and per word; layers "
        "run, and multiply-accumulates with heads, over those of full depth. "
        "With `propagate` the deeper layers see a byte that has left as it "
        "was at its exit, with `defer` as if it had gone on. Thresholds are "
        f"those at which {', '.join(shares)} of the calibration text leave; "
        f"{metrics['curve']['windows']:,} windows of test text, spread evenly.",
        "",
        "| leave | propagate, byte | word | layers | MACs | defer, byte | word "
        "| MACs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in metrics["curve"]["rows"]:
        one, other = row["propagate"], row["defer"]
        lines.append(
            _row(
                f"{one['exit_rate']:.0%}",
                _more(one["nats_more"]),
                _more(one["nats_more"] * words),
                f"{one['layers_only']:.0%}",
                f"{one['macs_with_head']:.0%}",
                _more(other["nats_more"]),
                _more(other["nats_more"] * words),
                f"{other['macs_with_head']:.0%}",
            )
        )
    chosen = metrics["chosen"]
    lines.append("")
    if chosen["threshold"] is None:
        lines.append(
            "No threshold costs at most 1 % of the perplexity on the "
            "calibration text."
        )
    else:
        lines.append(
            "The lowest of them that costs at most 1 % on the calibration "
            f"text, {chosen['threshold']:.4f}, on all of the test text: "
            f"{chosen['exit_rate']:.1%} leave, {_more(chosen['nats_more'])} "
            f"per byte, {_more(chosen['nats_more'] * words)} per word, "
            f"{chosen['macs_with_head']:.1%} of the multiply-accumulates."
        )
    return [*lines, ""]


def _times(metrics):
    lines = [
        "## Time",
        "",
        "Steps of decoding on test text, other text each time, the loss from "
        "the same steps; the runs take turns, medians. Of "
        + " and ".join(
            f"{row['repeats']} times {row['batch']} windows"
            for row in metrics["speeds"]
            if row["what"] == "full depth"
        )
        + ".",
        "",
        "| batch | what | leave | ms / step | speed | more perplexity |",
        "|---|---|---|---|---|---|",
    ]
    for row in metrics["speeds"]:
        lines.append(
            _row(
                str(row["batch"]),
                row["what"],
                f"{row['exit_rate']:.0%}",
                f"{1e3 * row['seconds_per_step']:.3f}",
                f"{row['speedup']:.2f}",
                _more(row["nats_more"]),
            )
        )
    drafts = metrics["drafts"]
    return [
        *lines,
        "",
        f"Drafts of 4 bytes by the exit, greedy, {drafts['prompts']} prompts: "
        f"{drafts['speedup']:.2f} times as fast, "
        f"{drafts['acceptance_rate']:.0%} of the drafts read were kept, "
        f"{drafts['identical']} of {drafts['prompts']} texts identical.",
        "",
    ]


def _risks(risks):
    lines = [
        "## Risk",
        "",
        "How often a byte that comes out is not the likeliest of the whole "
        "network: the limit; the threshold calibrated for it (Learn then "
        "Test), who leaves, the risk there and on test text; in how many of "
        "100 redrawn halves of the calibration text the limit held on the "
        "other half, in how many no threshold was found, which counts as "
        "held, and the mean share that leaves. Windows are redrawn one by one, "
        "as the promise has it, and in twenty pieces of text that follow one "
        "another, of which nothing is promised.",
        "",
    ]
    if not risks:
        return [*lines, "Too little calibration text for any limit."]
    lines += [
        "| limit | threshold | leave | risk | leave, test | risk, test | held, "
        "windows | none found | leave | held, pieces | none found | leave |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in risks:
        level = row["threshold"]
        lines.append(
            _row(
                f"{row['alpha']}",
                "none" if level is None else f"{level:.4f}",
                f"{row['exit_rate']:.1%}",
                f"{row['empirical_risk']:.4f}",
                f"{row['test_exit_rate']:.1%}",
                f"{row['test_risk']:.4f}",
                *(
                    cell
                    for drawn in (row["windows"], row["pieces"])
                    for cell in (
                        f"{drawn['kept']}",
                        f"{drawn['without']}",
                        f"{drawn['exit_rate']:.1%}",
                    )
                ),
            )
        )
    return lines


def _row(*cells):
    return f"| {' | '.join(cells)} |"


def _more(nats):
    return f"{100 * math.expm1(nats):+.2f} %"
