r"""Turn a finished run of `koopman_lm.py` into a saved model and its CSVs.

    python recipes/publish_koopman_lm.py runs/koopman_lm-wikitext2-jax-1 \
        koopman_lm_small

Writes `saved_models/<name>/` (checked on every installed backend) and, under
`results/`, the run's pictures and `<name>_arms.csv`, `<name>_replaced.csv` and
`<name>_curve.csv`, from which the tables are generated.
"""

import csv
import shutil

import _publishing
from _koopman_report import training_seconds
from _publishing import ROOT, short, software, write

PICTURES = ("curves.png", "koopman.png", "replaced.png")
KOOPMAN_COLUMNS = {
    "koopman weight": "koopman_weight",
    "contribution to the loss": "koopman_contribution_fraction",
    "lifted error": "koopman_linear",
    "state error": "koopman_state",
    "skill": "koopman_skill",
    "held-out skill": "koopman_held_out_skill",
    "held-out R2": "koopman_held_out_r_squared",
    "spectral radius": "koopman_spectral_radius",
    "distance from identity": "koopman_distance",
}


def main():
    arguments, config, metrics = _publishing.arguments(__doc__.splitlines()[0])
    run = arguments.run
    write_tables(arguments, config, metrics)
    pictures = {picture: run / picture for picture in PICTURES}
    for phase in ("koopman", "koopman/operators_only"):
        path = run / phase / "operators" / "eigenvalues.png"
        if path.exists():
            pictures["eigenvalues.png"] = path
    for picture, path in pictures.items():
        shutil.copy(path, ROOT / "results" / f"{arguments.name}_{picture}")
    _publishing.publish_language_model(
        arguments, metadata(arguments, config, metrics)
    )


def write_tables(arguments, config, metrics):
    """The arms, the replaced blocks and the curves, a CSV each."""
    name, run = arguments.name, arguments.run
    settings = config["arguments"]
    rows = []
    for arm, result in metrics["arms"].items():
        rows.append(
            {
                "arm": arm,
                "seed": settings["seed"],
                "epochs": "" if arm == "ngram" else settings["epochs"],
                "trainable weights": result.get("parameters", ""),
                "operator weights": result.get("operator_parameters", ""),
                **{
                    f"{split} {label}": round(result[split][key], 2)
                    for split in ("valid", "test")
                    for label, key in (
                        ("perplexity", "perplexity"),
                        ("without unknown", "perplexity_without_unknown"),
                    )
                },
                "minutes": round(training_seconds(result) / 60, 1) or "",
                "software": software(config["versions"]),
                "hardware": arguments.hardware,
                "command": command(settings),
            }
        )
        if "unigram" in result:
            unigram = round(result["unigram"]["perplexity"], 2)
            blank = dict.fromkeys(rows[-1], "")
            rows.append(
                {**blank, "arm": "unigram", "valid perplexity": unigram}
            )
    write(ROOT / "results" / f"{name}_arms.csv", rows)
    curves = metrics["replaced"]
    write(
        ROOT / "results" / f"{name}_replaced.csv",
        [
            {
                "operators": kind,
                **{
                    f"{count} replaced": round(value, 2)
                    for count, value in enumerate(curve)
                },
                **{
                    f"ratio {count}": round(value / curve[0], 3)
                    for count, value in enumerate(curve)
                },
            }
            for kind, curve in curves.items()
        ],
    )
    write(
        ROOT / "results" / f"{name}_operators.csv",
        [
            {
                name: round(value, 4) if name != "block" else value
                for name, value in row.items()
            }
            for row in metrics["operators"]
        ],
    )
    write(ROOT / "results" / f"{name}_curve.csv", list(curve(run, metrics)))


def curve(run, metrics):
    """The epochs of every arm, the operators' own under a name of theirs."""
    phases = {arm: run / arm for arm in metrics["arms"]}
    phases["koopman, operators alone"] = run / "koopman" / "operators_only"
    for phase, folder in phases.items():
        if not (folder / "history.csv").exists():
            continue
        with open(folder / "history.csv", newline="", encoding="utf-8") as file:
            for epoch in csv.DictReader(file):
                yield {
                    "arm": phase,
                    "epoch": epoch["epoch"],
                    "training perplexity": short(epoch["perplexity"]),
                    "valid perplexity": short(epoch["val_perplexity"]),
                    **{
                        column: short(epoch[key], 4) if key in epoch else ""
                        for column, key in KOOPMAN_COLUMNS.items()
                    },
                    "seconds": round(float(epoch["seconds"])),
                }


def metadata(arguments, config, metrics):
    settings, architecture = config["arguments"], config["architecture"]
    arm, seed = metrics["arms"]["koopman"], config["arguments"]["seed"]
    curve = metrics["replaced"]["own operators"]
    layers = architecture["num_layers"]
    half = (layers + 1) // 2
    return {
        "description": "A causal language model of words, each of whose "
        f"{layers} blocks has a linear operator on lifted states beside it "
        "that can run in its place (`model.set_replaced`).",
        "data": _publishing.data_of(config),
        "training": {
            "command": command(settings),
            "seconds": round(training_seconds(arm)),
            "hardware": arguments.hardware,
            "epochs": settings["epochs"],
            "epochs of the operators alone": settings["operator_epochs"],
        },
        "metrics": [
            *_publishing.perplexities(arm, seed),
            *(
                _publishing.metric(f"perplexity, {what}", "valid", value, seed)
                for what, value in (
                    (f"{half} blocks replaced", curve[half]),
                    ("all blocks replaced", curve[-1]),
                )
            ),
        ],
        "architecture": architecture,
        "language_model_parameters": arm["parameters"],
        "operator_parameters": arm["operator_parameters"],
        "intended_use": "Research on Koopman operators as stand-ins for "
        "blocks of a language model; tests and examples.",
    }


def command(settings):
    """The call that repeats the run, without paths of this machine."""
    names = ("dataset", "preset", "tokenizer", "epochs", "operator_epochs")
    names += ("batch_size", "learning_rate", "precision", "seed", "backend")
    values = [f"--{name.replace('_', '-')} {settings[name]}" for name in names]
    arms = " ".join(settings["arms"])
    return f"python recipes/koopman_lm.py {' '.join(values)} --arms {arms}"


if __name__ == "__main__":
    main()
