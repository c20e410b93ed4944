"""Pictures of forecasts: a window with its band, errors by step, spectra."""

import importlib.util

import numpy as np
from orrery.metrics import central_interval

# Variables that a picture of a window shows at most.
SHOWN = 6


def possible():
    """Whether Matplotlib is installed; says so where it is not."""
    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install 'orrery[plot]' draws them.")
        return False
    return True


def draw_window(path, data, windows, index, forecasts, members=None):
    """One window: what was, what came, forecasts, and a band of 90 %.

    Args:
        path: where the PNG is written.
        data: a `SeriesData`.
        windows: dict of its windows.
        index: int, which of them.
        forecasts: dict from names to arrays `(H, X)`.
        members: array `(M, H, X)`, an ensemble of the first of them, or `None`.
    """
    varying = np.flatnonzero(data.varying())
    scale = data.scales()["observed"][1]
    moves = np.ptp(windows["future"][index], axis=0)[varying] / scale[varying]
    chosen = np.sort(varying[np.argsort(-moves)[:SHOWN]])
    past, future = windows["past"][index], windows["future"][index]
    hours = data.step * np.arange(1 - len(past), len(future) + 1)
    seen, ahead = hours[: len(past)], hours[len(past) :]
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = _figure(4 * columns, 2.6 * rows + 0.6)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes, column in zip(grid.flat, chosen, strict=False):
        if members is not None:
            interval = central_interval(members[None])
            low, high = (bound[0, :, column] for bound in interval)
            axes.fill_between(
                ahead, low, high, color="C0", alpha=0.25, label="90 %"
            )
        axes.plot(seen, past[:, column], color="black")
        axes.plot(ahead, future[:, column], color="black", label="truth")
        for number, (name, rows_) in enumerate(forecasts.items()):
            axes.plot(ahead, rows_[:, column], color=f"C{number}", label=name)
        axes.axvline(0, color="gray", linewidth=0.8)
        axes.set_title(data.observed[column])
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("hours")
    handles = grid.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5)
    figure.savefig(path, dpi=120)


def draw_errors(path, data, scores, title):
    """Mean error of each step, for every model of `scores`, a dict."""
    figure = _figure(8, 4.5)
    axes = figure.subplots()
    for number, (name, found) in enumerate(scores.items()):
        error = found["nrmse_by_step"]
        hours = data.step * np.arange(1, len(error) + 1)
        dashed = "--" if number > 9 else "-"
        axes.plot(hours, error, dashed, color=f"C{number % 10}", label=name)
    axes.set(
        xlabel="hours ahead",
        ylabel="NRMSE, mean over variables",
        title=title,
        ylim=(0, None),
    )
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)


def draw_spectrum(path, modes, step):
    """Where the eigenvalues lie, and how long their modes last.

    Args:
        path: where the PNG is written.
        modes: dict from names to what `KoVAE.spectrum` returns.
        step: float, hours between two rows.
    """
    figure = _figure(9, 4.2)
    disc, hours = figure.subplots(1, 2)
    angle = np.linspace(0, 2 * np.pi, 200)
    disc.plot(np.cos(angle), np.sin(angle), color="gray", linewidth=0.8)
    for number, (name, found) in enumerate(modes.items()):
        turn = 2 * np.pi * step / found["period"]
        for sign in (1, -1):
            disc.plot(
                found["modulus"] * np.cos(turn),
                sign * found["modulus"] * np.sin(turn),
                ".",
                color=f"C{number}",
                label=name if sign == 1 else None,
            )
        lasting = np.sort(found["time_constant"][found["modulus"] < 1])[::-1]
        hours.plot(
            np.arange(1, len(lasting) + 1),
            lasting,
            ".-",
            color=f"C{number}",
            label=name,
        )
    disc.set(aspect="equal", title="eigenvalues of a step")
    hours.set(
        yscale="log",
        xlabel="mode",
        ylabel="hours",
        title="time constants of the modes that fade",
    )
    hours.legend()
    figure.savefig(path, dpi=120)


def _figure(*size):
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
