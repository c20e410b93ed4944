"""Adaptive supervision by hard-example mining, with the context kept.

A shallow model is trained on all tokens; those of which it is not confident
are the hard ones; layers on top are trained for these. The unit is the token,
but a token is hard where it stands: windows pass through the upper layers
whole, and only the loss is confined to the hard tokens. Mine on text that
nothing is evaluated on. `zoo/legacy/ashem.py` has the original, which did not.
"""

import contextlib
import math

import keras
import numpy as np
from keras import ops

from .._checks import check_integer, check_real
from ..datasets.epoch_order import EpochOrder
from ..losses.fused_linear_crossentropy import CHUNK_SIZE
from .ashem_configs import (  # noqa: F401, to be had from here
    ASHEMConfig,
    StageConfig,
    TrainingConfig,
    create_deep_supervision_config,
    create_standard_config,
)
from .staged_training import UpperLayers, upper_trainable


def map_tokens(function, *arrays):
    """A function of some tokens at a time, for what would be too wide at once.

    Args:
        function: of tensors `(1, k, ...)`; returns a tensor `(1, k)` or a
            structure of them.
        *arrays: tensors `(B, N, ...)`.

    Returns:
        What the function returns, `(B, N)`.
    """
    shape = ops.shape(arrays[0])[:2]
    count = shape[0] * shape[1]
    size = min(CHUNK_SIZE, count) if isinstance(count, int) else CHUNK_SIZE
    missing = -count % size

    def chunks(x):
        x = ops.reshape(x, (-1, *x.shape[2:]))
        x = ops.pad(x, ((0, missing), *((0, 0),) * (len(x.shape) - 1)))
        return ops.reshape(x, (-1, 1, size, *x.shape[1:]))

    def whole(y):
        return ops.reshape(ops.reshape(y, (-1,))[:count], shape)

    mapped = ops.map(lambda parts: function(*parts), tuple(map(chunks, arrays)))
    return keras.tree.map_structure(whole, mapped)


def compute_confidence(model, hidden_state, depth=None):
    """The largest probability at an exit, whatever its router uses.

    Args:
        model: a built `EarlyExitLM`.
        hidden_state: float tensor `(B, T, d)`, the state before the exit.
        depth: int, the layers below it; the next exit is asked. `None` is the
            first exit.

    Returns:
        float32 tensor `(B, T)`, in [0, 1].
    """
    depths = model.exit_depths
    exit = 0 if depth is None else sum(below < depth for below in depths)

    def largest(hidden):
        z = ops.cast(model.exit_logits(hidden, exit), "float32")
        highest = ops.max(z, axis=-1, keepdims=True)
        return 1.0 / ops.sum(ops.exp(z - highest), axis=-1)

    return map_tokens(largest, hidden_state)


def compute_confidence_threshold(
    model, batches, target_ratio, batch_size=32, depth=None
):
    """The threshold below which a given share of the tokens lies.

    Args:
        model: a built `EarlyExitLM`.
        batches: `LanguageBatches`, or an iterable of pairs `(tokens,
            targets)`, int `(b, T)`.
        target_ratio: float in [0, 1], the share that is to be hard.
        batch_size: int, windows at a time. Defaults to `32`.
        depth: int, the layers after which the next exit is asked; `None` is
            the first exit, which for a model of one block is its end.

    Returns:
        The quantile, linear between two confidences, a float.
    """
    check_real("target_ratio", target_ratio, "in [0, 1]", lambda r: 0 <= r <= 1)
    tokens, _ = windows(batches)
    exit = _FirstExit(model, states=False, depth=depth)
    confidences = exit.predict(tokens, batch_size=batch_size, verbose=0)
    return float(np.quantile(confidences.astype("float64"), target_ratio))


def collect_hard_examples(model, batches, threshold, batch_size=32):
    """The tokens of which the first exit is less confident than a threshold.

    Args:
        model: a built `EarlyExitLM`.
        batches: see `compute_confidence_threshold`.
        threshold: float in [0, 1]. Hard is below, not at it.
        batch_size: int, windows at a time. Defaults to `32`.

    Returns:
        A dict of arrays. Of the N hard tokens: `inputs` `(N,)`, `hidden_states`
        `(N, d)` at the exit, `targets` `(N,)`, `confidences` `(N,)`. Of the W
        windows with a hard token: `window_states` `(W, T, d)`,
        `window_targets` `(W, T)` and `weights` `(W, T)`, 1 where a token is
        hard and 0 elsewhere. They must fit into memory.

    Raises:
        ValueError: if no token is hard.
    """
    check_real("threshold", threshold, "in [0, 1]", lambda t: 0 <= t <= 1)
    tokens, targets = windows(batches)
    exit = _FirstExit(model, states=True)
    states, confidences = exit.predict(tokens, batch_size=batch_size, verbose=0)
    hard = confidences < threshold
    if not hard.any():
        raise ValueError(
            f"`threshold` must be above {confidences.min()}, the lowest "
            "confidence there is, or no token is hard. Received: "
            f"threshold={threshold}"
        )
    kept = hard.any(axis=1)
    return {
        "inputs": tokens[hard],
        "hidden_states": states[hard],
        "targets": targets[hard],
        "confidences": confidences[hard],
        "window_states": states[kept],
        "window_targets": targets[kept],
        "weights": hard[kept].astype("float32"),
    }


def create_hard_example_loader(hard_examples, batch_size, seed=0):
    """Windows with hard tokens, in an order of (seed, epoch) alone.

    Args:
        hard_examples: what `collect_hard_examples` returns.
        batch_size: int, hard tokens per batch, on average: the windows of a
            batch are as many as come nearest to it, at least one.
        seed: int. Defaults to `0`.

    Returns:
        A data set for `train_upper_layers`, or for `fit(shuffle=False)` of
        `UpperLayers`. A batch is a dict of `"states"` `(b, T, d)`, `"targets"`
        and `"sample_weight"` `(b, T)`, then the targets and the weights again.
    """
    check_integer("batch_size", batch_size, 1)
    return _HardWindows(hard_examples, batch_size, seed)


def train_upper_layers(
    model, hard_batches, optimizer, epochs=1, freeze=True, **options
):
    """Train what lies above the first exit, for the hard tokens, in context.

    Trained are the layers above, the norm of the last exit and its head, if
    that is its own. All else is frozen meanwhile, so the first exit says bit
    for bit what it said before.

    Args:
        model: a built `EarlyExitLM` of two or more blocks.
        hard_batches: what `create_hard_example_loader` returns.
        optimizer: a Keras optimizer, which may come from an earlier call.
        epochs: int. Defaults to `1`.
        freeze: bool. `False` leaves it to the caller's `trainable` what is
            trained. Defaults to `True`.
        **options: further arguments of `fit`, such as `callbacks`.

    Returns:
        The last epoch's mean of the batches' losses, a float, in nats: of a
        batch, the mean over its hard tokens.
    """
    model.require_exit("train_upper_layers")
    upper = UpperLayers(model)
    with upper_trainable(model) if freeze else contextlib.nullcontext():
        upper.compile(optimizer)
        history = upper.fit(
            hard_batches,
            epochs=epochs,
            **{"shuffle": False, "verbose": 0, **options},
        )
    return history.history["loss"][-1]


def evaluate_on_hard_examples(model, hard_examples, batch_size=64):
    """The perplexity of the hard tokens at full depth, in context.

    Args:
        model: the `EarlyExitLM` that they were collected with, or one with
            further layers on top; without any, its exit is asked.
        hard_examples: what `collect_hard_examples` returned.
        batch_size: int, windows at a time. Defaults to `64`.

    Returns:
        A float.
    """
    inputs = {
        "states": hard_examples["window_states"],
        "targets": hard_examples["window_targets"],
        "sample_weight": hard_examples["weights"],
    }
    losses = UpperLayers(model).predict(
        inputs, batch_size=batch_size, verbose=0
    )
    hard = hard_examples["weights"] > 0
    return math.exp(losses[hard].mean(dtype="float64"))


def windows(batches):
    """Tokens and targets, int32 `(W, T)`, of all batches; no filling."""
    tokens, targets = [], []
    for x, y, *weight in batches:
        x = x["tokens"] if isinstance(x, dict) else x
        genuine = np.any(weight[0], axis=1) if weight else slice(None)
        tokens.append(np.asarray(x, "int32")[genuine])
        targets.append(np.asarray(y, "int32")[genuine])
    if not tokens:
        raise ValueError("`batches` must hold at least one batch.")
    return np.concatenate(tokens), np.concatenate(targets)


class _FirstExit(keras.Model):
    """Confidences at the first exit, with or without the states there."""

    def __init__(self, model, states, depth=None):
        super().__init__(name="first_exit")
        self.model = model
        self.states = states
        self.depth = depth

    def call(self, tokens):
        h = self.model.forward_to_hidden(tokens, self.depth)
        confidence = compute_confidence(self.model, h, self.depth)
        return (h, confidence) if self.states else confidence


class _HardWindows(EpochOrder):
    def __init__(self, hard_examples, batch_size, seed):
        names = "window_states", "window_targets", "weights"
        self.arrays = tuple(hard_examples[name] for name in names)
        hard = self.arrays[-1].sum(axis=1).mean()
        rows = max(1, round(batch_size / float(hard)))
        super().__init__(len(self.arrays[0]), rows, True, seed, 0)

    def __getitem__(self, index):
        rows, genuine = self.rows(index)
        states, targets, weight = (array[rows] for array in self.arrays)
        weight[genuine:] = 0.0
        inputs = {
            "states": states,
            "targets": targets,
            "sample_weight": weight,
        }
        return inputs, targets, weight
