"""What a staged training of an early-exit model is described by."""

import dataclasses

from .._checks import check_integer, check_real


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """Some layers in a row, each with a loss on what its exit says.

    Args:
        layers: pair of int, first and last layer, counted from 1.
        loss_weight: float > 0, of the loss of each of them, not shared out.
            Defaults to `1`.

    Raises:
        ValueError: if there is no layer in the stage, or no weight.
    """

    layers: tuple[int, int]
    loss_weight: float = 1.0

    def __post_init__(self):
        try:
            start, end = self.layers
        except (TypeError, ValueError):
            raise ValueError(
                "`layers` must be a pair, the first and the last layer. "
                f"Received: layers={self.layers!r}"
            ) from None
        check_integer("layers", start, 1)
        check_integer("layers", end, 1)
        if end < start:
            raise ValueError(
                "`layers` must not end before they start: the stage is empty. "
                f"Received: layers={self.layers}"
            )
        check_real("loss_weight", self.loss_weight, "> 0", lambda w: w > 0)
        object.__setattr__(self, "layers", (start, end))


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Where the losses are, and, apart from that, who leaves where.

    Args:
        stages: sequence of `StageConfig`, at least one, no layer in two.
        routing_threshold: float in [0, 1], or `None`: nobody leaves. No loss
            depends on it; `zoo.legacy.ashem.evaluate` routes by it. Defaults
            to `None`.
        exit_layer: int, the layers below the exit. Defaults to `1`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
    >>> config = TrainingConfig([StageConfig((2, 2))], 0.15, exit_layer=2)
    >>> config.describe()
    'Stages: [L2-2:1.00], Early Exit: threshold=0.15'
    """

    stages: tuple[StageConfig, ...]
    routing_threshold: float | None = None
    exit_layer: int = 1

    def __post_init__(self):
        stages = tuple(self.stages)
        if not stages:
            raise ValueError(
                "`stages` must hold at least one StageConfig: without a loss "
                "nothing is trained. Received: none"
            )
        ordered = sorted(stages, key=lambda stage: stage.layers)
        for before, after in zip(ordered, ordered[1:], strict=False):
            if after.layers[0] <= before.layers[1]:
                raise ValueError(
                    "`stages` must not overlap: add the weights up in one "
                    f"stage. Received: layers {before.layers} and "
                    f"{after.layers}"
                )
        if self.routing_threshold is not None:
            check_real(
                "routing_threshold",
                self.routing_threshold,
                "in [0, 1], or None so that nobody leaves",
                lambda value: 0 <= value <= 1,
            )
        check_integer("exit_layer", self.exit_layer, 1)
        object.__setattr__(self, "stages", stages)

    @property
    def has_routing(self):
        """Whether anybody may leave."""
        return self.routing_threshold is not None

    def layer_weights(self, num_layers):
        """The weight of the loss on every layer, a list of floats.

        Args:
            num_layers: int, the layers of the model.

        Raises:
            ValueError: if a stage, or the exit, is outside the model.
        """
        weights = [0.0] * num_layers
        for stage in self.stages:
            start, end = stage.layers
            if end > num_layers:
                raise ValueError(
                    f"`stages` must be within the model's {num_layers} layers. "
                    f"Received: layers={stage.layers}"
                )
            for layer in range(start, end + 1):
                weights[layer - 1] = float(stage.loss_weight)
        if self.exit_layer > num_layers:
            raise ValueError(
                f"`exit_layer` must be within the model's {num_layers} layers. "
                f"Received: exit_layer={self.exit_layer}"
            )
        return weights

    def describe(self):
        """The stages, and the threshold if there is one, in a line."""
        stages = ", ".join(
            f"L{stage.layers[0]}-{stage.layers[1]}:{stage.loss_weight:.2f}"
            for stage in self.stages
        )
        text = f"Stages: [{stages}]"
        if self.has_routing:
            text += f", Early Exit: threshold={self.routing_threshold}"
        return text


@dataclasses.dataclass(frozen=True)
class ASHEMConfig:
    """Two phases: a shallow model on all tokens, a deeper one on the hard.

    Args:
        phase1_layers: int, layers of the shallow model. Defaults to `2`.
        phase1_lr: float, learning rate. Defaults to `1e-3`.
        phase1_patience: int, epochs without improvement. Defaults to `1`.
        hard_example_ratio: float in (0, 1), the share of tokens that are to
            count as hard. Defaults to `0.5`.
        phase2_layers: int, layers in all, more than `phase1_layers`. Defaults
            to `4`.
        phase2_lr: float. Defaults to `1e-4`.
        phase2_patience: int. Defaults to `3`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    phase1_layers: int = 2
    phase1_lr: float = 1e-3
    phase1_patience: int = 1
    hard_example_ratio: float = 0.5
    phase2_layers: int = 4
    phase2_lr: float = 1e-4
    phase2_patience: int = 3

    def __post_init__(self):
        for name in ("phase1_layers", "phase1_patience", "phase2_patience"):
            check_integer(name, getattr(self, name), 1)
        check_integer(
            "phase2_layers",
            self.phase2_layers,
            self.phase1_layers + 1,
            f"an integer above phase1_layers={self.phase1_layers}: the exit "
            "lies inside the model",
        )
        for name in ("phase1_lr", "phase2_lr"):
            check_real(name, getattr(self, name), "> 0", lambda rate: rate > 0)
        check_real(
            "hard_example_ratio",
            self.hard_example_ratio,
            "between 0 and 1",
            lambda ratio: 0 < ratio < 1,
        )


def create_standard_config(num_layers=3):
    """One stage: the loss is on the last layer alone."""
    return TrainingConfig([StageConfig((num_layers, num_layers))])


def create_deep_supervision_config(num_layers=3):
    """A stage for every layer, of weight `1 / num_layers`.

    Reference:
        - [Lee et al., 2014](https://arxiv.org/abs/1409.5185)
    """
    check_integer("num_layers", num_layers, 1)
    return TrainingConfig(
        [
            StageConfig((layer, layer), 1 / num_layers)
            for layer in range(1, num_layers + 1)
        ]
    )
