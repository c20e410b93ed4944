"""ResNet-BK with its "physics", as published, faults included.

The physics-informed run of the same repository as `resnet_bk.py`, whose faults
1 to 6, 15 and 16 it has as well; its published curve is the one that all runs
of the original are laid beside. What the energies add:

 1. The energies of two unrelated, shuffled batches are compared, not those of
    one state at two times.
 2. The state is the raw token embedding: hidden states, positions and layers
    play no part, and every block sees the same input.
 3. Kinetic energy is counted on one side only; before it is zero.
 4. T and V never enter the forward pass. The energies reach the language
    model through the embeddings alone, which they pull to one value of V, and
    through the norm that all gradients are clipped by.
 5. V = const, T = 0 is the minimum: a small loss is a collapse, which
    `energy_spread` shows.
 6. T is a network: neither quadratic nor positive. The last bias of V cancels
    in every difference and gets no gradient.
 7. The multiplier is trained twice: AdamW lowers it, its gradient being the
    loss itself, and decays it; a rule raises it where the drift, an absolute
    number, exceeds an arbitrary 0.1.
 8. A batch of another size than the one before is passed over: the last.

9 (z is not saved, where here it is a constant) and 18 (one seed, no control,
no test split, nothing deterministic) are not code.
"""

import keras
from keras import ops

from .resnet_bk import ResNetBK
from .resnet_bk_linear import linear

FIRST_MULTIPLIER = 0.05


@keras.saving.register_keras_serializable(package="orrery")
class TokenEnergy(keras.layers.Layer):
    """The energies of a batch and of the one before it, by two small MLPs.

    `E(x, x') = sum_t T(x_t - x'_t) + V(x_t)` and `E(x') = sum_t V(x'_t)`; T
    and V are Linear(d, d)-Tanh-Linear(d, 1). The weight `multiplier` is the
    lambda of the block's loss, 0.05 at first.

    Args:
        dim: int, width d.

    Call arguments:
        state: float tensor `(B, N, d)`, x.
        previous: float tensor `(B, N, d)`, x'.

    Returns:
        `E(x, x')` and `E(x')`, float tensors `(B,)`.
    """

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim

    def build(self, *input_shapes):
        d = self.dim
        self.kinetic, self.potential = (
            [
                linear(d, d, f"{name}_0", activation="tanh"),
                linear(1, d, f"{name}_1"),
            ]
            for name in ("kinetic", "potential")
        )
        self.multiplier = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(FIRST_MULTIPLIER),
            name="multiplier",
        )

    def call(self, state, previous):
        now = self._total(self.kinetic, state - previous)
        now = now + self._total(self.potential, state)
        return now, self._total(self.potential, previous)

    def _total(self, network, inputs):
        hidden, output = network
        return ops.sum(output(hidden(inputs)), axis=(1, 2))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim}


@keras.saving.register_keras_serializable(package="orrery")
class PhysicsResNetBK(ResNetBK):
    """`ResNetBK` trained to give unrelated texts the same "energy".

    To the loss of `ResNetBK` is added, while `physics` is 1, the mean over
    blocks of `lambda_l mean_B (E_l(x, x') - E_l(x'))^2`, x and x' the token
    embeddings of this batch and of the one before it. The embeddings of both
    are looked up in the present table and both get a gradient, as in the
    original. Nothing is added in an epoch's first batch and where the batch
    before had another number of rows; rows without weight do not count.

    4,179,924 trainable weights at the defaults. While `physics` is 0 the run
    is that of `ResNetBK`, but the drift and the spread of the still untrained
    energies are measured.

    Args:
        *args: those of `ResNetBK`.
        batch_size: int, rows of a training batch; a short one is filled with
            rows of weight 0, as by `LanguageBatches`. Defaults to 32.
        **kwargs: those of `ResNetBK`.

    Call arguments:
        As `ResNetBK`.

    Returns:
        As `ResNetBK`.

    Raises:
        ValueError: as `ResNetBK`; for a training batch of other than
            `batch_size` rows.

    Example:
    ```python
    from orrery.zoo.legacy.resnet_bk_training import (
        compile_as_published,
        published_callbacks,
    )

    model = PhysicsResNetBK.from_preset("resnet_bk_legacy_physics")
    compile_as_published(model)
    model.fit(batches, epochs=10, callbacks=published_callbacks(model))
    ```

    Reference:
        - [Project-ResNet-BK](https://github.com/neko-jpg/Project-ResNet-BK-An-O-N-Language-Model-Architecture)
    """

    presets = {"resnet_bk_legacy_physics": {}}

    def __init__(self, *args, batch_size=32, **kwargs):
        super().__init__(*args, **kwargs)
        self.batch_size = batch_size
        self.energies = [
            TokenEnergy(self.dim, name=f"energy_{i}")
            for i in range(self.num_layers)
        ]

    def build(self, input_shape):
        # First the base, which then starts from the weights of a `ResNetBK`.
        super().build(input_shape)
        for energy in self.energies:
            energy.build()
        self.physics = self._state((), "physics")
        self.previous_tokens = self.add_weight(
            shape=(self.batch_size, self.length),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="previous_tokens",
        )
        # 0 where there is no previous batch.
        self.previous_rows = self._state((), "previous_rows")
        # Of the last step: whether there was a pair, and its mean drift.
        self.last_drift = self._state((2,), "last_drift")
        # Steps, pairs, and over the pairs the sums of the loss (with lambda,
        # where physics is on), the drift and the spread.
        self.energy_totals = self._state((5,), "energy_totals")

    def call(self, inputs, training=False):
        outputs = super().call(inputs, training=training)
        if training and isinstance(inputs, dict):
            self.add_loss(self._energy_loss(inputs))
        return outputs

    def _energy_loss(self, inputs):
        tokens = ops.cast(inputs["tokens"], "int32")
        if tokens.shape[0] not in (None, self.batch_size):
            raise ValueError(
                f"A training batch must have `batch_size`={self.batch_size} "
                f"rows, short ones filled with rows of weight 0. Received: "
                f"{tokens.shape[0]}"
            )
        weight = inputs.get("sample_weight")
        if weight is None:
            weight = ops.ones_like(tokens, dtype="float32")
        real = ops.cast(ops.any(weight > 0, axis=1), "float32")
        rows = ops.sum(real)
        paired = ops.cast(ops.equal(rows, self.previous_rows), "float32")
        loss, drift, spread = self._energy_terms(tokens, real / rows)
        loss = self.physics * paired * loss
        self.previous_tokens.assign(tokens)
        self.previous_rows.assign(rows)
        measured = [paired, loss, paired * drift, paired * spread]
        measured = ops.stop_gradient(ops.stack(measured))
        self.last_drift.assign(ops.take(measured, [0, 2]))
        self.energy_totals.assign_add(
            ops.concatenate([ops.ones((1,)), measured])
        )
        return loss

    def _energy_terms(self, tokens, share):
        """Loss, drift and spread, means over blocks; `share` sums to 1."""
        # As in `_states`, the product is for TensorFlow's gradient.
        table = self.token_embedding * 1.0
        state = ops.take(table, tokens, axis=0)
        previous = ops.take(
            table, ops.convert_to_tensor(self.previous_tokens), axis=0
        )

        def mean(values):
            return ops.sum(share * values)

        terms = []
        for layer in self.energies:
            energy, energy_before = layer(state, previous)
            gap = energy - energy_before
            centred = ops.stop_gradient(energy - mean(energy))
            terms.append(
                ops.stack(
                    [
                        layer.multiplier * mean(ops.square(gap)),
                        mean(ops.abs(ops.stop_gradient(gap))),
                        ops.sqrt(mean(ops.square(centred))),
                    ]
                )
            )
        return ops.unstack(ops.mean(ops.stack(terms), axis=0))

    def begin_epoch(self, physics):
        """Forget the batch before and the totals; turn the loss on or off.

        Args:
            physics: bool, whether the energies are in the loss.
        """
        self.physics.assign(float(physics))
        self.previous_rows.assign(0.0)
        self.energy_totals.assign(ops.zeros((5,)))

    def get_config(self):
        return {**super().get_config(), "batch_size": self.batch_size}
