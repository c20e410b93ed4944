"""Pictures and `report.md` of `hamiltonian_lm.py`, from a run's files."""

import csv
import importlib.util
import json
import math

from _energy_history import read_energies

COLORS = {
    "base": "C1",
    "koopman": "C0",
    "physics": "C2",
    "both": "C3",
    "unpenalised": "C7",
    "euler": "C4",
    "frozen": "C5",
    "attention_energy": "C8",
    "autonomous": "C6",
}
ENERGY = (
    "drift",
    "spread_ratio",
    "shuffled_ratio",
    "potential_share",
    "kick",
    "step_angle",
)


def write_report(folder):
    """Draw what was measured and write `report.md`."""
    config, metrics = (
        json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ("config", "metrics")
    )
    histories = {arm: _history(folder / arm / "history.csv") for arm in metrics}
    pictures = []
    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install 'orrery[plot]' draws them.")
    else:
        pictures = _draw(folder, config, metrics, histories)
    text = _text(config, metrics, pictures)
    (folder / "report.md").write_text(text, encoding="utf-8")


def _history(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def _draw(folder, config, metrics, histories):
    from matplotlib.figure import Figure

    pictures = []

    def save(figure, name):
        figure.savefig(folder / name, dpi=150)
        pictures.append(name)

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for arm, history in histories.items():
        axes.plot(
            history["epoch"],
            history["val_perplexity"],
            marker="o",
            color=COLORS[arm],
            label=arm,
        )
    axes.set(xlabel="epoch", ylabel="validation perplexity")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    save(figure, "curves.png")

    energetic = {
        arm: history
        for arm, history in histories.items()
        if "energy_drift" in history
    }
    if energetic:
        _draw_drift(energetic, config["multiplier"]["target"], save)
        by_epoch = {
            arm: read_energies(path)
            for arm in energetic
            if (path := folder / arm / "energies.csv").exists()
        }
        if by_epoch:
            _draw_epochs(by_epoch, config["multiplier"]["target"], save)
        arms = [arm for arm in energetic if arm != "autonomous"]
        if arms:
            _draw_steps(arms, metrics, save)
    if "autonomous" in metrics:
        _draw_depth(metrics["autonomous"]["traces"], save)
    return pictures


def _draw_drift(histories, target, save):
    """Drift, multiplier and spread per epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    drift, multiplier, spread = figure.subplots(1, 3)
    for arm, history in histories.items():
        for axes, key in (
            (drift, "energy_drift"),
            (multiplier, "energy_multiplier"),
            (spread, "energy_spread_ratio"),
        ):
            axes.plot(
                history["epoch"],
                history[key],
                marker="o",
                color=COLORS[arm],
                label=arm,
            )
    drift.axhline(target, color="0.5", linestyle="--", label="target")
    drift.set(title="Energy drift / spread of E", yscale="log")
    multiplier.set(title="Multiplier")
    spread.axhline(0.5, color="0.5", linestyle="--", label="alarm below")
    spread.set(title="Spread of E / initial spread", yscale="log")
    for axes in (drift, multiplier, spread):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    save(figure, "drift.png")


def _draw_epochs(energies, target, save):
    """Drift and spread of every block after each epoch, validation text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    drift, spread = figure.subplots(1, 2)
    for arm, rows in energies.items():
        blocks = sorted({int(row["block"]) for row in rows})
        for block in blocks:
            own = [row for row in rows if int(row["block"]) == block]
            for axes, key in ((drift, "drift"), (spread, "spread_ratio")):
                axes.plot(
                    [int(row["epoch"]) for row in own],
                    [float(row[key]) for row in own],
                    marker=".",
                    color=COLORS[arm],
                    alpha=0.3 + 0.7 * block / len(blocks),
                    label=arm if block == len(blocks) else None,
                )
    limit = {"color": "0.5", "linestyle": "--", "label": "target, alarm"}
    drift.axhline(target, **limit)
    drift.set(title="Drift within a block, over the spread of E", yscale="log")
    spread.axhline(0.5, **limit)
    spread.set(title="Spread of E / initial spread", yscale="log")
    for axes in (drift, spread):
        axes.set_xlabel("epoch; a line per block, the last one darkest")
        axes.xaxis.get_major_locator().set_params(integer=True)
    spread.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, "energies_by_epoch.png")


def _draw_steps(arms, metrics, save):
    """Mean |E_s - E_0| along the steps of every block."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for arm in arms:
        traces = metrics[arm]["traces"]
        for block, (drift, spread) in enumerate(
            zip(traces["drift"], traces["spread"], strict=True)
        ):
            steps = len(drift) - 1
            axes.plot(
                [block * steps + step for step in range(1, steps + 1)],
                [value / spread for value in drift[1:]],
                marker=".",
                color=COLORS[arm],
                label=None if block else arm,
            )
    # Two unrelated tokens, were energies Gaussian.
    axes.axhline(
        1.128, color="0.5", linestyle=":", label="two unrelated tokens"
    )
    axes.set(
        xlabel="step, block after block",
        ylabel="mean |E - E at entrance| / spread",
        yscale="log",
        title="Energy within each block, validation text",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    save(figure, "energy_steps.png")


def _draw_depth(traces, save):
    """Energies of single tokens along the depth of the autonomous arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    spread = traces["spread"][0]
    for trace in traces["tokens"][0]:
        axes.plot([energy / spread for energy in trace], linewidth=1)
    axes.set(
        xlabel="step through the depth of the network",
        ylabel="energy / spread over tokens",
        title="Energies of single tokens, one Hamiltonian for all steps",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    save(figure, "energy_depth.png")


def _text(config, metrics, pictures):
    arguments, data = config["arguments"], config["data"]
    lines = [
        "# Hamiltonian language model",
        "",
        f"Preset `{arguments['preset']}`, data `{data['name']}` "
        f"({data['tokens']['train']:,} training tokens, vocabulary "
        f"{data['vocabulary_size']:,}), {arguments['epochs']} epochs, seed "
        f"{arguments['seed']}, backend {arguments['backend']}; one seed: "
        "differences between arms may be noise.",
        "",
        f"    python {config['versions']['command']}",
        "",
        "## Perplexity",
        "",
        "Token-weighted. `V off` is the validation perplexity of the trained "
        "model with its potentials made flat.",
        "",
        "| arm | trainable weights | valid | test | V off | s / epoch | "
        "Koopman term / loss | energy term / loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, result in metrics.items():
        terms = result["contributions"]
        cells = [
            arm,
            f"{result['parameters']:,}",
            *(f"{result[s]['perplexity']:.1f}" for s in ("valid", "test")),
            f"{result['without_potential']:,.0f}"
            if "without_potential" in result
            else "-",
            f"{result['seconds_per_epoch']:.0f}",
            *(
                f"{terms[name]:.2e}" if name in terms else "-"
                for name in ("koopman", "energy")
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "## Energy within a block",
        "",
        "Test text, no dropout. Drift: mean over tokens of `max |E - E_0|` in "
        "units of the spread of `E_0` over tokens; the spread against its "
        "value before training; drift against the difference of two unrelated "
        "tokens; the part of the variance of E that comes from V; the mean "
        "relative change of the momenta; the largest `dt omega` of a token, "
        "which must stay below 2 for leapfrog to be stable.",
        "",
        f"| arm | block | {' | '.join(n.replace('_', ' ') for n in ENERGY)} |",
        "|---|---|" + "---|" * len(ENERGY),
    ]
    measured = [
        (arm, result["energies"])
        for arm, result in metrics.items()
        if "energies" in result
    ]
    if measured:
        arm, _ = measured[0]
        start = metrics[arm]["energies_at_start"]
        measured.insert(0, (f"{arm}, before training", start))
    for arm, energies in measured:
        for block, row in enumerate(energies["test"]):
            values = [
                f"{row[name]:.3g}" if math.isfinite(row[name]) else "-"
                for name in ENERGY
            ]
            if row.get("collapsed"):
                values[ENERGY.index("spread_ratio")] += " (collapsed)"
            lines.append(f"| {arm} | {block + 1} | {' | '.join(values)} |")
    lines += ["", "## Pictures", ""]
    lines += [f"![{name}]({name})" for name in pictures]
    return "\n".join(lines) + "\n"
