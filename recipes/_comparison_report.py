"""Tables and pictures of `compare_koopman.py`, from its cells."""

import csv
import json
import math
import statistics

import _robustness
import keras
import numpy as np
import orrery  # noqa: F401 (registers the models)
from _forecast_arms import LINEAR
from _forecast_scores import SAMPLES, inputs_of, predict

NAMES = {"test": "test", "storm": "storm", "event": "storm's events"}
COLUMNS = ("windows", "influent", "arm", "nrmse", "nrmse_low", "nrmse_high")
COLUMNS += ("over_reference", "over_low", "over_high")
COLUMNS += ("over_episodes_low", "over_episodes_high", "skill")
COLUMNS += ("least_skill", "relative", "seeds", "parameters", "seconds")
REFERENCE = "KoVAE"
# Curves of a picture at most.
CURVES = 10
RESAMPLES = 2000


def write_report(folder, data, splits):
    """Write `comparison.csv`, the pictures and `report.md`."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    cells = {}
    for path in sorted((folder / "cells").glob("*.json")):
        cell = json.loads(path.read_text("utf-8"))
        if cell["seed"] in config["seeds"]:
            cells.setdefault(cell["arm"], {})[cell["seed"]] = cell
    cells = {arm: cells[arm] for arm in config["arms"] if arm in cells}
    rows = table(cells)
    path = folder / "comparison.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    pictures = draw(folder, data, splits, cells, config["settings"])
    text = _text(config, rows, cells, pictures, _robustness.table(folder))
    (folder / "report.md").write_text(text, encoding="utf-8")


def table(cells):
    """A row for each kind of windows, knowledge of the influent, and arm."""
    first = next(iter(cells.values()))
    scores = next(iter(first.values()))["scores"]
    rows = []
    for split, kinds in scores.items():
        for influent in kinds:
            found = {
                arm: {
                    seed: cell["scores"][split][influent]
                    for seed, cell in seeds.items()
                }
                for arm, seeds in cells.items()
            }
            for arm, by_seed in found.items():
                rows.append(
                    {
                        "windows": split,
                        "influent": influent,
                        "arm": arm,
                        **_row(by_seed, found.get(REFERENCE)),
                        "seeds": len(by_seed),
                        "parameters": cells[arm][0]["parameters"] or "",
                        "seconds": round(
                            statistics.mean(
                                c["seconds"] for c in cells[arm].values()
                            ),
                            1,
                        ),
                    }
                )
    return rows


def _row(by_seed, reference):
    """Means over seeds; intervals where there are two or more.

    `over_reference`: per cent by which the error is above that of KoVAE, of
    the same seed where both have one, with an interval over seeds and one over
    episodes.
    """
    errors = [s["nrmse"] for s in by_seed.values()]
    row = {"nrmse": statistics.mean(errors)}
    row["nrmse_low"], row["nrmse_high"] = bounds(errors)
    for name in ("skill", "relative"):
        row[name] = statistics.mean(s[name] for s in by_seed.values())
    row["least_skill"] = min(s["least_skill"] for s in by_seed.values())
    if reference is not None and by_seed is not reference:
        logs = [
            math.log(by_seed.get(seed, by_seed[0])["nrmse"] / s["nrmse"])
            for seed, s in reference.items()
        ]
        low, high = bounds(logs)
        for name, value in (
            ("over_reference", statistics.mean(logs)),
            ("over_low", low),
            ("over_high", high),
        ):
            row[name] = "" if value == "" else 100 * math.expm1(value)
        low, high = over_episodes(by_seed, reference)
        row["over_episodes_low"], row["over_episodes_high"] = low, high
    return {n: x if x == "" else float(f"{x:.4g}") for n, x in row.items()}


def over_episodes(by_seed, reference):
    """The 95 % interval of a paired bootstrap over episodes, in per cent.

    Of means over episodes of the errors of each, which are means over seeds;
    empty for a single episode.
    """
    ours, theirs = (
        np.mean([s["nrmse_by_episode"] for s in scores.values()], axis=0)
        for scores in (by_seed, reference)
    )
    if len(ours) < 2:
        return "", ""
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(ours), (RESAMPLES, len(ours)))
    ratios = ours[drawn].mean(axis=1) / theirs[drawn].mean(axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(100 * (low - 1)), float(100 * (high - 1))


def bounds(values):
    """Ends of the 95 % t interval of a mean; empty for a single value."""
    if len(values) < 2:
        return "", ""
    from scipy.stats import t

    mean = statistics.mean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values)
    half /= math.sqrt(len(values))
    return mean - half, mean + half


def draw(folder, data, splits, cells, settings):
    """Write the PNGs, where Matplotlib is installed; their names."""
    import _forecast_pictures as pictures

    if not pictures.possible():
        return []
    drawn = ["errors.png"]
    shown = list(cells)[:CURVES]
    pictures.draw_errors(
        folder / "errors.png",
        data,
        {arm: mean_by_step(cells[arm]) for arm in shown},
        f"Test episodes, {settings['steps']} steps of training",
    )
    models = {}
    for arm in ("KoVAE", "MamKO"):
        path = folder / "models" / f"{arm.lower()}.keras"
        if arm in cells and path.exists():
            models[arm] = keras.saving.load_model(path, compile=False)
    if models:
        windows = splits.get("event", splits["test"])
        index = len(windows["past"]) // 2
        one = {n: rows[index : index + 1] for n, rows in windows.items()}
        inputs = inputs_of(one, settings["history"])
        forecasts = {n: predict(m, inputs)[0] for n, m in models.items()}
        members = None
        if "KoVAE" in models:
            model = models["KoVAE"]
            members = model.forecast_ensemble(inputs, SAMPLES)[0]
        pictures.draw_window(
            folder / "forecast.png", data, one, 0, forecasts, members
        )
        drawn.append("forecast.png")
    modes = {
        arm: {n: np.array(x) for n, x in seeds[0]["spectrum"].items()}
        for arm, seeds in cells.items()
        if "spectrum" in seeds[0]
    }
    if modes:
        pictures.draw_spectrum(folder / "spectrum.png", modes, data.step)
        drawn.append("spectrum.png")
    return drawn


def mean_by_step(seeds):
    """The mean over seeds of the errors of each step on test episodes."""
    errors = [
        cell["scores"]["test"]["known"]["nrmse_by_step"]
        for cell in seeds.values()
    ]
    return {"nrmse_by_step": np.mean(errors, axis=0)}


def _text(config, rows, cells, pictures, robustness):
    settings = config["settings"]
    lines = [
        "# Koopman forecasters compared",
        "",
        f"Data `{settings['data']['name']}`, windows of {settings['history']} "
        f"+ {settings['horizon']} rows, {settings['steps']} steps of "
        f"{settings['batch_size']} windows, backend "
        f"{config['arguments']['backend']}.",
        "",
        f"    python {config['versions']['command']}",
        "",
        "NRMSE: root mean square error in units of the training data's "
        "standard deviation, mean over variables and steps, with a 95 % t "
        "interval over seeds. `over KoVAE`: per cent above KoVAE's error, "
        "seed by seed; an interval that holds 0 tells nothing. `episodes`: "
        "the same in the mean of episodes, an interval of episodes drawn anew. "
        "Skill: what is "
        "saved of persistence's squared error; the least one of all steps "
        "beyond the first and of all seeds. `relative`, %: the report's own "
        "measure, which divides by a window's mean.",
    ]
    for split in NAMES:
        for influent in ("known", "held"):
            part = [
                row
                for row in rows
                if (row["windows"], row["influent"]) == (split, influent)
            ]
            if not part:
                continue
            lines += [
                "",
                f"## {NAMES[split].capitalize()}, what disturbs is {influent}",
                "",
                "| arm | NRMSE | over KoVAE, % | episodes | skill | least | "
                "relative | seeds | weights | s |",
                "|---|---|---|---|---|---|---|---|---|---|",
            ]
            lines += [_line(row) for row in part]
    lines += _intervals(cells) + robustness
    lines += ["", "## Pictures", ""]
    lines += [f"![{name}]({name})" for name in pictures]
    return "\n".join(lines) + "\n"


def _line(row):
    def with_interval(name, low, high):
        if row.get(name, "") == "":
            return "-"
        if row[low] == "":
            return f"{row[name]:.3g}"
        return f"{row[name]:.3g} [{row[low]:.3g}, {row[high]:.3g}]"

    cells = [
        row["arm"],
        with_interval("nrmse", "nrmse_low", "nrmse_high"),
        with_interval("over_reference", "over_low", "over_high"),
        "-"
        if row.get("over_episodes_low", "") == ""
        else f"{row['over_episodes_low']:.3g} to "
        f"{row['over_episodes_high']:.3g}",
        f"{row['skill']:.3f}",
        f"{row['least_skill']:.3f}",
        f"{row['relative']:.2f}",
        "-" if row["arm"] in LINEAR else str(row["seeds"]),
        f"{row['parameters']:,}" if row["parameters"] else "-",
        f"{row['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _intervals(cells):
    lines = []
    for arm, seeds in cells.items():
        found = [c["intervals"] for c in seeds.values() if "intervals" in c]
        for split in found[0] if found else ():
            means = [
                statistics.mean(one[split][kind][name] for one in found)
                for kind in ("raw", "calibrated")
                for name in ("coverage", "crps")
            ]
            numbers = " | ".join(f"{mean:.3f}" for mean in means)
            lines.append(f"| {arm} | {NAMES[split]} | {numbers} |")
    if not lines:
        return []
    return [
        "",
        "## Intervals of 90 %",
        "",
        "Ensembles as they are, and stretched on validation windows; CRPS in "
        "standard deviations; means over seeds.",
        "",
        "| arm | windows | coverage | CRPS | calibrated | CRPS |",
        "|---|---|---|---|---|---|",
        *lines,
    ]
