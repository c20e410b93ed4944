"""What the Koopman language model is held against without being trained."""

import keras
import numpy as np
from _training import perplexity
from orrery.zoo.kneser_ney import KneserNey

BASE_CURVE = "base arm, random lift, K by EDMD"


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


def replace(model, blocks, batch_size, seed, base=None):
    """Validation perplexity with the first 0 .. L blocks replaced.

    The same weights of the model every time; by its own operators and by the
    controls: K solved by exact EDMD after training, with the operators' own
    lift and with a random one of the same size; an affine least-squares map
    with and without delays; and leaving the block out. `base`, a model that was
    trained without operators, shows what EDMD finds in blocks that were not
    made for it.
    """
    lift = {
        key: model.koopman[key]
        for key in ("delays", "lift_dim")
        if key in model.koopman
    }
    tokens = blocks["train"][0]

    def fitted(koopman, own_lift=False, model=model):
        # The random lift is the same after an interruption.
        keras.utils.set_random_seed(seed)
        probe = model.with_operators(koopman)
        if own_lift:
            for own, new in zip(model.operators, probe.operators, strict=True):
                new.lift.set_weights(own.lift.get_weights())
        probe.fit_operators(tokens, batch_size)
        return probe

    # A fresh operator is the identity map: it leaves its block out.
    probes = {
        "own operators": lambda: model,
        "own lift, K by EDMD": lambda: fitted(lift, own_lift=True),
        "random lift, K by EDMD": lambda: fitted(lift),
        "affine least squares, delays": lambda: fitted({**lift, "lift_dim": 0}),
        "affine least squares": lambda: fitted({"lift_dim": 0}),
        "block left out": lambda: model.with_operators({"lift_dim": 0}),
    }
    if base is not None:
        probes[BASE_CURVE] = lambda: fitted(lift, model=base)
    curves = {}
    for kind, probe in probes.items():
        curves[kind] = replaced_curve(probe(), *blocks["valid"], batch_size)
        values = " ".join(f"{value:,.1f}" for value in curves[kind])
        print(f"{kind}: {values}", flush=True)
    return curves


def describe_operators(model, tokens, batch_size):
    """Of each operator on held-out text: what it predicts, and its K."""
    held_out = model.evaluate_operators(tokens, batch_size)
    return [
        {
            "block": index + 1,
            "r_squared": float(held_out["r_squared"][index]),
            "skill": float(held_out["skill"][index]),
            "spectral_radius": float(np.abs(operator.spectrum()).max()),
            "distance_from_identity": operator.distance_from_initial(),
        }
        for index, operator in enumerate(model.operators)
    ]


def replaced_curve(model, x, y, batch_size):
    """Perplexity with 0, 1, ... L leading blocks run by their operators."""
    curve = []
    for count in range(model.num_layers + 1):
        model.set_replaced(range(count))
        curve.append(perplexity(model, x, y, batch_size))
    model.set_replaced(())
    return curve
