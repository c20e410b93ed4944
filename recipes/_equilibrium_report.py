"""Pictures and `report.md` of `equilibrium_propagation.py`, from its files."""

import csv
import importlib.util
import json

import numpy as np

COLORS = {"equilibrium": "C0", "one_sided": "C9", "backprop": "C2", "mlp": "C1"}
NAMES = {
    "equilibrium": "equilibrium propagation",
    "one_sided": "the same, one-sided nudge",
    "backprop": "back-propagation, same energy",
    "mlp": "ordinary network, AdamW",
}


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
        pictures = draw(folder, metrics)
    text = report(config, metrics, pictures)
    (folder / "report.md").write_text(text, encoding="utf-8")


def draw(folder, metrics):
    """The PNGs; their names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm in metrics:
        history = read_history(folder / arm / "history.csv")
        axes.plot(
            history["epoch"],
            100 * (1 - history["val_accuracy"]),
            color=COLORS[arm],
            label=NAMES[arm],
        )
    axes.set(
        xlabel="epoch",
        ylabel="validation error in per cent",
        yscale="log",
        title="What the source of the gradient makes of it",
    )
    ticks = (1, 2, 3, 5, 10, 20, 50)
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(folder / "accuracy.png", dpi=150)
    pictures = ["accuracy.png"]

    arm = next((arm for arm in metrics if arm != "mlp"), None)
    if arm is None:
        return pictures
    with np.load(folder / arm / "relaxation.npz") as file:
        traces = dict(file)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for when, color, label in (
        ("start", "C7", "before training"),
        ("end", COLORS[arm], "after training"),
    ):
        left.plot(traces[f"{when}_residual"], color=color, label=label)
    left.axhline(1e-6, color="black", linewidth=0.7, linestyle="--")
    left.set(
        xlabel="step of the descent",
        ylabel="residual, worst of 64 test examples",
        yscale="log",
        title="Coming to rest",
    )
    left.legend()
    # As long as float32 can tell the energy from that at rest.
    energy = traces["end_energy"][:, :8]
    floor = 1e-6 * np.abs(energy).max()
    for curve in (energy - energy[-1]).T:
        right.plot(curve[: np.argmax(curve < floor)], linewidth=0.9)
    right.set(
        xlabel="step of the descent",
        ylabel="E - E at rest",
        yscale="log",
        title="Energy of eight test examples, after training",
    )
    figure.savefig(folder / "relaxation.png", dpi=150)
    return [*pictures, "relaxation.png"]


def read_history(path):
    """Columns of a history as float arrays."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row[name]) for row in rows]) for name in rows[0]
    }


def report(config, metrics, pictures):
    arguments, examples = config["arguments"], config["examples"]
    lines = [
        "# Equilibrium propagation",
        "",
        f"Data `{arguments['dataset']}`: {examples['train']:,} examples to "
        f"train, {examples['valid']:,} to validate, {examples['test']:,} to "
        f"test. Hidden states of width {arguments['hidden_dims']}, rho "
        f"{arguments['rho']}, beta {arguments['beta']:g}, "
        f"{arguments['epochs']} epochs, batches of {arguments['batch_size']}, "
        f"seed {arguments['seed']}, backend {arguments['backend']}; one seed: "
        "differences below a per cent are noise.",
        "",
        f"    python {config['versions']['command']}",
        "",
        "All arms train with AdamW under a cosine schedule, from "
        f"{arguments['learning_rate']:g} (ordinary network: "
        f"{arguments['mlp_learning_rate']:g}). Back-propagation goes through "
        f"{arguments['unrolled_steps']} further steps of the descent at the "
        "equilibrium. Steps and residual are those of the free relaxation of "
        "the test examples: mean over batches, and largest.",
        "",
        "| arm | weights | valid accuracy | test accuracy | steps | residual "
        "| seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, found in metrics.items():
        test = found["test"]
        cells = [
            NAMES[arm],
            f"{found['parameters']:,}",
            f"{found['valid']['accuracy']:.2%}",
            f"{test['accuracy']:.2%}",
            f"{test['relaxation_steps']:.0f}" if "residual" in test else "",
            f"{test['residual']:.1e}" if "residual" in test else "",
            f"{found['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    unrested = [
        NAMES[arm]
        for arm, found in metrics.items()
        # A residual that is NaN is none at rest either.
        if not found["test"].get("residual", 0) <= arguments["tolerance"]
    ]
    if unrested:
        lines += [
            "",
            f"**Not at rest within {arguments['max_steps']} steps:** "
            f"{', '.join(unrested)}. Scores are those of the last step.",
        ]
    lines += ["", "## Pictures", ""]
    lines += [f"![{name}]({name})" for name in pictures]
    return "\n".join(lines) + "\n"
