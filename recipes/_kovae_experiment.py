"""The experiment of `kovae.py --task forecast`, and what is written."""

import keras
import numpy as np
from _command_line import (
    default_folder,
    distribute,
    open_folder,
    versions,
    write_json,
)
from _forecast_arms import LINEAR
from _forecast_data import identity, load, widths, without_controls
from _forecast_scores import (
    SAMPLES,
    inputs_of,
    intervals,
    predict,
    score,
    split_windows,
)
from _forecast_training import train
from _kovae_presets import MODELS, TRAINING
from _kovae_report import write_report
from _training import check_state
from orrery.zoo import KoVAE
from orrery.zoo.linear_forecasters import Persistence


def run(arguments):
    """Train, judge beside two baselines, write everything to `--out`."""
    data = load(arguments)
    if arguments.preset == "old" and data.controls:
        print(f"--preset old does not see what is set: {data.controls}")
        data = without_controls(data)
    if arguments.out is None:
        name = f"kovae-{data.name}-{arguments.backend}"
        arguments.out = default_folder(name, arguments.resume)
    folder = arguments.out
    open_folder(folder)
    distribute(arguments.devices)
    keras.utils.set_random_seed(arguments.seed)
    model = build(arguments, data)
    settings = settings_of(arguments, data, model)
    check_state(folder, settings, arguments.resume)
    model.build()
    announce(arguments, data, model, settings)
    write_json(
        folder / "config.json",
        {
            "arguments": vars(arguments),
            "settings": settings,
            "versions": versions(),
        },
    )
    history = train(model, data, folder, settings, arguments.resume)
    judge(model, data, arguments, folder, history)
    write_report(folder)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")


def settings_of(arguments, data, model):
    """What must agree between a run and its continuation."""
    training = dict(TRAINING[arguments.preset])
    if arguments.learning_rate is not None:
        training["learning_rate"] = arguments.learning_rate
    epochs = arguments.epochs
    if epochs is None:
        small = arguments.dataset == "bsm1" and arguments.size == "small"
        epochs = 100 if small else 401
    options = model.get_config()
    return {
        "data": identity(data),
        "model": {n: options[n] for n in options if n not in ("name", "dtype")},
        "backend": arguments.backend,
        "preset": arguments.preset,
        "epochs": 2 if arguments.smoke else epochs,
        "batch_size": arguments.batch_size,
        **training,
        "seed": arguments.seed,
        "smoke": arguments.smoke,
    }


def build(arguments, data):
    """The model that the flags name."""
    size = widths(data), arguments.history, arguments.horizon
    if arguments.preset == "effective":
        from orrery.zoo.legacy.kovae import EffectiveKoVAE

        return EffectiveKoVAE(*size[0], *size[1:])
    options = dict(MODELS[arguments.preset])
    for name in ("koopman", "decoder"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    linear = options.get("koopman") in ("stable", "lstsq")
    # Nothing acts on what is only observed.
    if linear or not any(size[0][1:]):
        options["bilinear_rank"] = 0
    if options.get("koopman") != "soft":
        for name in ("gamma", "margin"):
            if options.pop(name, None) is not None:
                print(
                    f"--koopman {options['koopman']} has no penalty: {name} of "
                    f"the preset {arguments.preset} is left out"
                )
    return KoVAE(*size[0], *size[1:], seed=arguments.seed, **options)


def announce(arguments, data, model, settings):
    rows = sum(len(e) for e in data.splits["train"])
    print(
        f"Koopman autoencoder, preset {arguments.preset}, "
        f"{model.count_params():,} weights, on {data.name}: "
        f"{len(data.observed)} observed, {len(data.controls)} set, "
        f"{len(data.disturbances)} disturb; {len(data.splits['train'])} "
        f"training episodes of {rows:,} rows in all, "
        f"{60 * data.step:g} minutes apart. {settings['epochs']} epochs of "
        f"batches of {settings['batch_size']} windows of {arguments.history} + "
        f"{arguments.horizon} rows, backend {arguments.backend}, "
        f"{arguments.devices} device(s). Without flags about two minutes on "
        f"two cores with JAX. Results go to {arguments.out}.",
        flush=True,
    )


def judge(model, data, arguments, folder, history):
    """Scores of the model and of two baselines; forecasts for pictures."""
    size = arguments.history, arguments.horizon
    limit = 64 if arguments.smoke else None
    splits = split_windows(data, *size, limit)
    models = {
        "KoVAE": model,
        "ridge": LINEAR["ridge"]().fit(data, *size),
        "persistence": Persistence().fit(data, *size),
    }
    measured = {
        "parameters": model.count_params(),
        "seconds": sum(history["seconds"]),
        "scores": {name: {} for name in models},
    }
    for name, one in models.items():
        for split, windows in splits.items():
            forecast = predict(one, inputs_of(windows, size[0]))
            measured["scores"][name][split] = score(forecast, windows, data)
    if isinstance(model, KoVAE):
        measured["intervals"] = intervals(model, data, splits, size)
        modes = model.spectrum(data.step)
        measured["spectrum"] = {n: x.tolist() for n, x in modes.items()}
        # The intervals' stretch is part of the model.
        model.save(folder / "model.keras")
    write_json(folder / "metrics.json", measured)
    windows = splits["test"]
    shown = len(windows["past"]) // 2
    one = {n: rows[shown : shown + 1] for n, rows in windows.items()}
    inputs = inputs_of(one, size[0])
    drawn = {
        name: predict(one, inputs)[0]
        for name, one in models.items()
        if name != "persistence"
    }
    members = None
    if isinstance(model, KoVAE):
        members = model.forecast_ensemble(inputs, SAMPLES)[0]
    np.savez_compressed(
        folder / "forecast.npz",
        shown=shown,
        **drawn,
        **({} if members is None else {"members": members}),
    )
    _draw(folder, data, one, drawn, members, measured)


def _draw(folder, data, windows, drawn, members, measured):
    import _forecast_pictures as pictures

    if not pictures.possible():
        return
    pictures.draw_window(
        folder / "forecast.png", data, windows, 0, drawn, members
    )
    scores = {n: s["test"] for n, s in measured["scores"].items()}
    pictures.draw_errors(folder / "errors.png", data, scores, "Test episodes")
    if "spectrum" in measured:
        modes = {n: np.array(x) for n, x in measured["spectrum"].items()}
        pictures.draw_spectrum(
            folder / "spectrum.png", {"KoVAE": modes}, data.step
        )
