"""What the scripts share that turn a finished run into a saved model."""

import argparse
import csv
import json
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN_BLOCKS, GOLDEN_LENGTH = 2, 8
VOCABULARY = ("vocabulary.txt", "vocabulary.json", "merges.txt")


def arguments(description):
    """The run, the name of the model, and the run's config and metrics."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("run", type=pathlib.Path, help="folder of the run")
    flags.add_argument("name", help="of the saved model: its preset")
    flags.add_argument(
        "--tables-only",
        action="store_true",
        help="write tables and pictures, no saved model",
    )
    flags.add_argument("--hardware", default=f"{os.cpu_count()} CPU cores")
    arguments = flags.parse_args()
    config, metrics = (
        json.loads((arguments.run / f"{file}.json").read_text("utf-8"))
        for file in ("config", "metrics")
    )
    os.environ.setdefault("KERAS_BACKEND", config["arguments"]["backend"])
    return arguments, config, metrics


def publish_language_model(arguments, metadata):
    """`saved_models/<name>/` from the run's `model.keras`."""
    if arguments.tables_only:
        return
    import numpy as np
    import orrery
    from orrery.zoo.publishing import publish

    model = orrery.load(arguments.run / "model.keras")
    tokens = np.random.default_rng(0).integers(
        2, model.vocabulary_size, (GOLDEN_BLOCKS, GOLDEN_LENGTH)
    )
    publish(
        ROOT / "saved_models" / arguments.name,
        model,
        tokens.astype("int32"),
        {**_of_language(model), **metadata},
        files=[
            path
            for name in VOCABULARY
            if (path := arguments.run / name).exists()
        ],
    )
    print(f"Wrote saved_models/{arguments.name}")


def _of_language(model):
    size = model.vocabulary_size
    return {
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
        "vocabulary": f"vocabulary.txt, {size} lines, line number = id, "
        "first line = id 0 (<pad>), second = <unk>",
        "limits": "A few million weights trained on one small corpus: it "
        "writes fluent nonsense, knows no facts, and repeats the biases of its "
        "text. Word-level: what is not in vocabulary.txt becomes <unk>.",
        "licence": "Apache-2.0",
    }


def data_of(config):
    """What a card says of the data."""
    keys = "name", "version", "source", "licence", "sha256"
    return {key: config["data"][key] for key in keys}


def metric(name, split, value, seed, digits=3):
    """A row of a card's metrics, from one seed."""
    return {
        "name": name,
        "split": split,
        "value": round(value, digits),
        "seeds": str(seed),
        "interval": "one seed",
    }


def perplexities(measured, seed):
    """The perplexities of an arm, as rows of a card's metrics."""
    return [
        metric(name, split, measured[split][key], seed)
        for split in ("valid", "test")
        for name, key in (
            ("perplexity", "perplexity"),
            (
                "perplexity without unknown targets",
                "perplexity_without_unknown",
            ),
        )
    ]


def software(versions):
    names = ("keras", "jax", "torch", "tensorflow")
    return ", ".join(f"{n} {versions[n]}" for n in names if n in versions)


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def short(value, digits=2):
    return round(float(value), digits)
