"""What the Koopman language model is held against without being trained."""

import math

import numpy as np
from _training import token_losses
from orrery.zoo.kneser_ney import KneserNey


def count_words(data, blocks):
    """The controls that only count: a 5-gram and a unigram model."""
    seen = len(blocks["train"][0]) * (data.sequence_length + 1)
    train = data.splits["train"][:seen]
    size = len(data.vocabulary)
    model, unigram = KneserNey(train, size), KneserNey(train, size, order=1)
    return {
        **{
            split: model.perplexity(*blocks[split])
            for split in ("valid", "test")
        },
        "unigram": unigram.perplexity(*blocks["valid"]),
    }


def replace(model, blocks, batch_size):
    """Validation perplexity with the first 0 .. L blocks replaced.

    The same weights of the model every time; by its own operators and by the
    controls: the same lift solved by exact EDMD after training, an affine
    least-squares map with and without delays, and leaving the block out.
    """
    lift = {
        key: model.koopman[key]
        for key in ("delays", "lift_dim")
        if key in model.koopman
    }
    kinds = {
        "fitted afterwards by EDMD": lift,
        "affine least squares, delays": {**lift, "lift_dim": 0},
        "affine least squares": {"lift_dim": 0},
    }
    # A fresh operator is the identity map: it leaves its block out.
    probes = {
        "own operators": lambda: model,
        **{
            kind: lambda koopman=koopman: fitted(
                model, koopman, blocks["train"][0], batch_size
            )
            for kind, koopman in kinds.items()
        },
        "block left out": lambda: model.with_operators({"lift_dim": 0}),
    }
    curves = {}
    for kind, probe in probes.items():
        curves[kind] = replaced_curve(probe(), *blocks["valid"], batch_size)
        values = " ".join(f"{value:,.1f}" for value in curves[kind])
        print(f"{kind}: {values}", flush=True)
    return curves


def fitted(model, koopman, tokens, batch_size):
    probe = model.with_operators(koopman)
    probe.fit_operators(tokens, batch_size)
    return probe


def replaced_curve(model, x, y, batch_size):
    """Perplexity with 0, 1, ... L leading blocks run by their operators."""
    curve = []
    for count in range(model.num_layers + 1):
        model.set_replaced(range(count))
        losses = token_losses(model, x, y, batch_size)
        curve.append(math.exp(float(np.mean(losses, dtype="float64"))))
    model.set_replaced(())
    return curve
