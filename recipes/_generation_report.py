"""Pictures and `report.md` of `kovae.py --task generate`."""

import json

import numpy as np

STRICT = 32
KINDS = ("made", "real")


def draw(folder, series, made):
    """Principal components, t-SNE and densities of real and made series."""
    import importlib.util

    for name in ("matplotlib", "sklearn"):
        if importlib.util.find_spec(name) is None:
            print("No pictures: pip install 'orrery[plot,science]' draws them.")
            return
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = min(1000, len(series), len(made))
    chosen = np.random.default_rng(0).permutation(len(series))[:count]
    # As in TimeGAN: the mean over features, one point a series.
    real, ours = series[chosen].mean(axis=-1), made[:count].mean(axis=-1)
    components = PCA(2).fit(real)
    both = TSNE(2, perplexity=min(40, count // 3), random_state=0)
    embedded = both.fit_transform(np.concatenate([real, ours]))
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, title, points in (
        (left, "PCA", [components.transform(x) for x in (real, ours)]),
        (middle, "t-SNE", np.split(embedded, 2)),
    ):
        for name, color, rows in zip(
            ("real", "made"), ("black", "C0"), points, strict=True
        ):
            axes.scatter(*rows.T, s=6, alpha=0.3, color=color, label=name)
        axes.set_title(title)
    for name, color, rows in (
        ("real", "black", series[chosen]),
        ("made", "C0", made[:count]),
    ):
        right.hist(
            rows.ravel(),
            bins=60,
            range=(0, 1),
            density=True,
            histtype="step",
            color=color,
            label=name,
        )
    right.set_title("density of all values")
    right.legend()
    figure.savefig(folder / "series.png", dpi=120)


def write_report(folder):
    """Write `report.md` from `config.json` and `metrics.json`."""
    config, metrics = (
        json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ("config", "metrics")
    )
    settings, scores = config["settings"], metrics["scores"]
    data, history = settings["data"], settings["model"]["history"]
    runs = next(iter(scores.values()))["runs"]
    missing = ""
    if settings["drop"]:
        missing = f", {settings['drop']:g} of all rows missing"
    lines = [
        "# Koopman variational autoencoder: new series",
        "",
        f"Data `{data['name']}`{missing}, windows of {data['length']} rows, "
        f"history of the prior `{history}`, "
        f"{settings['epochs']} epochs, seed {settings['seed']}, backend "
        f"{settings['backend']}, {metrics['parameters']:,} weights, "
        f"{metrics['seconds']:.0f} s.",
        "",
        f"    python {config['versions']['command']}",
        "",
        f"Mean and standard deviation of {runs} runs of each judge on one "
        "trained model. `made`: made series against one half of the real ones, "
        "as many of each; `real`: the other half against it, with the same "
        "counts. What is not above `real` cannot be told from real. "
        "`published`: all made series against all real ones, as published "
        "figures have it; with twice as many to judge, chance gives less. The "
        f"standard judge has half as many units as features, the strict one "
        f"{STRICT}.",
        "",
        f"| score | {' | '.join(KINDS)} | published |",
        f"|---|{'---|' * (len(KINDS) + 1)}",
    ]
    for name, published in metrics["published"].items():
        cells = [scores[f"{name}/{kind}"] for kind in KINDS]
        shown = [
            f"{cell['mean']:.4f} ± {cell['deviation']:.4f}"
            for cell in (*cells, published)
        ]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    if "predictive" not in metrics["published"]:
        lines += ["", "One feature only: none to tell the last one from."]
    lines += ["", "## Pictures", ""]
    for name in ("series.png", "loss.png"):
        if (folder / name).exists():
            lines.append(f"![{name}]({name})")
    (folder / "report.md").write_text("\n".join(lines) + "\n", "utf-8")
