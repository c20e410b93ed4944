r"""Turn a finished run of `koopman_lm.py` into a saved model and its CSVs.

    python recipes/publish_koopman_lm.py runs/koopman_lm-wikitext2-jax-1 \
        koopman_lm_small

Writes `saved_models/<name>/` (checked on every installed backend) and, under
`results/`, the run's pictures and `<name>_arms.csv`, `<name>_replaced.csv` and
`<name>_curve.csv`, from which the tables are generated.
"""

import argparse
import csv
import json
import os
import pathlib
import shutil

from _koopman_report import training_seconds

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN_BLOCKS, GOLDEN_LENGTH = 2, 8
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
VOCABULARY = ("vocabulary.txt", "vocabulary.json", "merges.txt")


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("run", type=pathlib.Path, help="folder of the run")
    flags.add_argument("name", help="of the saved model: its preset")
    flags.add_argument("--hardware", default=f"{os.cpu_count()} CPU cores")
    arguments = flags.parse_args()
    run = arguments.run
    config, metrics = (
        json.loads((run / f"{file}.json").read_text(encoding="utf-8"))
        for file in ("config", "metrics")
    )
    write_tables(arguments, config, metrics)
    pictures = {picture: run / picture for picture in PICTURES}
    for phase in ("koopman", "koopman/operators_only"):
        path = run / phase / "operators" / "eigenvalues.png"
        if path.exists():
            pictures["eigenvalues.png"] = path
    for picture, path in pictures.items():
        shutil.copy(path, ROOT / "results" / f"{arguments.name}_{picture}")
    os.environ.setdefault("KERAS_BACKEND", config["arguments"]["backend"])

    import numpy as np
    import orrery
    from orrery.zoo.publishing import publish

    model = orrery.load(run / "model.keras")
    rng = np.random.default_rng(0)
    tokens = rng.integers(
        2, model.vocabulary_size, (GOLDEN_BLOCKS, GOLDEN_LENGTH)
    )
    publish(
        ROOT / "saved_models" / arguments.name,
        model,
        tokens.astype("int32"),
        metadata(arguments, config, metrics, model),
        files=[path for name in VOCABULARY if (path := run / name).exists()],
    )
    print(f"Wrote saved_models/{arguments.name}")


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
                    "training perplexity": _short(epoch["perplexity"]),
                    "valid perplexity": _short(epoch["val_perplexity"]),
                    **{
                        column: _short(epoch[key], 4) if key in epoch else ""
                        for column, key in KOOPMAN_COLUMNS.items()
                    },
                    "seconds": round(float(epoch["seconds"])),
                }


def metadata(arguments, config, metrics, model):
    settings, data = config["arguments"], config["data"]
    arm = metrics["arms"]["koopman"]
    curve = metrics["replaced"]["own operators"]
    half = (model.num_layers + 1) // 2
    size = model.vocabulary_size

    def metric(name, split, value):
        return {
            "name": name,
            "split": split,
            "value": round(value, 3),
            "seeds": str(settings["seed"]),
            "interval": "one seed",
        }

    return {
        "description": "A causal language model of words, each of whose "
        f"{model.num_layers} blocks has a linear operator on lifted states "
        "beside it that can run in its place (`model.set_replaced`).",
        "task": "next-token prediction: token ids in, logits of the next "
        "token out, strictly causal",
        "inputs": [
            {
                "name": "tokens",
                "shape": "(batch, length)",
                "dtype": "int32",
                "range": f"0 to {size - 1}",
            }
        ],
        "outputs": [
            {
                "name": "logits",
                "shape": f"(batch, length, {size})",
                "dtype": "float32",
                "range": "real",
            }
        ],
        "data": {
            key: data[key]
            for key in ("name", "version", "source", "licence", "sha256")
        },
        "training": {
            "command": command(settings),
            "seconds": round(training_seconds(arm)),
            "hardware": arguments.hardware,
            "epochs": settings["epochs"],
            "epochs of the operators alone": settings["operator_epochs"],
        },
        "metrics": [
            *(
                metric(name, split, arm[split][key])
                for split in ("valid", "test")
                for name, key in (
                    ("perplexity", "perplexity"),
                    (
                        "perplexity without unknown targets",
                        "perplexity_without_unknown",
                    ),
                )
            ),
            metric(f"perplexity, {half} blocks replaced", "valid", curve[half]),
            metric("perplexity, all blocks replaced", "valid", curve[-1]),
        ],
        "vocabulary": f"vocabulary.txt, {size} lines, line number = id, "
        "first line = id 0 (<pad>), second = <unk>",
        "architecture": config["architecture"],
        "language_model_parameters": arm["parameters"],
        "operator_parameters": arm["operator_parameters"],
        "intended_use": "Research on Koopman operators as stand-ins for "
        "blocks of a language model; tests and examples.",
        "limits": "A few million weights trained on one small corpus: it "
        "writes fluent nonsense, knows no facts, and repeats the biases of its "
        "text. Word-level: what is not in vocabulary.txt becomes <unk>.",
        "licence": "Apache-2.0",
    }


def command(settings):
    """The call that repeats the run, without paths of this machine."""
    names = ("dataset", "preset", "tokenizer", "epochs", "operator_epochs")
    names += ("batch_size", "learning_rate", "precision", "seed", "backend")
    values = [f"--{name.replace('_', '-')} {settings[name]}" for name in names]
    arms = " ".join(settings["arms"])
    return f"python recipes/koopman_lm.py {' '.join(values)} --arms {arms}"


def software(versions):
    names = ("keras", "jax", "torch", "tensorflow")
    return ", ".join(f"{n} {versions[n]}" for n in names if n in versions)


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _short(value, digits=2):
    return round(float(value), digits)


if __name__ == "__main__":
    main()
