"""Forecasts from sensors that are noisy, or lose values."""

import csv

import keras
import numpy as np
from _forecast_arms import LINEAR
from _forecast_scores import inputs_of, predict, score

# In standard deviations of the training data; shares of values lost.
NOISE = (0.01, 0.05, 0.1, 0.2, 0.5)
DROPOUT = (0.05, 0.1, 0.2, 0.3)
WINDOWS = 1024
COLUMNS = ("arm", "noise", "dropout", "nrmse")


def measure(folder, data, windows, arms, size):
    """Write `robustness.csv`: errors of the models that `folder` holds.

    Args:
        folder: path, with `models/`.
        data: a `SeriesData`.
        windows: dict of test windows.
        arms: dict of the file of each network, `None` for what has none.
        size: ints, rows seen and rows forecast.
    """
    count = min(WINDOWS, len(windows["past"]))
    chosen = np.linspace(0, len(windows["past"]) - 1, count).astype(int)
    windows = {name: rows[chosen] for name, rows in windows.items()}
    scale = data.scales()["observed"][1]
    grid = [
        (0.0, 0.0),
        *((x, 0.0) for x in NOISE),
        *((0.0, x) for x in DROPOUT),
    ]
    rows = []
    for arm, path in arms.items():
        if arm in LINEAR:
            model = LINEAR[arm]().fit(data, *size)
        else:
            model = keras.saving.load_model(path, compile=False)
        for noise, dropout in grid:
            past = corrupt(windows["past"], scale, noise, dropout)
            inputs = inputs_of({**windows, "past": past}, size[0])
            found = score(predict(model, inputs), windows, data)
            rows.append(
                {
                    "arm": arm,
                    "noise": noise,
                    "dropout": dropout,
                    "nrmse": float(f"{found['nrmse']:.4g}"),
                }
            )
    with open(
        folder / "robustness.csv", "w", newline="", encoding="utf-8"
    ) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def corrupt(past, scale, noise, dropout, seed=0):
    """Rows with noise, and with lost values taken from the row before.

    Args:
        past: array `(B, O, X)`; of its first row no value is lost.
        scale: array `(X,)`, standard deviations.
        noise: float >= 0, in these.
        dropout: float in [0, 1), share of values that are lost.
        seed: int. Defaults to `0`.
    """
    generator = np.random.default_rng(seed)
    past = past + noise * scale * generator.standard_normal(past.shape)
    lost = generator.random(past.shape) < dropout
    for row in range(1, past.shape[1]):
        past[:, row] = np.where(lost[:, row], past[:, row - 1], past[:, row])
    return past.astype("float32")


def table(folder):
    """Lines of the report on `robustness.csv`, none if it is not there."""
    path = folder / "robustness.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    count = len(rows) // len(arms)
    heads = ["none"]
    heads += [f"noise {x:.0%}" for x in NOISE]
    heads += [f"lost {x:.0%}" for x in DROPOUT]
    lines = [
        "",
        "## Noisy sensors, and such that lose values",
        "",
        "NRMSE on test windows, seed 0. Noise in standard deviations; what is "
        "lost is taken from the row before, for every arm. None was trained "
        "for this.",
        "",
        f"| arm | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
    ]
    for index, arm in enumerate(arms):
        mine = rows[index * count : (index + 1) * count]
        lines.append(f"| {arm} | {' | '.join(r['nrmse'] for r in mine)} |")
    return lines
