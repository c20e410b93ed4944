"""The LSTM language model that the others are held against."""

import keras
from keras import ops

from ..layers.language_head import LanguageHead
from .language_model import LanguageModel


@keras.saving.register_keras_serializable(package="orrery")
class LSTMLM(LanguageModel):
    """A tied LSTM language model: the control at equal parameters.

    `h_0 = RMSNorm(E[x])`, `h_{l+1} = LSTM_l(h_l)`, logits
    `= RMSNorm(h_L) E^T + b`, with dropout between all of them: the embedding
    is treated as in `KoopmanLM`, where each block begins with a norm. Without
    it the gates of the first layer see next to nothing. The inner layers have
    `hidden_dim` units, the last one `dim`, so that its output meets the
    embedding. Every row of a batch starts from the zero state: a model sees
    what a transformer sees of a block.

    It has `V (d + 1) + 2 d + sum_l 4 u_l (u_{l-1} + u_l + 1)` weights, `u_l`
    being the units of layer l and `u_0 = d`. `LSTMLM.of_size` chooses
    `hidden_dim` for a number of weights.

    Args:
        vocabulary_size: int, V. Defaults to `30000`.
        dim: int, width d of the embedding. Defaults to `112`.
        num_layers: int, number of LSTM layers. Defaults to `2`.
        hidden_dim: int, units of every layer but the last. Defaults to `320`.
        dropout: float in `[0, 1)`, rate on the embedding and on the output of
            every layer. Defaults to `0.1`.
        embedding_stddev: float, deviation of the initial embeddings. Defaults
            to `0.02`.

    Call arguments:
        inputs: int tensor `(B, N)` of token ids in `[0, V)`, any N; or a dict
            with `"tokens"`, `"targets"` (int, `(B, N)`) and optionally
            `"sample_weight"` (float, `(B, N)`).
        training: bool.

    Returns:
        Logits `(B, N, V)`; with targets the float32 negative log-likelihood
        per token `(B, N)`, its mean being added to the losses.

    Raises:
        ValueError: if a size is not a positive integer.

    Example:

    ```python
    model = LSTMLM.of_size(4_200_000)  # 2 layers, 336 and 112 units
    logits = model(np.zeros((2, 16), "int32"))  # (2, 16, 30000)
    ```

    Reference:
        - [Zaremba et al., 2014](https://arxiv.org/abs/1409.2329), dropout.
        - [Merity et al., 2017](https://arxiv.org/abs/1708.02182), tied layers
          of two widths.
    """

    def __init__(
        self,
        vocabulary_size=30_000,
        dim=112,
        num_layers=2,
        hidden_dim=320,
        dropout=0.1,
        embedding_stddev=0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (
            ("dim", dim),
            ("num_layers", num_layers),
            ("hidden_dim", hidden_dim),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive integer. "
                    f"Received: {name}={value!r}"
                )

        # === Layers ===
        policy = {"dtype": self.dtype_policy}
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            dim,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=embedding_stddev
            ),
            name="token_embedding",
            **policy,
        )
        self.input_norm = keras.layers.RMSNormalization(
            name="input_norm", **policy
        )
        self.recurrent_layers = [
            keras.layers.LSTM(
                units, return_sequences=True, name=f"lstm_{index}", **policy
            )
            for index, units in enumerate(_units(dim, num_layers, hidden_dim))
        ]
        self.dropouts = [
            keras.layers.Dropout(dropout, name=f"dropout_{index}", **policy)
            for index in range(num_layers + 1)
        ]
        self.final_norm = keras.layers.RMSNormalization(
            name="final_norm", **policy
        )
        self.head = LanguageHead(
            vocabulary_size,
            embedding=self.token_embedding,
            name="head",
            **policy,
        )

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.dim = dim
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.embedding_stddev = embedding_stddev

    @classmethod
    def of_size(
        cls, parameters, vocabulary_size=30_000, dim=112, num_layers=2, **kwargs
    ):
        """The widest model of at most `parameters` weights.

        Args:
            parameters: int, the largest number of weights.
            vocabulary_size: int, V. Defaults to `30000`.
            dim: int, width of the embedding. Defaults to `112`.
            num_layers: int, at least 2. Defaults to `2`.
            **kwargs: further arguments of `LSTMLM`.

        Returns:
            An `LSTMLM` whose `hidden_dim` is the largest multiple of 8.

        Raises:
            ValueError: if `num_layers < 2`, or not even 8 units fit.
        """
        if num_layers < 2:
            raise ValueError(
                "`num_layers` must be at least 2 for `hidden_dim` to matter. "
                f"Received: num_layers={num_layers}"
            )

        def size(hidden_dim):
            units = _units(dim, num_layers, hidden_dim)
            return (
                vocabulary_size * (dim + 1)
                + 2 * dim
                + sum(
                    4 * u * (before + u + 1)
                    for before, u in zip([dim, *units], units, strict=False)
                )
            )

        if size(8) > parameters:
            raise ValueError(
                f"`parameters` must be at least {size(8)} for "
                f"vocabulary_size={vocabulary_size}, dim={dim} and "
                f"num_layers={num_layers}. Received: parameters={parameters}"
            )
        hidden_dim = 8
        while size(hidden_dim + 8) <= parameters:
            hidden_dim += 8
        return cls(vocabulary_size, dim, num_layers, hidden_dim, **kwargs)

    def build(self, input_shape=None):
        width = self.dim
        self.token_embedding.build((None, None))
        self.input_norm.build((None, None, width))
        for layer in self.recurrent_layers:
            layer.build((None, None, width))
            width = layer.units
        self.final_norm.build((None, None, width))
        self.head.build((None, None, width))

    # === Functional Model ===
    def call(self, inputs, training=False):
        tokens, targets, sample_weight = self.unpack(inputs)
        h = self.input_norm(self.token_embedding(tokens))
        for layer, dropout in zip(
            self.recurrent_layers, self.dropouts, strict=False
        ):
            h = layer(dropout(h, training=training), training=training)
        h = self.dropouts[-1](self.final_norm(h), training=training)
        return self.head(h, targets, sample_weight, training=training)

    # === Streaming ===
    def initial_state(self, batch_size, max_length):
        """The output and the cell of every layer before any token: zeros."""
        return tuple(
            (zeros, zeros)
            for layer in self.recurrent_layers
            for zeros in [
                ops.zeros((batch_size, layer.units), self.compute_dtype)
            ]
        )

    def step(self, tokens, state, index):
        """Next-token logits `(B, 1, V)` after tokens `(B, 1)`."""
        h = self.input_norm(self.token_embedding(tokens))[:, 0]
        states = []
        for layer, before in zip(self.recurrent_layers, state, strict=True):
            h, after = layer.cell(h, list(before))
            states.append(tuple(after))
        return self.head(self.final_norm(h)[:, None]), tuple(states)

    # === Config ===
    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "dropout": self.dropout,
            "embedding_stddev": self.embedding_stddev,
        }


def _units(dim, num_layers, hidden_dim):
    """Units of every layer."""
    return [hidden_dim] * (num_layers - 1) + [dim]
