"""The six functions of ASHEM as published, faults included.

Those of rato-tokyo/hrm, commit b02dd4b, written anew; `zoo/ashem.py` has the
sound ones. The faults, which `ashem_protocol.py` puts together:

 1. The hard tokens are those of the validation set, and the second phase trains
    on their targets: one set serves vocabulary, early stopping, threshold,
    mining, training and report.
 2. A hard token is trained alone, as a window of length 1: queries and keys of
    the new layers get no gradient.
 3. "Hard perplexity" is the score of such training tokens, without context.
 4. The share of hard tokens is printed over a wrong total.
11. A later version packed hard tokens into new windows. Not reproduced.
12. There was no baseline of equal budget.

`device` and `vocab_size` are accepted where they stood, and ignored.
"""

import math

import keras
import numpy as np
from keras import ops

from .. import ashem
from ..ashem import compute_confidence, map_tokens, windows
from ..staged_training import UpperLayers
from .resnet_bk_adamw import LateAdamW
from .resnet_bk_training import BatchMeanPerplexity
from .torch_draws import TorchDraws

__all__ = [
    "InOrder",
    "RoutedScores",
    "collect_hard_examples",
    "compute_confidence",
    "compute_confidence_threshold",
    "create_hard_example_loader",
    "evaluate",
    "evaluate_on_hard_examples",
    "hard_perplexity",
    "hard_token_batches",
    "published_optimizer",
    "train_upper_layers",
]


def compute_confidence_threshold(
    model, batches, target_ratio, device=None, exit_layer=None
):
    """The sound function, after all layers or after `exit_layer` of them."""
    depth = model.num_layers if exit_layer is None else exit_layer
    return ashem.compute_confidence_threshold(
        model, batches, target_ratio, len(batches[0][0]), depth
    )


def collect_hard_examples(model, batches, threshold, device=None):
    """The hard tokens, torn from their windows (fault 2).

    Returns:
        A dict of arrays: `inputs` `(N,)`, `hidden_states` `(N, d)`, `targets`
        `(N,)`, `confidences` `(N,)`.

    Raises:
        ValueError: if no token is hard.
    """
    found = ashem.collect_hard_examples(
        model, batches, threshold, batch_size=len(batches[0][0])
    )
    names = "inputs", "hidden_states", "targets", "confidences"
    return {name: found[name] for name in names}


def create_hard_example_loader(hard_examples, batch_size, seed=None):
    """Hard tokens in one order for all epochs, each a window of its own.

    Args:
        hard_examples: what `collect_hard_examples` returns.
        batch_size: int, tokens; the last batch may be short.
        seed: int, or a `TorchDraws`, from which the order is drawn; `None` is
            another order every time.

    Returns:
        A list of pairs: states `(b, 1, d)`, targets `(b,)`.
    """
    states, targets = hard_examples["hidden_states"], hard_examples["targets"]
    if seed is None:
        seed = int(np.random.default_rng().integers(2**32))
    draws = seed if isinstance(seed, TorchDraws) else TorchDraws(seed)
    order = draws.permutation(len(targets))
    return [
        (states[rows][:, None], targets[rows])
        for rows in np.split(order, range(batch_size, len(order), batch_size))
    ]


def train_upper_layers(
    model,
    hard_batches,
    optimizer,
    vocab_size=None,
    device=None,
    num_lower_layers=2,
):
    """An epoch of the upper layers and the head on tokens without context.

    What is trained is what is trainable, as `LegoLM.extend` leaves it: the head
    that the finished exit uses as well (fault 6).

    Returns:
        The mean of the batches' losses, a short batch counting as much.
    """
    upper = UpperLayers(model, num_lower_layers)
    upper.compile(optimizer, metrics=[BatchMeanPerplexity()])
    history = upper.fit(
        InOrder(hard_token_batches(hard_batches)), shuffle=False, verbose=0
    )
    return math.log(history.history["batch_mean_perplexity"][-1])


def evaluate_on_hard_examples(
    model,
    hard_examples,
    vocab_size=None,
    device=None,
    batch_size=64,
    num_lower_layers=2,
):
    """The perplexity of the hard tokens, each without context (fault 3)."""
    upper = UpperLayers(model, num_lower_layers)
    return hard_perplexity(upper, hard_examples, batch_size)


def hard_perplexity(upper, hard_examples, batch_size=64):
    """`evaluate_on_hard_examples` by an `UpperLayers` that is there."""
    inputs = {
        "states": hard_examples["hidden_states"][:, None],
        "targets": hard_examples["targets"][:, None],
    }
    losses = upper.predict(inputs, batch_size=batch_size, verbose=0)
    return math.exp(losses.mean(dtype="float64"))


def evaluate(model, batches, config=None):
    """What comes out of the network, by its threshold.

    Args:
        model: a `LegoLM`.
        batches: list of pairs of tokens and targets, int `(b, T)`.
        config: a `TrainingConfig`, whose `routing_threshold` takes the place
            of the model's meanwhile; or `None`.

    Raises:
        ValueError: if the `exit_layer` of the config is not the model's.

    Returns:
        A dict of floats: `ppl`; `acc`, in 0 ... 1; `shallow_ratio`;
        `compute_cost`, of layers alone (fault 8), the mean over batches.
    """
    before = model.thresholds
    if config is not None and model.routers:
        if config.exit_layer != model.exit_depths[0]:
            raise ValueError(
                f"`config.exit_layer` must be {model.exit_depths[0]}, that of "
                f"the model. Received: {config.exit_layer}"
            )
        model.set_threshold(config.routing_threshold)
    scores = RoutedScores(model).evaluate_batches(batches)
    model.set_threshold(before)
    return scores


def published_optimizer(learning_rate):
    """AdamW with decay 0.01 on everything, gradients clipped to norm 1."""
    return LateAdamW(
        learning_rate, weight_decay=0.01, epsilon=1e-8, global_clipnorm=1.0
    )


class InOrder(keras.utils.PyDataset):
    """Batches for `fit`, as they are and in this order.

    Args:
        batches: list of what `fit` takes of a batch.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def hard_token_batches(batches):
    """The batches of `create_hard_example_loader` as `UpperLayers` has them."""
    return [
        ({"states": states, "targets": targets[:, None]}, targets[:, None])
        for states, targets in batches
    ]


@keras.saving.register_keras_serializable(package="orrery")
class RoutedScores(keras.Model):
    """How every token is predicted where it leaves, some tokens at a time.

    Args:
        model: a `LegoLM`.
    """

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def call(self, inputs):
        h, left, _ = self.model.routed_states(inputs["tokens"])

        def score(hidden, targets):
            z = ops.cast(self.model.head(hidden), "float32")
            picked = ops.take_along_axis(z, targets[..., None], axis=-1)[..., 0]
            right = ops.cast(ops.argmax(z, axis=-1), "int32") == targets
            loss = ops.logsumexp(z, axis=-1) - picked
            return loss, ops.cast(right, "float32")

        targets = ops.cast(inputs["targets"], "int32")
        loss, right = map_tokens(score, h, targets)
        return {"loss": loss, "right": right, "exit": left}

    def evaluate_batches(self, batches):
        """See `evaluate`."""
        tokens, targets = windows(batches)
        inputs = {"tokens": tokens, "targets": targets}
        size = len(batches[0][0])
        scores = self.predict(inputs, batch_size=size, verbose=0)
        depths = np.array(self.model.exit_depths)[scores["exit"]]
        starts = np.cumsum([len(x) for x, _ in batches])[:-1]
        costs = [part.mean() for part in np.split(depths, starts)]
        early = scores["exit"] < len(self.model.exit_depths) - 1
        return {
            "ppl": math.exp(scores["loss"].mean(dtype="float64")),
            "acc": float(scores["right"].mean(dtype="float64")),
            "shallow_ratio": float(early.mean()),
            "compute_cost": float(np.mean(costs) / self.model.num_layers),
        }

    def get_config(self):
        raise NotImplementedError("Save the model that it scores.")
