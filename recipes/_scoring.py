"""Score any text file with a saved model."""

import json
import math
import pathlib

import numpy as np
import orrery
from _training import summarize, token_losses
from orrery.datasets import load_text
from orrery.zoo.registry import find

VOCABULARY_FILES = ("vocabulary.txt", "vocabulary.json")


def score_file(name, file, arguments):
    """Print the perplexity of `file` under a trained model.

    The text is read with the vocabulary that lies beside the model, in blocks
    as in training; the last one may be shorter. The first token of a block is
    read and not predicted.

    Args:
        name: a saved model's name, the folder of a run or a `.keras` file.
        file: path of a UTF-8 text of at least two tokens.
        arguments: the recipe's, for the batch size.
    """
    path, folder = locate(name)
    model = orrery.load(path)
    data = load_text(file, vocabulary=folder, whole=True)
    check_vocabulary(model, data.vocabulary)
    ids = data.splits["test"]
    if len(ids) < 2:
        raise ValueError(f"{file} must hold two tokens or more; it has one")
    losses, targets = [], []
    rest = len(ids) % (data.sequence_length + 1)
    pairs = [data.blocks("test")] if rest < len(ids) else []
    if rest > 1:
        pairs.append((ids[None, -rest:-1], ids[None, 1 - rest :]))
    for x, y in pairs:
        losses.append(token_losses(model, x, y, arguments.batch_size).ravel())
        targets.append(y.ravel())
    losses, targets = np.concatenate(losses), np.concatenate(targets)
    unknown_id = data.vocabulary.unknown_id
    scores = {
        "model": str(name),
        "file": str(file),
        **data.metadata["remarks"],
        "tokens": len(ids),
        "scored_tokens": len(targets),
        "unknown_rate": float(np.mean(targets == unknown_id)),
        **summarize(losses, targets, unknown_id),
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
    """What `orrery.load` takes for a model, and where its vocabulary lies.

    Beside it, or a folder above: the arms of a run share theirs.
    """
    path = pathlib.Path(name)
    if path.suffix != ".keras":
        if not (path / "model.keras").is_file():
            return name, find(name)
        path = path / "model.keras"
    for folder in (path.parent, path.resolve().parent.parent):
        if any((folder / file).exists() for file in VOCABULARY_FILES):
            return path, folder
    return path, path.parent
