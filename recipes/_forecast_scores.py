"""How good a forecaster is on windows that it was not trained on."""

import keras
import numpy as np
from orrery.metrics import (
    crps,
    interval_coverage,
    nrmse,
    skill_score,
    window_mean_relative_error,
)

# Members of an ensemble, and windows of which some are made.
SAMPLES, ENSEMBLES = 100, 256
INPUTS = ("past", "controls", "disturbances")


def split_windows(data, history, horizon, limit=None):
    """Windows of test, storm and the storm's events, a dict of dicts.

    Args:
        data: a `SeriesData`.
        history: int, rows seen.
        horizon: int, rows forecast.
        limit: int, windows of each split at most, or `None`.
    """
    found = {}
    for split in ("test", "storm"):
        if not data.splits.get(split):
            continue
        windows = data.windows(split, history, horizon)
        if limit is not None:
            chosen = np.linspace(0, len(windows["past"]) - 1, limit)
            chosen = np.unique(chosen.astype(int))
            windows = {name: rows[chosen] for name, rows in windows.items()}
        found[split] = windows
        if split == "storm" and windows["event"].any():
            event = windows["event"]
            found["event"] = {n: rows[event] for n, rows in windows.items()}
    return found


def inputs_of(windows, history, held=False):
    """What a model is given; `held`: nobody foretells what disturbs."""
    inputs = {n: windows[n] for n in INPUTS if windows[n].shape[-1]}
    if held and "disturbances" in inputs:
        rows = inputs["disturbances"].copy()
        # The last one known is that which acted before the last row.
        rows[:, history - 1 :] = rows[:, history - 2 : history - 1]
        inputs["disturbances"] = rows
    return inputs


def predict(model, inputs):
    """Forecasts of a network or of a linear forecaster."""
    if isinstance(model, keras.Model):
        return model.predict(inputs, batch_size=512, verbose=0)
    return model.predict(inputs)


def score(forecast, windows, data):
    """Errors of forecasts beside those of persistence.

    Returns:
        A dict: `nrmse`, the mean over steps and variables; `nrmse_by_step` and
        `skill_by_step`, lists; `skill`, their mean; `least_skill`, of every
        step beyond the first; `nrmse_by_episode`, a list; and `relative`, the
        report's error in per cent, of the five variables of largest deviation.
    """
    scale, varying = data.scales()["observed"][1], data.varying()
    truth, last = windows["future"], windows["past"][:, -1:]
    parts = [x[..., varying] for x in (truth, forecast, last)]
    error = nrmse(*parts[:2], scale[varying]).mean(axis=1)
    skill = skill_score(*parts, scale[varying])
    largest = np.argsort(-np.where(varying, scale, 0))[:5]
    by_episode = [
        float(nrmse(*(x[mine] for x in parts[:2]), scale[varying]).mean())
        for mine in (
            windows["episode"] == number
            for number in np.unique(windows["episode"])
        )
    ]
    return {
        "nrmse": float(error.mean()),
        "nrmse_by_episode": by_episode,
        "skill": float(skill.mean()),
        "least_skill": float(skill[1:].min() if len(skill) > 1 else skill[0]),
        "relative": window_mean_relative_error(truth, forecast, largest),
        "nrmse_by_step": error.tolist(),
        "skill_by_step": skill.tolist(),
    }


def intervals(model, data, splits, size):
    """Coverage and CRPS of ensembles, before and after calibration."""

    def some(windows):
        count = min(ENSEMBLES, len(windows["past"]))
        chosen = np.linspace(0, len(windows["past"]) - 1, count).astype(int)
        part = {name: rows[chosen] for name, rows in windows.items()}
        return inputs_of(part, size[0]), part["future"]

    scale, varying = data.scales()["observed"][1], data.varying()
    valid = some(data.windows("valid", *size))
    model.calibrate(*valid)
    found = {}
    for split, windows in splits.items():
        inputs, future = some(windows)
        found[split] = {}
        for name, calibrated in (("raw", False), ("calibrated", True)):
            members = model.forecast_ensemble(
                inputs, SAMPLES, calibrated=calibrated
            )
            coverage = interval_coverage(future, members)[:, varying]
            spread = (crps(future, members) / scale)[:, varying]
            found[split][name] = {
                "coverage": float(coverage.mean()),
                "crps": float(spread.mean()),
            }
    return found
