"""Running a language model's blocks by their Koopman operators."""

import keras

from ..datasets.vocabulary import check_ids
from .koopman_measures import KoopmanMeasures
from .language_model import LanguageModel


@keras.saving.register_keras_serializable(package="orrery")
class KoopmanForwardModel(KoopmanMeasures, LanguageModel):
    """A language model whose blocks can run as linear operators.

    Koopman-forward mode: outside training the blocks of `set_replaced` are run
    by their operators. In training each operator takes its share of a batch's
    rows, so that it also learns the task; the rest pass through the block.

    A subclass has `token_embedding`, `embedding_norm` (or `None`), the lists
    `blocks` and `operators` (one per block, or none), `final_norm`, `head`,
    `row_shares`, `replaced`, and in its config `koopman`, `replacement` and
    `replaced`.
    """

    def set_replaced(self, indices):
        """Choose the blocks that their operators run outside training.

        Args:
            indices: sequence of int in `[0, L)`; empty for the whole model.
        """
        self.replaced = self.checked_replaced(indices)
        # The choice is part of the compiled graphs of evaluate and predict.
        self.test_function = self.predict_function = None

    def checked_replaced(self, indices):
        """`indices` sorted, or a `ValueError`."""
        indices = tuple(sorted(set(indices)))
        count = len(self.operators)
        if any(not 0 <= index < count for index in indices):
            raise ValueError(
                f"`replaced` must hold indices of the {count} operators. "
                f"Received: {indices}"
            )
        return indices

    def embed(self, tokens):
        """The first hidden state `h_0` of tokens `(B, N)`, without dropout."""
        h = self.token_embedding(tokens)
        return h if self.embedding_norm is None else self.embedding_norm(h)

    def trajectory(self, tokens):
        """The hidden states `[h_0, ..., h_L]` of the blocks, without dropout.

        Args:
            tokens: int tensor `(B, N)`.

        Returns:
            list of L + 1 float tensors `(B, N, d)`.
        """
        states = [self.embed(tokens)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    # === Operators after training ===
    def train_operators_only(self, replacement):
        """From now on `fit` changes the operators and nothing else.

        The standard model keeps its weights, and so its perplexity. Call
        `compile` afterwards. Neither the freeze nor the shares are saved: a
        loaded model trains as its config says.

        Args:
            replacement: the operators' shares of a batch's rows, as the
                model's argument of that name.

        Raises:
            ValueError: if the model has no operators.
        """
        self._require_operators("train_operators_only")
        self.row_shares = row_shares(replacement, len(self.blocks))
        for layer in self._own_layers():
            layer.trainable = False

    def fit_operators(self, tokens, batch_size=32):
        """Solve every operator by exact EDMD, the model's weights frozen.

        One pass accumulates the statistics of every token without forgetting;
        then each K is the ridge least-squares map of its block.

        Args:
            tokens: int array `(n, N)`.
            batch_size: int, rows at a time. Defaults to `32`.

        Raises:
            ValueError: if the model has no operators or they are trained by
                gradient.
        """
        self._require_operators("fit_operators")
        tokens = check_ids(tokens, self.vocabulary_size)
        for operator in self.operators:
            operator.reset_statistics()
        _Observation(self).predict(tokens, batch_size=batch_size, verbose=0)
        for operator in self.operators:
            operator.solve()

    def with_operators(self, koopman):
        """This model's weights beside fresh operators of another kind.

        Args:
            koopman: dict, the config of the operators, or `None`.

        Returns:
            A model of this class that shares no variable with this one.
        """
        config = {
            **self.get_config(),
            "koopman": koopman,
            "replacement": 0.0,
            "replaced": [],
        }
        copy = type(self).from_config(config)
        copy.build()
        for own, new in zip(
            self._own_layers(), copy._own_layers(), strict=True
        ):
            new.set_weights(own.get_weights())
        return copy

    def _own_layers(self):
        """The layers of the language model itself that have weights."""
        around = self.embedding_norm, self.final_norm, self.head
        layers = [self.token_embedding, *self.blocks, *around]
        return [layer for layer in layers if layer is not None]

    def _require_operators(self, method):
        if not self.operators:
            raise ValueError(
                f"`{method}` needs operators. Received: koopman=None"
            )


def row_shares(replacement, num_layers):
    """The share of a batch's rows that each operator takes in training."""
    if isinstance(replacement, (list, tuple)):
        shares = [float(share) for share in replacement]
    else:
        steps = range(num_layers, 0, -1)
        shares = [replacement * step / num_layers for step in steps]
    falling = all(
        a >= b for a, b in zip([1.0, *shares], [*shares, 0.0], strict=True)
    )
    if len(shares) != num_layers or not falling or shares[0] == 1.0:
        raise ValueError(
            "`replacement` must be a number in [0, 1) or a list of "
            f"{num_layers} such numbers, none above the one before: some rows "
            f"must pass through every block. Received: {replacement}"
        )
    return shares


class _Observation(keras.Model):
    """Shows every block's inputs and outputs to its operator, compiled."""

    def __init__(self, model):
        super().__init__(name="observation")
        self.model = model

    def call(self, tokens):
        states = self.model.trajectory(tokens)
        for operator, x, x_next in zip(
            self.model.operators, states[:-1], states[1:], strict=True
        ):
            operator.observe(x, x_next)
        return tokens[:, 0]
