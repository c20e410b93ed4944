"""Losses after chosen layers, and the training of the upper ones alone."""

import contextlib

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="orrery")
class StagedTraining(keras.Model):
    """Trains a model by the losses that a `TrainingConfig` names.

    `sum_l w_l CE(z_l)`, z_l being what the next exit says of the state after
    layer l. It says where the losses are and no more: what is trained is what
    `trainable` says when it is compiled, and nobody leaves. Layers above the
    last loss do not run: freeze them, or weight decay will move them.

    Args:
        model: a built `EarlyExitLM`.
        config: a `TrainingConfig`.

    Call arguments:
        inputs: a dict of `"tokens"`, `"targets"` and optionally
            `"sample_weight"`, each `(B, N)`.
        training: bool.

    Returns:
        The negative log-likelihoods `(B, N)` at the last layer with a loss.

    Raises:
        ValueError: if a stage is outside the model, or tokens are to leave
            where it has no exit.

    Example:

    ```python
    from orrery.zoo.ashem_configs import create_deep_supervision_config

    model = EarlyExitLM(256, dim=48, blocks=(1, 2), num_heads=2)
    model.build()
    staged = StagedTraining(model, create_deep_supervision_config(3))
    staged.compile("adamw")
    tokens = np.zeros((4, 16), "int32")
    staged.fit({"tokens": tokens, "targets": tokens}, tokens, verbose=0)
    ```

    Reference:
        - [Lee et al., 2014](https://arxiv.org/abs/1409.5185)
    """

    def __init__(self, model, config, **kwargs):
        super().__init__(**kwargs)
        self.model = model
        self.config = config
        self.layer_weights = config.layer_weights(model.num_layers)
        exits = model.exit_depths[:-1]
        if config.has_routing and config.exit_layer not in exits:
            raise ValueError(
                f"`config.exit_layer` must be one of the model's exits, "
                f"{exits}. Received: exit_layer={config.exit_layer}"
            )

    def call(self, inputs, training=False):
        tokens, targets, weight = self.model.unpack(inputs)
        if weight is None:
            weight = ops.ones_like(targets, dtype="float32")
        weight = ops.cast(weight, "float32")
        h, exits = self.model.token_embedding(tokens), []
        h = self.model.embedding_dropout(h, training=training)
        highest = max(i for i, w in enumerate(self.layer_weights, 1) if w)
        for depth in range(1, highest + 1):
            h = self.model.decoder_layers[depth - 1](h)
            if share := self.layer_weights[depth - 1]:
                exit = sum(below < depth for below in self.model.exit_depths)
                exits.append((h, exit, share * weight))
        return self.model.leave_together(exits, targets, training)

    def get_config(self):
        raise NotImplementedError("Save the model that it trains.")


@keras.saving.register_keras_serializable(package="orrery")
class UpperLayers(keras.Model):
    """The layers of a model above an exit, from the states there.

    Args:
        model: a built `EarlyExitLM`.
        depth: int, the layers below; `None` is the first exit.

    Call arguments:
        inputs: a dict of `"states"` `(B, T, d)`, `"targets"` `(B, T)` and
            optionally `"sample_weight"` `(B, T)`. The loss is their mean
            weighted by it, over the sum of the weights.
        training: bool.

    Returns:
        The negative log-likelihoods `(B, T)` at the last exit.
    """

    def __init__(self, model, depth=None, **kwargs):
        super().__init__(**kwargs)
        self.model = model
        self.depth = depth

    def call(self, inputs, training=False):
        targets, weight = inputs["targets"], inputs.get("sample_weight")
        if weight is not None:
            weight = ops.cast(weight, "float32")
            weight = weight / ops.maximum(ops.mean(weight), 1e-12)
        h = self.model.forward_upper(inputs["states"], depth=self.depth)
        return self.model.leave(h, -1, targets, weight, training)

    def get_config(self):
        raise NotImplementedError("Save the model that it is part of.")


def compute_loss(model, tokens, targets, config):
    """The loss of a batch under a `TrainingConfig`, a scalar tensor.

    Args:
        model: a built `EarlyExitLM`.
        tokens: int array `(B, N)`.
        targets: int array `(B, N)`.
        config: a `TrainingConfig`.
    """
    staged = StagedTraining(model, config)
    staged({"tokens": tokens, "targets": targets})
    return ops.sum(ops.stack(staged.losses))


@contextlib.contextmanager
def upper_trainable(model):
    """What is above the first exit is trainable, and nothing else, for a while.

    Of the heads the last one is, if it is its own: one that is shared belongs
    to the exit below as well.
    """
    depth = model.exit_depths[0]
    own_head = len(model.heads) > 1
    wanted = [
        (model.token_embedding, False),
        *((layer, False) for layer in model.decoder_layers[:depth]),
        *((layer, True) for layer in model.decoder_layers[depth:]),
        *((norm, False) for norm in model.exit_norms[:-1]),
        (model.exit_norms[-1], True),
        *((head, False) for head in model.heads[:-1]),
        (model.heads[-1], own_head),
    ]
    before = [layer.trainable for layer, _ in wanted]
    try:
        for layer, trainable in wanted:
            layer.trainable = trainable
        yield
    finally:
        for (layer, _), trainable in zip(wanted, before, strict=True):
            layer.trainable = trainable
