"""The arms of `early_exit_lm.py`: with an exit, without, and below it alone."""

import math

import keras
import numpy as np
from _training import count_weights, token_losses, train
from orrery.callbacks import NonFiniteGuard
from orrery.zoo import EarlyExitLM

# Bytes of a window.
LENGTH = 256
# The part of the steps in which the weight of the exit's loss rises.
EXIT_WARMUP = 0.1


def build(arm, seed, architecture):
    """A fresh model; of one seed, all arms share the values they can."""
    keras.utils.set_random_seed(seed)
    model = _built(architecture)
    if arm == "exits":
        return model
    blocks = architecture["blocks"]
    depth = sum(blocks) if arm == "full" else blocks[0]
    plain = _built({**architecture, "blocks": (depth,)})
    plain.token_embedding.set_weights(model.token_embedding.get_weights())
    for mine, theirs in zip(
        plain.decoder_layers, model.decoder_layers, strict=False
    ):
        mine.set_weights(theirs.get_weights())
    return plain


def _built(architecture):
    model = EarlyExitLM(**architecture)
    model.build()
    return model


def train_arm(model, data, blocks, folder, settings, resume):
    """Train one arm; how it does on validation and test text, if there."""
    rows = len(data.blocks("train")[0][: settings["limit"]])
    steps = settings["epochs"] * -(-rows // settings["batch_size"])
    model.exit_warmup = int(EXIT_WARMUP * steps)
    history = train(
        model, data, folder, settings, [NonFiniteGuard("disable")], resume
    )
    blocks_of_all = settings["architecture"]["blocks"]
    return {
        **count_weights(model),
        "cost": cost_over_full_depth(model, sum(blocks_of_all)),
        "seconds": sum(history["seconds"]),
        "seconds_per_epoch": sum(history["seconds"]) / settings["epochs"],
        **{
            split: score(model, blocks[split], settings["batch_size"])
            for split in ("valid", "test")
            if split in blocks
        },
    }


def cost_over_full_depth(model, depth):
    """Multiply-accumulates of a network, over those of `depth` layers."""
    dim, heads = model.dim, model.num_key_value_heads or model.num_heads
    keys = dim // model.num_heads * heads
    layer = dim * (2 * dim + 2 * keys + 3 * (model.hidden_dim or 4 * dim))
    layer += 2 * dim * (LENGTH + 1) / 2  # Each attends to those before it.
    head = model.vocabulary_size * dim
    return (model.num_layers * layer + head) / (depth * layer + head)


def score(model, block, batch_size):
    losses = token_losses(model, *block, batch_size)
    nats = float(np.mean(losses, dtype="float64"))
    return {"nats": nats, "perplexity": math.exp(nats)}
