"""Score any text file with a saved model."""

import json
import math

import numpy as np
import orrery
from _training import summarize, token_losses
from orrery.datasets import load_text
from orrery.zoo.registry import find


def score_file(name, file, arguments):
    """Print the perplexity of `file` under the saved model `name`.

    The text is read with the vocabulary shipped beside the model.
    """
    model = orrery.load(name)
    data = load_text(file, vocabulary=find(name), whole=True)
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
