"""The experiment of `kovae.py --task generate`, and what is written."""

import json
import sys

import keras
import numpy as np
from _command_line import (
    default_folder,
    distribute,
    open_folder,
    versions,
    write_json,
)
from _forecast_training import KEPT, LossCurve, kept_models
from _training import STATE, EpochSeconds, check_state, write_history
from orrery.callbacks import TrainingState
from orrery.datasets import SeriesBatches, sines, stock_windows
from orrery.metrics import discriminative_score, predictive_score
from orrery.zoo import KoVAEGenerator

SMOKE = {"series": 128, "steps": 20, "runs": 2}
# Runs of each judge, and the width of the stricter one.
RUNS, STRICT = 10, 32


def run(arguments):
    """Train, draw new series, judge them beside real ones, write it all."""
    name = arguments.dataset
    series = load(arguments)
    training = {
        "dataset": name,
        "epochs": arguments.epochs or 600,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate or 7e-4,
        "seed": arguments.seed,
        "smoke": arguments.smoke,
    }
    if arguments.smoke:
        training["epochs"] = 2
    if arguments.out is None:
        arguments.out = default_folder(
            f"kovae-{name}-{arguments.backend}", arguments.resume
        )
    folder = arguments.out
    open_folder(folder)
    distribute(arguments.devices)
    check_state(folder, training, arguments.resume)
    keras.utils.set_random_seed(arguments.seed)
    model = KoVAEGenerator.from_preset(
        f"kovae_{name}", load_weights=False, seed=arguments.seed
    )
    model.build()
    print(
        f"Koopman autoencoder, {model.count_params():,} weights, imitates "
        f"{len(series):,} windows of {name}, {series.shape[1]} rows of "
        f"{series.shape[2]}: {training['epochs']} epochs of batches of "
        f"{training['batch_size']}, backend {arguments.backend}, "
        f"{arguments.devices} device(s); then {RUNS} runs of each judge. An "
        "hour or two on two cores with JAX. Results go to "
        f"{folder}.",
        flush=True,
    )
    write_json(
        folder / "config.json",
        {
            "arguments": vars(arguments),
            "settings": training,
            "model": model.get_config(),
            "versions": versions(),
        },
    )
    history = train(model, series, folder, training)
    made = model.generate(len(series), seed=arguments.seed)
    np.savez_compressed(folder / "series.npz", made=made[:1000])
    measured = judge(series, made, folder, arguments)
    measured |= {
        "parameters": model.count_params(),
        "seconds": sum(history["seconds"]),
    }
    write_json(folder / "metrics.json", measured)
    draw(folder, series, made)
    write_report(folder)
    print(f"\nWrote {folder}/report.md, and what it shows beside it")


def load(arguments):
    """Series to imitate, float32 `(N, 24, features)`."""
    if arguments.dataset == "sines":
        series = sines(seed=arguments.seed)
    else:
        series = stock_windows(data_dir=arguments.data_dir, seed=arguments.seed)
    return series[: SMOKE["series"]] if arguments.smoke else series


def train(model, series, folder, config):
    """Fit the generator, resumably; the history."""
    batches = SeriesBatches(series, config["batch_size"], config["seed"])
    model.compile(keras.optimizers.Adam(config["learning_rate"]))
    state = TrainingState(
        folder / STATE, dataset=batches, seed=config["seed"], config=config
    )
    model.fit(
        batches,
        initial_epoch=state.initial_epoch,
        epochs=config["epochs"],
        shuffle=False,
        callbacks=[
            EpochSeconds(),
            keras.callbacks.TerminateOnNaN(),
            kept_models(folder, KEPT * 10),
            state,
            LossCurve(folder / "loss.png", state),
        ],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    write_history(folder / "history.csv", state.history)
    model.save(folder / "model.keras")
    return state.history


def judge(series, made, folder, arguments):
    """Scores of made series and of real ones, written after every run.

    The real row: what a judge says of two halves of the real series, and how
    well who learned from one half forecasts the other.
    """
    path = folder / "scores.json"
    config = {"smoke": arguments.smoke, "seed": arguments.seed}
    found = {"config": config, "runs": {}}
    if path.exists():
        found = json.loads(path.read_text("utf-8"))
    options = {"steps": SMOKE["steps"]} if arguments.smoke else {}
    halves = np.split(np.arange(len(series) // 2 * 2), 2)
    pairs = {
        "made": (series, made),
        "real": (series[halves[0]], series[halves[1]]),
    }
    scores = {
        "discriminative": (discriminative_score, {}),
        "discriminative, strict": (discriminative_score, {"units": STRICT}),
        "predictive": (predictive_score, {}),
    }
    for seed in range(SMOKE["runs"] if arguments.smoke else RUNS):
        for kind, pair in pairs.items():
            for name, (function, more) in scores.items():
                runs = found["runs"].setdefault(f"{name}/{kind}", [])
                if len(runs) > seed:
                    continue
                runs.append(function(*pair, seed=seed, **more, **options))
                write_json(path, found)
                print(f"{name}, {kind}, run {seed + 1}: {runs[-1]:.4f}")
    return {
        "scores": {
            key: {
                "mean": float(np.mean(runs)),
                "deviation": float(np.std(runs, ddof=1)),
                "runs": len(runs),
            }
            for key, runs in found["runs"].items()
        }
    }


def draw(folder, series, made):
    """Principal components, t-SNE and densities of real and made series."""
    import importlib.util

    for name in ("matplotlib", "sklearn"):
        if importlib.util.find_spec(name) is None:
            print("No pictures: pip install 'orrery[plot,science]' draws them.")
            return
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = min(1000, len(series), len(made))
    chosen = np.random.default_rng(0).permutation(len(series))[:count]
    # As in TimeGAN: the mean over features, one point a series.
    real, ours = series[chosen].mean(axis=-1), made[:count].mean(axis=-1)
    components = PCA(2).fit(real)
    both = TSNE(2, perplexity=min(40, count // 3), random_state=0)
    embedded = both.fit_transform(np.concatenate([real, ours]))
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, title, points in (
        (left, "PCA", [components.transform(x) for x in (real, ours)]),
        (middle, "t-SNE", np.split(embedded, 2)),
    ):
        for name, color, rows in zip(
            ("real", "made"), ("black", "C0"), points, strict=True
        ):
            axes.scatter(*rows.T, s=6, alpha=0.3, color=color, label=name)
        axes.set_title(title)
    for name, color, rows in (
        ("real", "black", series[chosen]),
        ("made", "C0", made[:count]),
    ):
        right.hist(
            rows.ravel(),
            bins=60,
            range=(0, 1),
            density=True,
            histtype="step",
            color=color,
            label=name,
        )
    right.set_title("density of all values")
    right.legend()
    figure.savefig(folder / "series.png", dpi=120)


def write_report(folder):
    """Write `report.md` from `config.json` and `metrics.json`."""
    config, metrics = (
        json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ("config", "metrics")
    )
    settings, scores = config["settings"], metrics["scores"]
    runs = next(iter(scores.values()))["runs"]
    lines = [
        "# Koopman variational autoencoder: new series",
        "",
        f"Data `{settings['dataset']}`, {settings['epochs']} epochs, seed "
        f"{settings['seed']}, backend {config['arguments']['backend']}, "
        f"{metrics['parameters']:,} weights, {metrics['seconds']:.0f} s.",
        "",
        f"    python {config['versions']['command']}",
        "",
        f"Mean and standard deviation of {runs} runs of each judge on one "
        "trained model. `real` is the same score of two halves of the real "
        "series: what is not above it cannot be told from real. The standard "
        f"judge has two or three units, the strict one {STRICT}.",
        "",
        "| score | made | real |",
        "|---|---|---|",
    ]
    for name in ("discriminative", "discriminative, strict", "predictive"):
        cells = [
            f"{scores[f'{name}/{kind}']['mean']:.4f} ± "
            f"{scores[f'{name}/{kind}']['deviation']:.4f}"
            for kind in ("made", "real")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "## Pictures", ""]
    for name in ("series.png", "loss.png"):
        if (folder / name).exists():
            lines.append(f"![{name}]({name})")
    (folder / "report.md").write_text("\n".join(lines) + "\n", "utf-8")
