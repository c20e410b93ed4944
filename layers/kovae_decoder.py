"""From latent states back to what is observed."""

import keras
from keras import ops

from .._checks import check_integer, check_real
from .kovae_encoder import normalization_layer, recurrent_layer

KINDS = ("mlp", "linear", "gru", "bigru")


@keras.saving.register_keras_serializable(package="orrery")
class KoVAEDecoder(keras.layers.Layer):
    """Reads every row of a latent path.

    `"mlp"` and `"linear"` read each latent state by itself, so that what is
    said of a time depends on the state of that time alone; `"gru"` and
    `"bigru"` read the path from its beginning, or from both ends.

    Args:
        output_dim: int > 0, X.
        hidden_dim: int > 0; no matter for `"linear"`. Defaults to `256`.
        kind: `"mlp"`, `"linear"`, `"gru"` or `"bigru"`. Defaults to `"mlp"`.
        num_layers: int > 0, of hidden or recurrent layers. Defaults to `1`.
        norm: `"layer"`, `"batch"` or `None`, behind the last hidden layer.
            Defaults to `"layer"`.
        dropout: float in [0, 1). Defaults to `0.1`.
        output_activation: name of an activation, or `None`. Defaults to `None`.
        seed: int or `None`, of the dropout. Defaults to `None`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        z: float tensor `(batch, rows, k)`.
        training: bool.

    Returns:
        Float tensor `(batch, rows, X)`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
    >>> decoder = KoVAEDecoder(output_dim=3, hidden_dim=8)
    >>> tuple(decoder(keras.ops.ones((2, 5, 4))).shape)
    (2, 5, 3)

    Reference:
        - [Naiman et al., 2023](https://arxiv.org/abs/2310.02619)
    """

    def __init__(
        self,
        output_dim,
        hidden_dim=256,
        kind="mlp",
        num_layers=1,
        norm="layer",
        dropout=0.1,
        output_activation=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (
            ("output_dim", output_dim),
            ("hidden_dim", hidden_dim),
            ("num_layers", num_layers),
        ):
            check_integer(name, value, 1)
        check_real("dropout", dropout, "in [0, 1)", lambda r: 0 <= r < 1)
        if kind not in KINDS:
            raise ValueError(
                f"`kind` must be one of {KINDS}. Received: kind={kind!r}"
            )
        self.output_dim = output_dim
        self.hidden_dim = hidden_dim
        self.kind = kind
        self.num_layers = num_layers
        self.norm = norm
        self.dropout_rate = dropout
        self.output_activation = output_activation
        self.seed = seed
        policy = self.dtype_policy
        self.normalization = normalization_layer(norm, dtype=policy)
        self.hidden = []
        if kind == "linear":
            self.normalization = None
        else:
            self.hidden = [self._hidden_layer(i) for i in range(num_layers)]
        self.dropout = keras.layers.Dropout(
            dropout if self.hidden else 0.0, seed=seed, dtype=policy
        )
        self.output_layer = keras.layers.Dense(
            output_dim,
            activation=output_activation,
            dtype=policy,
            name="output_layer",
        )

    def _hidden_layer(self, index):
        arguments = {"dtype": self.dtype_policy, "name": f"hidden_{index}"}
        if self.kind == "mlp":
            return keras.layers.Dense(self.hidden_dim, "tanh", **arguments)
        return recurrent_layer(
            self.hidden_dim, self.kind == "bigru", **arguments
        )

    def build(self, z_shape):
        shape = z_shape
        for layer in self.hidden:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        if self.normalization is not None:
            self.normalization.build(shape)
        self.output_layer.build(shape)

    def call(self, z, training=False):
        for layer in self.hidden:
            z = layer(z)
        if self.normalization is not None:
            z = ops.tanh(self.normalization(z, training=training))
        return self.output_layer(self.dropout(z, training=training))

    def compute_output_shape(self, z_shape):
        return (*z_shape[:-1], self.output_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "hidden_dim": self.hidden_dim,
            "kind": self.kind,
            "num_layers": self.num_layers,
            "norm": self.norm,
            "dropout": self.dropout_rate,
            "output_activation": self.output_activation,
            "seed": self.seed,
        }
