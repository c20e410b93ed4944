"""The `report.md` of `hamiltonian_mechanics.py`, from its files."""

import json
import math

import numpy as np
from _mechanics_names import NAMES
from _mechanics_pictures import draw


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
    pictures = draw(folder, read["config"], drawn)
    text = _text(read["config"], read["metrics"], pictures)
    (folder / "report.md").write_text(text, encoding="utf-8")


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
