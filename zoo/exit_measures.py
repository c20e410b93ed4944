"""What the exits of a language model know, token by token, on a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

if TYPE_CHECKING:
    from .exit_routing import ExitRoutingModel


def measure_exits(model, tokens, targets, batch_size=32):
    """Every exit's loss and confidence beside the last one's, nobody leaving.

    Args:
        model: a built `EarlyExitLM` of E exits.
        tokens: int array `(n, N)`.
        targets: int array `(n, N)`, the tokens that follow.
        batch_size: int, rows at a time. Defaults to `32`.

    Returns:
        A dict of arrays: `loss` `(n, N, E)`, float32, negative log-likelihoods
        in nats, and `choice`, int32, the likeliest token; of the exits but the
        last, float32 `(n, N, E - 1)`: `confidence`, and `divergence`,
        `KL(p_L || p_e)` in nats.
    """
    inputs = {"tokens": tokens, "targets": targets}
    exits = _kept(model, _Exits)
    return exits.predict(inputs, batch_size=batch_size, verbose=0)


def measure_route(
    model, tokens, targets, policy="propagate", capacity=None, batch_size=32
):
    """What comes out where every token leaves at its exit.

    Args:
        model: a built `EarlyExitLM`.
        tokens: int array `(n, N)`.
        targets: int array `(n, N)`.
        policy: see `EarlyExitLM.route`.
        capacity: likewise.
        batch_size: int, rows at a time, which are those that `"rows"` shares
            out. Defaults to `32`.

    Returns:
        A dict of arrays `(n, N)`: `loss`, float32, negative log-likelihoods in
        nats; `exit`, int32; `confidence`, float32, at the first exit;
        `choice`, int32, the likeliest token.
    """
    inputs = {"tokens": tokens, "targets": targets}
    route = _kept(model, _Route, policy, capacity)
    return route.predict(inputs, batch_size=batch_size, verbose=0)


def log_probability(logits, targets):
    """Of the targets `(B, N)`, float32, from logits `(B, N, V)`."""
    logits = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    targets = ops.cast(targets, "int32")
    return ops.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def _kept(model, kind, *options):
    """Of a kind and its options one, kept: a new one would compile anew."""
    # Not by `setattr`, which tracks what it is given as part of the model.
    kept = vars(model).setdefault("_measures", {})
    key = kind, *options
    if key not in kept:
        kept[key] = kind(model, *options)
    return kept[key]


def divergence(teacher, student):
    """`KL(teacher || student)` `(B, N)` in nats, of logits `(B, N, V)`."""
    p, q = (
        ops.log_softmax(ops.cast(z, "float32"), axis=-1)
        for z in (teacher, student)
    )
    return ops.sum(ops.exp(p) * (p - q), axis=-1)


class _Exits(keras.Model):
    def __init__(self, model):
        super().__init__(name="exits")
        self.model: ExitRoutingModel = model

    def call(self, inputs):
        targets = inputs["targets"]
        states = self.model.exit_states(inputs["tokens"])
        logits = [
            self.model.exit_logits(h, exit)
            for exit, (h, _) in enumerate(states)
        ]
        loss = [-log_probability(z, targets) for z in logits]
        choice = [ops.argmax(z, axis=-1) for z in logits]
        confidence, cost = [], []
        for exit, (h, previous) in enumerate(states[:-1]):
            confidence.append(
                self.model.compute_confidence(h, previous, exit, logits[exit])
            )
            cost.append(divergence(logits[-1], logits[exit]))
        return {
            "loss": ops.stack(loss, axis=-1),
            "choice": ops.cast(ops.stack(choice, axis=-1), "int32"),
            "confidence": ops.stack(confidence, axis=-1),
            "divergence": ops.stack(cost, axis=-1),
        }


class _Route(keras.Model):
    def __init__(self, model, policy, capacity):
        super().__init__(name="route")
        self.model: ExitRoutingModel = model
        self.policy = policy
        self.capacity = capacity

    def call(self, inputs):
        tokens = inputs["tokens"]
        routed = self.model.route(tokens, self.policy, self.capacity)
        logits = routed["logits"]
        return {
            "loss": -log_probability(logits, inputs["targets"]),
            "exit": routed["exit"],
            "confidence": routed["confidence"],
            "choice": ops.cast(ops.argmax(logits, axis=-1), "int32"),
        }
