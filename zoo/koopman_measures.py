"""How well Koopman operators follow their blocks, in training and after it."""

import keras
import numpy as np
from keras import ops

from ..datasets.vocabulary import check_ids

TOTALS = ("steps", "linear", "state", "skill", "contribution")


class KoopmanMeasures:
    """The part of a `KoopmanForwardModel` that adds the loss and measures.

    `koopman_weight`, a scalar that a callback assigns, is the weight of the
    consistency loss; `koopman_totals` sums what the training steps measured.
    """

    def evaluate_operators(self, tokens, batch_size=32):
        """How well each operator predicts its block on text, without dropout.

        Args:
            tokens: int array `(n, N)`, which no operator was trained on.
            batch_size: int, rows at a time. Defaults to `32`.

        Returns:
            A dict of float arrays `(L,)`, 1 for a perfect prediction:
            `r_squared = 1 - sum |x' - psi K phi(x)|^2 / sum |x' - mean x'|^2`,
            0 for the best constant, and `skill`, the same with `|x' - x|^2`
            below, 0 for the identity map.

        Raises:
            ValueError: if the model has no operators or an id is out of range.
        """
        self._require_operators("evaluate_operators")
        tokens = check_ids(tokens, self.vocabulary_size)
        # Compiled once; not by `setattr`, which would make it a part of this.
        prediction = vars(self).setdefault("_prediction", _Prediction(self))
        sums = prediction.predict(tokens, batch_size=batch_size, verbose=0)
        error, increment, square, total = (
            part.sum(axis=0, dtype="float64")
            for part in np.split(sums, [1, 2, 3], axis=-1)
        )
        variance = square - (total**2).sum(-1, keepdims=True) / tokens.size
        return {
            "r_squared": (1 - error / variance)[:, 0],
            "skill": (1 - error / increment)[:, 0],
        }

    def build_measures(self):
        """The weight of the consistency loss, and the sums of its measures."""
        for name, shape in (
            ("koopman_weight", ()),
            ("koopman_totals", (len(TOTALS),)),
        ):
            variable = self.add_weight(
                shape=shape,
                initializer="zeros",
                dtype="float32",
                trainable=False,
                autocast=False,
                name=name,
            )
            setattr(self, name, variable)

    def add_consistency(self, measured):
        """Add the weighted consistency loss of the blocks; count it.

        Args:
            measured: what `KoopmanOperator.consistency` returned, per block.
        """
        losses, measures = zip(*measured, strict=True)

        def mean(values):
            # TensorFlow's graph optimizer may put a chain of `+` in another
            # order in every process; one reduction has one order.
            return ops.mean(ops.stack(values))

        contribution = ops.convert_to_tensor(self.koopman_weight) * mean(losses)
        self.add_loss(contribution)
        row = [
            ops.ones(()),
            *(
                mean([measure[name] for measure in measures])
                for name in ("linear", "state", "skill")
            ),
            ops.stop_gradient(contribution),
        ]
        row = ops.stack([ops.cast(value, "float32") for value in row])
        finite = ops.all(ops.isfinite(row))
        self.koopman_totals.assign_add(ops.where(finite, row, 0.0))

    def koopman_measures(self):
        """Epoch means of the operators' measures, a dict of floats."""
        steps, *sums = ops.convert_to_numpy(self.koopman_totals).tolist()
        return {
            name: value / max(steps, 1.0)
            for name, value in zip(TOTALS[1:], sums, strict=True)
        }

    def reset_koopman_totals(self):
        """Start the means of `koopman_measures` afresh."""
        self.koopman_totals.assign(ops.zeros((len(TOTALS),)))


class _Prediction(keras.Model):
    """Sums over a text's tokens that say how well the operators predict."""

    def __init__(self, model):
        super().__init__(name="prediction")
        self.model = model

    def call(self, tokens):
        """`(B, N)` to `(B, L, 3 + d)`: see `evaluate_operators`."""
        states = self.model.trajectory(tokens)
        rows = []
        for operator, x, x_next in zip(
            self.model.operators, states[:-1], states[1:], strict=True
        ):
            predicted, x, x_next = (
                ops.cast(state, "float32") for state in (operator(x), x, x_next)
            )
            squares = [
                ops.sum(ops.square(difference), axis=(1, 2))[:, None]
                for difference in (predicted - x_next, x_next - x, x_next)
            ]
            total = ops.sum(x_next, axis=1)
            rows.append(ops.concatenate([*squares, total], axis=-1))
        return ops.stack(rows, axis=1)
