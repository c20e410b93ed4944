"""The experiment of `kovae.py --task generate`, and what is written."""

import json
import pathlib

import keras
import numpy as np
from _command_line import (
    default_folder,
    distribute,
    open_folder,
    versions,
    write_json,
)
from _forecast_training import fit
from _generation_data import IrregularBatches, load
from _generation_report import STRICT, draw, write_report
from _training import check_state
from orrery.datasets import SeriesBatches, drop_values
from orrery.metrics import discriminative_score, predictive_score
from orrery.zoo import KoVAEGenerator

# Runs of each judge; and of a smoke run, with fewer steps.
RUNS = 10
SMOKE_RUNS, SMOKE_STEPS = 2, 20
# The paper's weights of the loss for series with missing rows.
IRREGULAR = {"kl_weight": 0.1, "prediction_weight": 0.0005}


def run(arguments):
    """Train, draw new series, judge them beside real ones, write it all."""
    name = pathlib.Path(arguments.dataset).stem
    series, data = load(arguments)
    if arguments.out is None:
        arguments.out = default_folder(
            f"kovae-{name}-{arguments.backend}", arguments.resume
        )
    folder = arguments.out
    open_folder(folder)
    distribute(arguments.devices)
    keras.utils.set_random_seed(arguments.seed)
    model = build(arguments, series)
    settings = settings_of(arguments, data, model)
    check_state(folder, settings, arguments.resume)
    model.build()
    announce(arguments, series, model, settings)
    write_json(
        folder / "config.json",
        {
            "arguments": vars(arguments),
            "settings": settings,
            "versions": versions(),
        },
    )
    history = train(model, series, folder, settings)
    made = model.generate(len(series), seed=arguments.seed)
    np.savez_compressed(folder / "series.npz", made=made[:1000])
    measured = judge(series, made, folder, settings)
    measured |= {
        "parameters": model.count_params(),
        "seconds": sum(history["seconds"]),
    }
    write_json(folder / "metrics.json", measured)
    draw(folder, series, made)
    write_report(folder)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")


def build(arguments, series):
    """The model that the flags name."""
    options = {
        "features": series.shape[-1],
        "length": arguments.length,
        "history": arguments.prior_history,
        "irregular": arguments.drop > 0,
        "seed": arguments.seed,
    }
    if arguments.drop > 0:
        options |= IRREGULAR
    preset = f"kovae_{arguments.dataset}"
    if preset not in KoVAEGenerator.presets:
        return KoVAEGenerator(**options)
    return KoVAEGenerator.from_preset(preset, load_weights=False, **options)


def settings_of(arguments, data, model):
    """What must agree between a run and its continuation."""
    options = model.get_config()
    return {
        "data": data,
        # Keras numbers models of a process: that is none of the run's business.
        "model": {n: options[n] for n in options if n not in ("name", "dtype")},
        "backend": arguments.backend,
        "drop": arguments.drop,
        "epochs": 2 if arguments.smoke else arguments.epochs or 600,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate or 7e-4,
        "seed": arguments.seed,
        "smoke": arguments.smoke,
    }


def announce(arguments, series, model, settings):
    missing = ""
    if arguments.drop > 0:
        missing = f", {arguments.drop:g} of all rows missing"
    print(
        f"Koopman autoencoder, {model.count_params():,} weights, imitates "
        f"{len(series):,} windows of {arguments.dataset}, {series.shape[1]} "
        f"rows of {series.shape[2]}{missing}: {settings['epochs']} epochs of "
        f"batches of {settings['batch_size']}, backend {arguments.backend}, "
        f"{arguments.devices} device(s); then {RUNS} runs of each judge. An "
        "hour or two on two cores with JAX. Results go to "
        f"{arguments.out}.",
        flush=True,
    )


def train(model, series, folder, config):
    """Fit the generator, resumably; the history."""
    size, seed = config["batch_size"], config["seed"]
    if config["drop"] > 0:
        given = drop_values(series, config["drop"], seed)
        batches = IrregularBatches(given, size, seed)
    else:
        batches = SeriesBatches(series, size, seed)
    model.compile(keras.optimizers.Adam(config["learning_rate"]))
    return fit(model, batches, folder, config)


def pairs(series, made):
    """Real and other series for a judge, by kind.

    `made` and `real` differ in nothing but what is judged beside one half of
    the real series: as many made ones, or the other half. `published` is all
    of both, as published figures have it.
    """
    half = len(series) // 2
    one, other = series[:half], series[half : 2 * half]
    return {
        "made": (one, made[:half]),
        "real": (one, other),
        "published": (series, made),
    }


def judge(series, made, folder, config):
    """Scores of made series and of real ones, written after every run.

    Beside each other stand `scores` of `made` and `real`, see `pairs`; those
    of all series are `published`. With one feature there is none to be told
    from the others, hence no predictive score.
    """
    path = folder / "scores.json"
    found = {"config": config, "runs": {}}
    if path.exists():
        found = json.loads(path.read_text("utf-8"))
        if found["config"] != config:
            raise ValueError(
                f"{path} holds scores of another configuration: delete it to "
                "judge anew"
            )
    options = {"steps": SMOKE_STEPS} if config["smoke"] else {}
    judges = {
        "discriminative": (discriminative_score, {}),
        "discriminative, strict": (discriminative_score, {"units": STRICT}),
        "predictive": (predictive_score, {}),
    }
    if series.shape[-1] == 1:
        del judges["predictive"]
    kinds = pairs(series, made)
    for seed in range(SMOKE_RUNS if config["smoke"] else RUNS):
        for kind, pair in kinds.items():
            for name, (function, more) in judges.items():
                runs = found["runs"].setdefault(f"{name}/{kind}", [])
                if len(runs) > seed:
                    continue
                runs.append(function(*pair, seed=seed, **more, **options))
                write_json(path, found)
                print(f"{name}, {kind}, run {seed + 1}: {runs[-1]:.4f}")
    summaries = {name: _summary(runs) for name, runs in found["runs"].items()}
    return {
        "scores": {
            f"{name}/{kind}": summaries[f"{name}/{kind}"]
            for kind in ("made", "real")
            for name in judges
        },
        "published": {name: summaries[f"{name}/published"] for name in judges},
    }


def _summary(runs):
    return {
        "mean": float(np.mean(runs)),
        "deviation": float(np.std(runs, ddof=1)),
        "runs": len(runs),
    }
