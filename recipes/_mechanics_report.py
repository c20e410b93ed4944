"""Pictures and `report.md` of `hamiltonian_mechanics.py`, from its files."""

import importlib.util
import json
import math

import numpy as np

COLORS = {
    "hamiltonian": "C0",
    "separable_leapfrog": "C9",
    "separable_rk4": "C2",
    "separable_euler": "C4",
    "plain_hnn": "C1",
    "neural_ode": "C3",
}
NAMES = {
    "hamiltonian": "Hamiltonian network, symplectic",
    "separable_leapfrog": "the same, leapfrog",
    "separable_rk4": "the same, Runge-Kutta",
    "separable_euler": "the same, forward Euler",
    "plain_hnn": "HNN, not separable, Runge-Kutta",
    "neural_ode": "neural ODE, Runge-Kutta",
}
# Steps whose largest energy error makes one point of a curve.
BLOCK = 100
TINY = 1e-9


def write_report(folder):
    """Draw what was measured and write `report.md`."""
    read = {
        name: json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ("config", "metrics")
    }
    drawn = {}
    for arm in read["metrics"]["arms"]:
        with np.load(folder / arm / "rollout.npz") as file:
            drawn[arm] = dict(file)
    pictures = []
    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install 'orrery[plot]' draws them.")
    else:
        pictures = _draw(folder, read["config"], drawn)
    text = _text(read["config"], read["metrics"], pictures)
    (folder / "report.md").write_text(text, encoding="utf-8")


def _draw(folder, config, drawn):
    from matplotlib.figure import Figure

    pictures = []

    def save(figure, name):
        figure.savefig(folder / name, dpi=150)
        pictures.append(name)

    step = config["step_size"]
    if "energy" in next(iter(drawn.values())):
        figure = Figure(figsize=(11, 4), layout="constrained")
        every, swing = figure.subplots(1, 2, width_ratios=(3, 2))
        for arm, data in drawn.items():
            time, error = _blocks(data["energy_error"], step)
            every.plot(time, error, color=COLORS[arm], label=NAMES[arm])
        every.set(
            xlabel="time",
            ylabel="|E - true E|",
            yscale="log",
            title="True energy along the roll-outs, median of the tests",
        )
        every.set_ylim(top=_top(drawn))
        every.legend(fontsize="small")
        arm = next(iter(drawn))
        for energy in drawn[arm]["energy"]:
            time = step * np.arange(len(energy))
            swing.plot(time, energy, linewidth=0.3)
        swing.set(
            xlabel="time",
            ylabel="E - true E",
            title=f"{NAMES[arm]}:\nthree roll-outs",
        )
        save(figure, "energy.png")

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm, data in drawn.items():
        axes.loglog(
            data["steps"] * step,
            np.where(
                np.isfinite(data["position_error"]),
                data["position_error"],
                np.nan,
            ),
            color=COLORS[arm],
            label=NAMES[arm],
        )
    axes.set(
        xlabel="time",
        ylabel="error of the position, root mean square",
        title="How far ahead the roll-outs can be trusted",
    )
    axes.set_ylim(top=30 * np.abs(next(iter(drawn.values()))["true_q"]).max())
    axes.legend(fontsize="small")
    save(figure, "errors.png")

    figure = Figure(figsize=(3 * len(drawn), 3.4), layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (arm, data) in zip(panels, drawn.items(), strict=True):
        _orbits(axes, data, config["dim"])
        axes.set_title(NAMES[arm], fontsize="small")
    save(figure, "phase.png")
    return pictures


def _blocks(error, step):
    """The largest error of every block of steps, and the time at its middle."""
    size = min(BLOCK, max(1, len(error) // 10))
    blocks = error[: len(error) // size * size].reshape(-1, size)
    blocks = np.where(np.isfinite(blocks), blocks, np.nan)
    keep = np.isfinite(blocks).all(axis=1)
    time = step * size * (0.5 + np.arange(len(blocks)))
    return time[keep], np.maximum(blocks[keep].max(axis=1), TINY)


def _top(drawn):
    """No diverging arm squeezes the others flat."""
    largest = [
        np.max(error[np.isfinite(error)], initial=TINY)
        for error in (data["energy_error"] for data in drawn.values())
    ]
    return min(max(largest) * 2, 1e4)


def _orbits(axes, data, dim):
    """Phase space of one position, else the plane of the first two."""
    first, second = ("q", "p") if dim == 1 else ("q", "q")
    column = 0 if dim == 1 else 1
    for index in range(len(data["q"])):
        truth = (
            data[f"true_{first}"][index, :, 0],
            data[f"true_{second}"][index, :, column],
        )
        found = (
            data[first][index, :, 0],
            data[second][index, :, column],
        )
        axes.plot(*found, ".", markersize=0.5, color=f"C{index}", zorder=1)
        axes.plot(*_part(truth), color="black", linewidth=0.7, zorder=2)
    for limits, x in (
        (axes.set_xlim, data[f"true_{first}"][..., 0]),
        (axes.set_ylim, data[f"true_{second}"][..., column]),
    ):
        reach = 1.6 * np.abs(x).max()
        limits(-reach, reach)
    labels = ("angle or position q", "momentum p")
    axes.set_xlabel(labels[0] if dim == 1 else "x")
    axes.set_ylabel(labels[1] if dim == 1 else "y")
    axes.set_aspect("auto")


def _part(truth, points=200):
    """Of the true orbit as much as shows its form."""
    return tuple(x[:points] for x in truth)


def _text(config, metrics, pictures):
    arguments, arms = config["arguments"], metrics["arms"]
    first = next(iter(arms.values()))
    horizons = list(first["position_error"])
    lines = [
        "# Learning mechanics",
        "",
        f"System `{arguments['system']}`, {config['dim']} position(s), points "
        f"{config['step_size']:g} apart, loss over {arguments['window']} "
        f"steps, {arguments['epochs']} epochs, seed {arguments['seed']}, "
        f"backend {arguments['backend']}; one seed: differences between arms "
        "may be noise.",
        "",
        f"    python {config['versions']['command']}",
        "",
        "## Positions",
        "",
        "Root mean square error over the test trajectories after so many "
        "steps, each network on its own from the initial state alone.",
        "",
        "| arm | weights | valid rmse | "
        + " | ".join(f"{h} steps" for h in horizons)
        + " | seconds |",
        "|---|" + "---|" * (len(horizons) + 3),
    ]
    for arm, result in arms.items():
        cells = [
            NAMES[arm],
            f"{result['parameters']:,}",
            _number(result["valid_rmse"]),
            *(_number(result["position_error"][h]) for h in horizons),
            f"{result['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if config["system_known"]:
        lines += _energy_table(arms, first)
    else:
        lines += [
            "",
            "The true energy of measured data is not known: the roll-outs "
            "were judged by positions alone. `reach` is the largest position "
            f"of {first['rollout_steps']:,} steps over the largest of the "
            "test data.",
            "",
            "| arm | reach |",
            "|---|---|",
            *(
                f"| {NAMES[arm]} | {_number(result['reach'])} |"
                for arm, result in arms.items()
            ),
        ]
    lines += ["", "## Pictures", ""]
    lines += [f"![{name}]({name})" for name in pictures]
    return "\n".join(lines) + "\n"


def _energy_table(arms, first):
    steady = "steady" in first
    lines = [
        "",
        "## Energy",
        "",
        "The true system's energy along the roll-outs of "
        f"{first['rollout_steps']:,} steps, less the true trajectory's: the "
        "largest difference, as root mean square and as median over the test "
        "trajectories."
        + (
            " Steady are trajectories whose energy only swings: straight "
            "line times time at most a tenth of the oscillation, largest error "
            "in the last tenth at most 1.1 times that in the first. Of both "
            "ratios the worst trajectory's."
            if steady
            else ""
        ),
        "",
        "| arm | energy error | median |"
        + (" steady | trend / oscillation | last / first |" if steady else ""),
        "|---|---|---|" + ("---|---|---|" if steady else ""),
    ]
    for arm, result in arms.items():
        cells = [
            NAMES[arm],
            _number(result["energy_error"]),
            _number(result["energy_error_median"]),
        ]
        if steady:
            cells += [
                f"{result['steady']:.0%}",
                _number(result["trend_over_oscillation"]),
                _number(result["growth"]),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value):
    return f"{value:.3g}" if math.isfinite(value) else "diverged"
