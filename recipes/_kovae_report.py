"""The `report.md` of `kovae.py --task forecast`, from its files."""

import json

PICTURES = {
    "forecast.png": "a test window: truth, forecasts, 90 % of the ensemble",
    "errors.png": "error by step",
    "spectrum.png": "eigenvalues and time constants",
    "loss.png": "the loss and its terms; dashed: validation",
}
SPLITS = {
    "test": "test",
    "storm": "storm",
    "event": "storm's events",
}


def write_report(folder):
    """Write `report.md` from `config.json` and `metrics.json`."""
    config, metrics = (
        json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ("config", "metrics")
    )
    arguments, settings = config["arguments"], config["settings"]
    lines = [
        "# Koopman variational autoencoder",
        "",
        f"Data `{settings['data']['name']}`, preset `{settings['preset']}`, "
        f"{settings['epochs']} epochs, seed {settings['seed']}, backend "
        f"{arguments['backend']}, {metrics['parameters']:,} weights, "
        f"{metrics['seconds']:.0f} s. One seed: differences may be noise.",
        "",
        f"    python {config['versions']['command']}",
        "",
        "## Errors",
        "",
        "NRMSE: root mean square error in units of the training data's "
        "standard deviation, mean over variables and steps. Skill: what is "
        "saved of persistence's squared error, mean over steps, and the least "
        "of all steps beyond the first. `relative` is the report's own "
        "measure, which divides by a window's mean: it flatters whoever "
        "forecasts large numbers that hardly move, persistence first.",
        "",
        "| windows | model | NRMSE | skill | least skill | relative, % |",
        "|---|---|---|---|---|---|",
    ]
    splits = next(iter(metrics["scores"].values()))
    for split in splits:
        for name, scores in metrics["scores"].items():
            found = scores[split]
            lines.append(
                f"| {SPLITS[split]} | {name} | {found['nrmse']:.3f} | "
                f"{found['skill']:.3f} | {found['least_skill']:.3f} | "
                f"{found['relative']:.2f} |"
            )
    if "intervals" in metrics:
        lines += [
            "",
            "## Intervals of 90 %",
            "",
            "Before and after the ensemble was stretched on validation "
            "windows; CRPS in standard deviations.",
            "",
            "| windows | coverage | calibrated | CRPS | calibrated |",
            "|---|---|---|---|---|",
        ]
        for split, found in metrics["intervals"].items():
            raw, calibrated = found["raw"], found["calibrated"]
            lines.append(
                f"| {SPLITS[split]} | {raw['coverage']:.3f} | "
                f"{calibrated['coverage']:.3f} | {raw['crps']:.3f} | "
                f"{calibrated['crps']:.3f} |"
            )
    if "spectrum" in metrics:
        moduli = metrics["spectrum"]["modulus"]
        lines += [
            "",
            f"Largest eigenvalue: {max(moduli):.6f}; "
            f"{sum(m <= 1 for m in moduli)} of {len(moduli)} within the unit "
            "disc.",
        ]
    shown = [name for name in PICTURES if (folder / name).exists()]
    lines += ["", "## Pictures", ""]
    lines += [f"![{PICTURES[name]}]({name})" for name in shown]
    (folder / "report.md").write_text("\n".join(lines) + "\n", "utf-8")
