"""The pictures of `hamiltonian_mechanics.py`."""

import importlib.util

import numpy as np
from _mechanics_names import COLORS, NAMES

# Steps whose energy errors make one point of a curve.
BLOCK = 100
TINY = 1e-9


def draw(folder, config, drawn):
    """Write the PNGs, where Matplotlib is installed; their names.

    Args:
        folder: path, where they are written.
        config: dict, the run's `config.json`.
        drawn: dict from arms to the arrays of their `rollout.npz`.
    """
    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install 'orrery[plot]' draws them.")
        return []
    figures = {"errors.png": _errors, "phase.png": _phase}
    if "energy" in next(iter(drawn.values())):
        figures = {"energy.png": _energy, **figures}
    for name, figure in figures.items():
        figure(config, drawn).savefig(folder / name, dpi=150)
    return list(figures)


def _figure(*size):
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _style(arm):
    # Ours is wide: where curves coincide, it shows on both sides.
    width = 4 if arm == "hamiltonian" else 1.3
    return {"color": COLORS[arm], "label": NAMES[arm], "linewidth": width}


def _energy(config, drawn):
    figure, step = _figure(11, 4.4), config["step_size"]
    every, swing = figure.subplots(1, 2, width_ratios=(3, 2))
    for arm, data in drawn.items():
        time, _, error = _blocks(data["energy_error"], step)
        every.plot(time, np.maximum(error, TINY), **_style(arm))
    every.set(
        xlabel="time",
        ylabel="|E - true E|",
        yscale="log",
        title="True energy along the roll-outs, median of the tests",
    )
    every.set_ylim(top=_top(drawn))
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    arm = next(iter(drawn))
    for index, energy in enumerate(drawn[arm]["energy"]):
        time, low, high = _blocks(energy, step)
        swing.fill_between(time, low, high, color=f"C{index}", alpha=0.4)
    swing.axhline(0.0, color="black", linewidth=0.7)
    swing.set(
        xlabel="time",
        ylabel="E - true E",
        title=f"{NAMES[arm]}:\nbetween what bounds, three roll-outs",
    )
    swing.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    return figure


def _errors(config, drawn):
    figure = _figure(7, 5.2)
    axes = figure.subplots()
    for arm, data in drawn.items():
        error = data["position_error"]
        axes.loglog(
            data["steps"] * config["step_size"],
            np.where(np.isfinite(error), error, np.nan),
            **_style(arm),
        )
    reach = np.abs(next(iter(drawn.values()))["true_q"]).max()
    axes.axhline(reach, color="black", linewidth=0.7, linestyle=":")
    axes.text(
        0.01,
        reach,
        "size of the motion",
        va="bottom",
        fontsize="small",
        transform=axes.get_yaxis_transform(),
    )
    axes.set(
        xlabel="time",
        ylabel="error of the position, root mean square",
        title="How far ahead the roll-outs can be trusted",
    )
    axes.set_ylim(top=30 * reach)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _phase(config, drawn):
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = _figure(3.3 * columns, 3.3 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    for axes, (arm, data) in zip(panels, drawn.items(), strict=False):
        _orbits(axes, data, config["dim"])
        axes.set_title(NAMES[arm], fontsize="small")
    steps = next(iter(drawn.values()))["q"].shape[1] - 1
    figure.suptitle(
        f"Roll-outs of {steps:,} steps (colour) on the true orbits (grey)",
        fontsize="medium",
    )
    return figure


def _orbits(axes, data, dim):
    """Phase space of one position, else the plane of the first two."""
    first, second = ("q", "p") if dim == 1 else ("q", "q")
    column = 0 if dim == 1 else 1
    for index in range(len(data["q"])):
        truth = (
            data[f"true_{first}"][index, :, 0],
            data[f"true_{second}"][index, :, column],
        )
        found = data[first][index, :, 0], data[second][index, :, column]
        axes.plot(*truth, color="0.8", linewidth=4, zorder=1)
        axes.plot(*found, ".", markersize=0.7, color=f"C{index}", zorder=2)
    for limits, x in (
        (axes.set_xlim, data[f"true_{first}"][..., 0]),
        (axes.set_ylim, data[f"true_{second}"][..., column]),
    ):
        reach = 1.4 * np.abs(x).max()
        limits(-reach, reach)
    axes.set_xlabel("position q" if dim == 1 else "x")
    axes.set_ylabel("momentum p" if dim == 1 else "y")


def _blocks(values, step):
    """The middle of every block of steps, its smallest and largest value."""
    size = min(BLOCK, max(1, len(values) // 10))
    blocks = values[: len(values) // size * size].reshape(-1, size)
    keep = np.isfinite(blocks).all(axis=1)
    time = step * size * (0.5 + np.arange(len(blocks)))
    return time[keep], blocks[keep].min(axis=1), blocks[keep].max(axis=1)


def _top(drawn):
    """No diverging arm squeezes the others flat."""
    largest = [
        np.max(error[np.isfinite(error)], initial=TINY)
        for error in (data["energy_error"] for data in drawn.values())
    ]
    return min(max(largest) * 2, 1e4)
