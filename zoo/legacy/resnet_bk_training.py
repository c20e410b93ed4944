"""How ResNet-BK was trained: optimizer, schedule, DMD, metric."""

import keras
from keras import ops

from .resnet_bk_adamw import LateAdamW
from .resnet_bk_koopman import SMALLEST_DMD_WEIGHT
from .resnet_bk_physics import PhysicsResNetBK
from .resnet_bk_physics_training import EnergyMultipliers


@keras.saving.register_keras_serializable(package="orrery")
class BatchMeanPerplexity(keras.metrics.Metric):
    """exp(mean over batches of the batch's mean NLL): fault 15.

    `update_state(y_true, y_pred, sample_weight)` takes the per-token NLL
    `(B, N)` as `y_pred` and ignores `y_true`. The result differs from the
    token-weighted perplexity where batches differ in size.
    """

    def __init__(self, name="batch_mean_perplexity", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(initializer="zeros", name="total")
        self.batches = self.add_weight(initializer="zeros", name="batches")

    def update_state(self, y_true, y_pred, sample_weight=None):
        nll = ops.cast(y_pred, self.dtype)
        weight = ops.ones_like(nll)
        if sample_weight is not None:
            weight = weight * ops.cast(sample_weight, self.dtype)
        self.total.assign_add(ops.sum(nll * weight) / ops.sum(weight))
        self.batches.assign_add(1.0)

    def result(self):
        return ops.exp(self.total / ops.maximum(self.batches, 1.0))


class PublishedSchedule(keras.callbacks.Callback):
    """Koopman weight 0 for `warmup` epochs, then a line from 0.

    `w(e) = max_weight (e - warmup) / (epochs - warmup)` in epoch e = 0, 1,
    ...: the first epoch after the warm-up has weight 0 as well, and
    `max_weight` is never reached. Adds to the logs of an epoch
    `koopman_weight`, `koopman_loss`, `koopman_effective_weight`,
    `koopman_contribution` (mean of `w_eff L_K`) and
    `koopman_fallback_fraction`.

    Args:
        max_weight: float. Defaults to 0.05.
        warmup: int, epochs. Defaults to 4.
        epochs: int, epochs the line is laid for. Defaults to 10.
    """

    def __init__(self, max_weight=0.05, warmup=4, epochs=10):
        super().__init__()
        self.max_weight = max_weight
        self.warmup = warmup
        self.epochs = epochs

    def weight(self, epoch):
        progress = (epoch - self.warmup) / max(1, self.epochs - self.warmup)
        return self.max_weight * min(max(progress, 0.0), 1.0)

    def on_epoch_begin(self, epoch, logs=None):
        self.model.reset_koopman_totals()
        self.model.koopman_weight.assign(self.weight(epoch))

    def on_epoch_end(self, epoch, logs=None):
        totals = ops.convert_to_numpy(self.model.koopman_totals)
        loss, weight, contribution, fallback = totals[1:] / max(totals[0], 1.0)
        if logs is not None:
            logs["koopman_weight"] = self.weight(epoch)
            logs["koopman_loss"] = float(loss)
            logs["koopman_effective_weight"] = float(weight)
            logs["koopman_contribution"] = float(contribution)
            logs["koopman_fallback_fraction"] = float(fallback)


class DynamicModeDecomposition(keras.callbacks.Callback):
    """Overwrites K after each step, once the ring is full (faults 7 to 9).

    It runs after a step whose effective weight exceeds 1e-4. A callback,
    because Keras's compiled step on JAX returns trainable weights from the
    optimizer alone; the singular value decomposition is NumPy's. Meant for
    `steps_per_execution=1`. Adds `dmd_updates`, the steps of the epoch that
    changed a K, to the logs.
    """

    def on_epoch_begin(self, epoch, logs=None):
        # Access to `self.model` copies the state on JAX: not in every step.
        self._enabled = float(self.model.koopman_weight) > SMALLEST_DMD_WEIGHT
        self._updates = 0

    def on_train_batch_end(self, batch, logs=None):
        if not self._enabled:
            return
        model = self.model
        if float(model.koopman_effective_weight) > SMALLEST_DMD_WEIGHT:
            changed = [block.koopman.update() for block in model.blocks]
            self._updates += any(changed)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["dmd_updates"] = self._updates


def compile_as_published(model, metrics=(), **kwargs):
    """Compile as the original: AdamW 1e-3, decay 0.01, gradient norm 0.5.

    The rate is constant and the decay acts on biases and embeddings too. Only
    `untrained_weights` are left out, as PyTorch leaves out what has no
    gradient; Keras would decay them on JAX. phi and K do decay (by 2.5 % in
    all) while the Koopman weight is still 0, which they did not in PyTorch. The
    energies, whose published figures are compared, start as there: `LateAdamW`.

    Args:
        model: a `ResNetBK` or a `PhysicsResNetBK`.
        metrics: weighted metrics beside `BatchMeanPerplexity`.
        **kwargs: further arguments of `compile`.
    """
    if not model.built:
        model.build((None, model.length))
    late = isinstance(model, PhysicsResNetBK)
    optimizer = (LateAdamW if late else keras.optimizers.AdamW)(
        learning_rate=1e-3,
        weight_decay=0.01,
        epsilon=1e-8,
        global_clipnorm=0.5,
    )
    if not late:
        optimizer.exclude_from_weight_decay(var_list=model.untrained_weights)
    model.compile(
        optimizer=optimizer,
        weighted_metrics=[BatchMeanPerplexity(), *metrics],
        **kwargs,
    )


def published_callbacks(model):
    """The callbacks of the original's Koopman and physics runs, if any."""
    callbacks = []
    if model.koopman:
        callbacks += [PublishedSchedule(), DynamicModeDecomposition()]
    if isinstance(model, PhysicsResNetBK):
        callbacks.append(EnergyMultipliers())
    return callbacks
