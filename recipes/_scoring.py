"""Score any text file with a saved model."""

import json
import math
import pathlib

import numpy as np
import orrery
from _training import summarize, token_losses
from orrery.datasets import load_text
from orrery.zoo.registry import find


def score_file(name, file, arguments):
    """Print the perplexity of `file` under a trained model.

    The text is read with the vocabulary that lies beside the model.

    Args:
        name: a saved model's name, the folder of a run or a `.keras` file.
        file: path of a UTF-8 text.
        arguments: the recipe's, for the batch size.
    """
    path, folder = locate(name)
    model = orrery.load(path)
    data = load_text(file, vocabulary=folder, whole=True)
    check_vocabulary(model, data.vocabulary)
    x, y = data.blocks("test")
    losses = token_losses(model, x, y, arguments.batch_size)
    unknown_id = data.vocabulary.unknown_id
    scores = {
        "model": str(name),
        "file": str(file),
        "scored_tokens": int(y.size),
        "unknown_rate": float(np.mean(y == unknown_id)),
        **summarize(losses, y, unknown_id),
        "nats_per_token": float(np.mean(losses, dtype="float64")),
    }
    scores["bits_per_token"] = scores["nats_per_token"] / math.log(2)
    print(json.dumps(scores, indent=1))


def check_vocabulary(model, vocabulary):
    """The vocabulary beside a model must be the one it was trained with."""
    if len(vocabulary) != model.vocabulary_size:
        raise ValueError(
            f"the vocabulary beside the model has {len(vocabulary)} tokens, "
            f"the model {model.vocabulary_size}"
        )


def locate(name):
    """What `orrery.load` takes for a model, and where its vocabulary lies."""
    path = pathlib.Path(name)
    if path.suffix == ".keras":
        return path, path.parent
    if (path / "model.keras").is_file():
        return path / "model.keras", path
    return name, find(name)
