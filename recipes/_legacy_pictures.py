"""Pictures of legacy runs beside the published one."""

import importlib.util

from _legacy_published import PHYSICS_EPOCH

# What is drawn of runs with energies, each on an axis of its own.
ENERGIES = {
    "drift": "mean |E(x, x') - E(x')|",
    "lambda": "lambda, mean over blocks",
    "energy spread": "standard deviation of E over texts",
}


def draw_curve(path, runs):
    """Perplexity by epoch.

    Args:
        path: where the PNG goes.
        runs: dict from a run's label to its rows, of `beside_published`.
    """
    figure = new_figure(7, 4)
    if figure is None:
        return
    axes = figure.subplots()
    plot(axes, runs, "batch-mean perplexity", "published")
    axes.set(
        ylabel="validation perplexity",
        title="ResNet-BK, faults included",
        ylim=(0, None),
    )
    figure.savefig(path, dpi=150)


def draw_energies(path, runs):
    """Drift, lambda and spread by epoch: the drift falls as all E get alike.

    Args:
        path: where the PNG goes.
        runs: as `draw_curve`; runs with energies.
    """
    figure = new_figure(10, 3.6)
    if figure is None:
        return
    panels = zip(figure.subplots(1, len(ENERGIES)), ENERGIES, strict=True)
    for axes, column in panels:
        plot(axes, runs, column, f"published {column}")
        axes.axvline(PHYSICS_EPOCH - 0.5, color="grey", ls=":", lw=1)
        axes.set(title=ENERGIES[column], ylim=(0, None))
    figure.suptitle(
        "Energies of unrelated texts, measured throughout, trained from epoch "
        f"{PHYSICS_EPOCH} on"
    )
    figure.savefig(path, dpi=150)


def new_figure(width, height):
    """A figure without a window, or `None` where Matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        print("No picture: pip install 'orrery[plot]' draws it.")
        return None
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot(axes, runs, column, published):
    """A line per run, and a black one where something was published."""
    lines = [(label, rows, column) for label, rows in runs.items()]
    longest = max(runs.values(), key=len)
    for label, rows, key in [*lines, ("published", longest, published)]:
        points = [
            (row["epoch"], row[key]) for row in rows if row.get(key, "") != ""
        ]
        if points:
            style = {"color": "black", "ls": "--"} if key == published else {}
            style = {"marker": "o", "label": label, **style}
            axes.plot(*zip(*points, strict=True), **style)
    axes.set(xlabel="epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
