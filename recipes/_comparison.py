"""The experiment of `compare_koopman.py`, cell by cell."""

import json
import time

import _robustness
import keras
from _command_line import (
    default_folder,
    distribute,
    open_folder,
    versions,
    write_json,
)
from _comparison_report import write_report
from _forecast_arms import LEARNED, LINEAR, MAIN, build
from _forecast_data import identity, load, widths
from _forecast_scores import (
    inputs_of,
    intervals,
    predict,
    score,
    split_windows,
)
from orrery.datasets import ForecastWindows
from orrery.optimizers import adamw_cosine
from orrery.zoo import KoVAE, MamKO
from orrery.zoo.legacy.kovae import EffectiveKoVAE, published_optimizer

SMOKE_STEPS, SMOKE_WINDOWS = 2, 32


def run(arguments):
    """Every arm and seed, then the report; a cell that is there stays."""
    arms = arguments.arms or MAIN
    for arm in arms:
        if arm not in (*LINEAR, *LEARNED):
            raise ValueError(
                f"--arms must be among {', '.join((*LINEAR, *LEARNED))}. "
                f"Received: {arm!r}"
            )
    data = load(arguments)
    if arguments.out is None:
        name = f"compare_koopman-{data.name}-{arguments.backend}"
        arguments.out = default_folder(name, arguments.resume)
    folder = arguments.out
    open_folder(folder)
    distribute(arguments.devices)
    settings = {
        "data": identity(data),
        "backend": arguments.backend,
        "history": arguments.history,
        "horizon": arguments.horizon,
        "steps": SMOKE_STEPS if arguments.smoke else arguments.steps,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "smoke": arguments.smoke,
    }
    check_folder(folder, settings, arguments.resume)
    seeds = range(2 if arguments.smoke else arguments.seeds)
    cells = [
        (arm, seed)
        for seed in seeds
        for arm in arms
        if arm in LEARNED or seed == 0
    ]
    announce(arguments, data, settings, arms, len(seeds))
    write_json(
        folder / "config.json",
        {
            "arguments": vars(arguments),
            "settings": settings,
            "arms": list(arms),
            "seeds": list(seeds),
            "versions": versions(),
        },
    )
    limit = SMOKE_WINDOWS if arguments.smoke else None
    splits = split_windows(data, arguments.history, arguments.horizon, limit)
    for number, (arm, seed) in enumerate(cells):
        path = folder / "cells" / f"{slug(arm)}-{seed}.json"
        if path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        found = measure(arm, seed, data, splits, settings, folder)
        write_json(path, found)
        test = found["scores"]["test"]["known"]
        print(
            f"{number + 1} of {len(cells)}: {arm}, seed {seed}: test NRMSE "
            f"{test['nrmse']:.4f}, skill {test['skill']:.3f}, "
            f"{found['seconds']:.0f} s",
            flush=True,
        )
    if arguments.robustness:
        size = settings["history"], settings["horizon"]
        files = {arm: folder / "models" / f"{slug(arm)}.keras" for arm in arms}
        _robustness.measure(folder, data, splits["test"], files, size)
    write_report(folder, data, splits)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")


def slug(arm):
    """A name that may be a file's."""
    return arm.lower().replace(",", "").replace(" ", "_").replace(".", "")


def check_folder(folder, settings, resume):
    """Refuse to overwrite a comparison, or to continue another one."""
    path = folder / "config.json"
    if not path.exists():
        return
    if not resume:
        raise SystemExit(
            f"{folder} holds a comparison already: continue it with --resume, "
            "or choose another --out"
        )
    before = json.loads(path.read_text("utf-8"))["settings"]
    now = json.loads(json.dumps(settings))
    differing = [key for key in now if now[key] != before.get(key)]
    if differing:
        raise ValueError(
            f"{folder} holds a comparison with other {', '.join(differing)}"
        )


def announce(arguments, data, settings, arms, seeds):
    rows = sum(len(episode) for episode in data.splits["train"])
    print(
        f"Comparing {len(arms)} forecasters on {data.name}: "
        f"{len(data.splits['train'])} training episodes of {rows:,} rows in "
        f"all, windows of {arguments.history} + {arguments.horizon} rows "
        f"{60 * data.step:g} minutes apart; {settings['steps']} steps of "
        f"{arguments.batch_size} windows, {seeds} seeds, backend "
        f"{arguments.backend}, {arguments.devices} device(s). Without flags "
        "about four minutes on two cores with JAX. Results go to "
        f"{arguments.out}.",
        flush=True,
    )


def measure(arm, seed, data, splits, settings, folder):
    """Train one arm and score it on every split, a JSON-plain dict."""
    size, test = (settings["history"], settings["horizon"]), splits["test"]
    start = time.perf_counter()
    if arm in LINEAR:
        model, parameters, loss = LINEAR[arm]().fit(data, *size), None, None
    else:
        model, loss = train(arm, seed, data, settings)
        parameters = model.count_params()
    seconds = time.perf_counter() - start
    found = {
        "arm": arm,
        "seed": seed,
        "parameters": parameters,
        "seconds": seconds,
        "loss": loss,
        "scores": {
            split: {
                influent: score(
                    predict(
                        model,
                        inputs_of(windows, size[0], influent == "held"),
                    ),
                    windows,
                    data,
                )
                for influent in ("known", "held")
                if influent == "known" or data.disturbances
            }
            for split, windows in splits.items()
        },
    }
    if isinstance(model, KoVAE):
        if data.splits.get("valid"):
            found["intervals"] = intervals(model, data, splits, size)
        modes = model.spectrum(data.step)
    elif isinstance(model, MamKO):
        some = {n: rows[:: len(rows) // 64 + 1] for n, rows in test.items()}
        modes = model.spectrum(data.step, inputs_of(some, size[0]))
    else:
        modes = {}
    if modes:
        found["spectrum"] = {n: x.tolist() for n, x in modes.items()}
    if seed == 0 and arm in LEARNED:
        (folder / "models").mkdir(exist_ok=True)
        model.save(folder / "models" / f"{slug(arm)}.keras")
    return found


def train(arm, seed, data, settings):
    """A network after so many steps, and the terms of its last losses."""
    keras.utils.set_random_seed(seed)
    size = settings["history"], settings["horizon"]
    model = build(arm, widths(data), *size, seed)
    model.adapt(data)
    steps = settings["steps"]
    windows = ForecastWindows(
        data, "train", *size, batch_size=settings["batch_size"], seed=seed
    )
    if isinstance(model, EffectiveKoVAE):
        optimizer = published_optimizer(len(windows))
    else:
        optimizer = adamw_cosine(
            steps, settings["learning_rate"], clip_norm=2.0
        )
    model.compile(optimizer)
    epochs, rest = divmod(steps, len(windows))
    history = None
    for first, count, length in (
        (0, epochs, len(windows)),
        (epochs, 1 if rest else 0, rest),
    ):
        if count:
            windows.set_epoch(first)
            history = model.fit(
                windows,
                epochs=count,
                steps_per_epoch=length,
                shuffle=False,
                verbose=0,
            ).history
    return model, {name: values[-1] for name, values in history.items()}
