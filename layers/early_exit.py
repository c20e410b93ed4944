"""Which tokens leave a network early, and how the others go on."""

import math

import keras
from keras import ops

from .._checks import check_integer, check_real

CONFIDENCES = ("learned", "max_prob", "margin", "state_similarity")
# Above every confidence: the threshold at which nobody leaves.
NEVER = 2.0


def part_of(count, share):
    """`ceil(share count)`, not raised by rounding, at least 1.

    Args:
        count: int, or an int tensor.
        share: float in (0, 1].
    """
    if isinstance(count, int):
        return max(1, math.ceil(share * count - 1e-4))
    part = ops.ceil(share * ops.cast(count, "float32") - 1e-4)
    return ops.cast(ops.maximum(part, 1.0), "int32")


def least_confident(confidence, count):
    """Choose the `count` least confident entries of each row.

    Ties go to the earlier entry. All shapes are static.

    Args:
        confidence: float tensor `(..., N)`.
        count: int k, from 1 to N.

    Returns:
        `indices`, int32 `(..., k)`, rising; `rank`, int32 `(..., N)`, how many
        chosen entries lie before an entry, at most k - 1: the place of a chosen
        one among the chosen; `chosen`, bool `(..., N)`.
    """
    order = ops.argsort(confidence, axis=-1)
    indices = ops.sort(ops.cast(order[..., :count], "int32"), axis=-1)
    chosen = ops.argsort(order, axis=-1) < count
    rank = ops.cumsum(ops.cast(chosen, "int32"), axis=-1) - 1
    return indices, ops.clip(rank, 0, count - 1), chosen


def gather_tokens(x, indices):
    """The tokens `(B, k, d)` of `x`, `(B, N, d)`, at `indices`, `(B, k)`."""
    return ops.take_along_axis(x, indices[..., None], axis=1)


def scatter_tokens(deep, shallow, rank, chosen):
    """`deep`, `(B, k, d)`, at the chosen tokens, `shallow` at the others.

    A gather: its gradient needs no scattered sum, on any backend.
    """
    deep = ops.take_along_axis(deep, rank[..., None], axis=1)
    return ops.where(chosen[..., None], deep, shallow)


@keras.saving.register_keras_serializable(package="orrery")
class EarlyExitRouter(keras.layers.Layer):
    """Sends every token out at an exit, or on into the deeper blocks.

    Token t has a confidence `c_t` in [0, 1] and leaves if `c_t >= threshold`.
    With a `capacity` the `ceil(capacity N)` least confident tokens of each row
    go on instead, whatever the threshold: a number known in advance, so that
    the deeper blocks can be run for them alone. Which tokens these are depends
    on later tokens; such a network is not causal.

    Args:
        confidence: what is taken for confidence. `"learned"`: `exp(-k)`, where
            `k = softplus(w . silu(W h + a) + b)` is an exit head's estimate of
            what leaving costs, `KL(p_L || p)` of the last exit's distribution
            from this one's; `"max_prob"`, the largest probability `p_1`;
            `"margin"`, `p_1 - p_2`, to the second; `"state_similarity"`,
            `(1 + cos(h, h')) / 2`, h' the state one layer below. Defaults to
            `"learned"`.
        threshold: float in [0, 1], or `None`: nobody leaves. Held in a weight
            that no gradient reaches. Defaults to `None`.
        capacity: float in (0, 1] or `None`, the fraction of tokens that go
            on. Defaults to `None`.
        units: int, the hidden units of a learned confidence. Defaults to `64`.

    Call arguments:
        hidden: float tensor `(B, N, d)`, the state at the exit.
        logits: float tensor `(B, N, V)` of the exit's head, for `"max_prob"`
            and `"margin"`.
        previous: float tensor `(B, N, d)`, for `"state_similarity"`.
        valid: bool tensor `(B, N)`, which tokens count, or `None` for all. One
            that does not goes on only where there is room left.

    Returns:
        A dict: `confidence`, float32 `(B, N)`; `exit_mask`, bool `(B, N)`, who
        leaves; `shallow_ratio`, float32 `(B,)`, the share of them in a row;
        with a capacity also `indices` and `rank` of the others, see
        `least_confident`.

    Raises:
        ValueError: if an argument is out of its range, if what the confidence
            is made of is not given, or for a capacity and a single token.

    Example:

    ```python
    hidden = keras.random.normal((2, 16, 64))
    logits = keras.random.normal((2, 16, 256))
    router = EarlyExitRouter("max_prob", threshold=0.9)
    leaves = router(hidden, logits=logits)["exit_mask"]  # (2, 16)
    ```

    Reference:
        - [Schuster et al., 2022](https://arxiv.org/abs/2207.07061), the
          confidences.
        - [Raposo et al., 2024](https://arxiv.org/abs/2404.02258), capacity.
    """

    def __init__(
        self,
        confidence="learned",
        threshold=None,
        capacity=None,
        units=64,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if confidence not in CONFIDENCES:
            raise ValueError(
                f"`confidence` must be one of {CONFIDENCES}. "
                f"Received: {confidence!r}"
            )
        if capacity is not None:
            check_real(
                "capacity", capacity, "in (0, 1], or None", lambda c: 0 < c <= 1
            )
        check_integer("units", units, 1)
        self.confidence = confidence
        self.initial_threshold = _checked(threshold)
        self.capacity = capacity
        self.units = units
        self.exit_head = []
        if confidence == "learned":
            self.exit_head = [
                keras.layers.Dense(
                    units, activation="silu", dtype="float32", name="hidden"
                ),
                keras.layers.Dense(
                    1, activation="softplus", dtype="float32", name="cost"
                ),
            ]

    def build(self, hidden_shape):
        for layer in self.exit_head:
            layer.build(hidden_shape)
            hidden_shape = (*hidden_shape[:-1], layer.units)
        first = self.initial_threshold
        self._threshold = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(
                NEVER if first is None else first
            ),
            dtype="float32",
            trainable=False,
            autocast=False,
            name="threshold",
        )

    @property
    def threshold(self):
        """The threshold that holds now, a float or `None`."""
        value = float(ops.convert_to_numpy(self._threshold))
        return None if value == NEVER else value

    def set_threshold(self, threshold):
        """Change the threshold: a float in [0, 1], or `None` for nobody."""
        threshold = _checked(threshold)
        self._threshold.assign(NEVER if threshold is None else threshold)

    @property
    def needs_logits(self):
        """Whether the confidence is made of the logits of the exit."""
        return self.confidence in ("max_prob", "margin")

    def call(self, hidden, logits=None, previous=None, valid=None):
        confidence = self.measure(hidden, logits, previous)
        if self.capacity is None:
            leaves, chosen = self.leaves(confidence), {}
        else:
            count = self._count(hidden.shape[1])
            ranked = confidence
            if valid is not None:
                ranked = ops.where(valid, confidence, NEVER)
            indices, rank, goes_on = least_confident(ranked, count)
            leaves = ops.logical_not(goes_on)
            chosen = {"indices": indices, "rank": rank}
        counted = ops.ones_like(confidence)
        if valid is not None:
            counted = ops.cast(valid, "float32")
        left = ops.sum(ops.cast(leaves, "float32") * counted, axis=1)
        return {
            "confidence": confidence,
            "exit_mask": leaves,
            "shallow_ratio": left / ops.maximum(ops.sum(counted, axis=1), 1.0),
            **chosen,
        }

    def measure(self, hidden, logits=None, previous=None):
        """The confidence `(B, N)` alone; arguments as those of a call."""
        if self.confidence == "learned":
            return ops.exp(-self.estimated_cost(hidden))
        if self.confidence == "state_similarity":
            _require(previous, "previous", self.confidence)
            h, below = (ops.cast(a, "float32") for a in (hidden, previous))
            h, below = ops.normalize(h), ops.normalize(below)
            return (1.0 + ops.sum(h * below, axis=-1)) / 2.0
        _require(logits, "logits", self.confidence)
        probability = ops.softmax(ops.cast(logits, "float32"), axis=-1)
        if self.confidence == "max_prob":
            return ops.max(probability, axis=-1)
        first, second = ops.unstack(ops.top_k(probability, 2)[0], 2, axis=-1)
        return first - second

    def estimated_cost(self, hidden):
        """The estimate k, `(B, N)`, in nats, of a learned confidence."""
        for layer in self.exit_head:
            hidden = layer(hidden)
        return hidden[..., 0]

    def leaves(self, confidence):
        """Who leaves by the threshold, bool, of the shape of `confidence`."""
        return confidence >= ops.convert_to_tensor(self._threshold)

    def _count(self, length):
        if length is None:
            raise ValueError(
                "The length of `hidden` must be known for a capacity: the "
                "number of tokens that go on is part of the shapes."
            )
        if length == 1:
            raise ValueError(
                "`capacity` shares out the tokens of a row, and of one token "
                "it would send one on. At a decoding step share out the rows: "
                "least_confident(confidence[:, 0], count). Received: hidden "
                "of length 1"
            )
        return part_of(length, self.capacity)

    def compute_output_spec(
        self, hidden, logits=None, previous=None, valid=None
    ):
        shape = tuple(hidden.shape[:2])
        spec = {
            "confidence": keras.KerasTensor(shape, "float32"),
            "exit_mask": keras.KerasTensor(shape, "bool"),
            "shallow_ratio": keras.KerasTensor(shape[:1], "float32"),
        }
        if self.capacity is not None:
            count = self._count(shape[1])
            spec["indices"] = keras.KerasTensor((shape[0], count), "int32")
            spec["rank"] = keras.KerasTensor(shape, "int32")
        return spec

    def get_config(self):
        return {
            **super().get_config(),
            "confidence": self.confidence,
            "threshold": self.initial_threshold,
            "capacity": self.capacity,
            "units": self.units,
        }


def _checked(threshold):
    if threshold is not None:
        check_real(
            "threshold",
            threshold,
            "in [0, 1], or None so that nobody leaves",
            lambda value: 0 <= value <= 1,
        )
    return threshold


def _require(tensor, name, confidence):
    if tensor is None:
        raise ValueError(
            f"`{name}` must be given: confidence={confidence!r} is made of it."
        )
