"""The posterior of a Koopman variational autoencoder."""

import keras
from keras import ops

from .._checks import check_integer, check_real


@keras.saving.register_keras_serializable(package="orrery")
class KoVAEEncoder(keras.layers.Layer):
    """A Gaussian of the latent state at each row of a series, and a sample.

    Recurrent layers, normalisation, activation and dropout, then mean and log
    variance of `q(z_t | x_1 ... x_t)`, and `z_t = mu_t + exp(logvar_t / 2)
    eps`. Unless it is bidirectional, nothing at t knows of what comes after t,
    as forecasts need it.

    Args:
        latent_dim: int > 0, k. Defaults to `64`.
        hidden_dim: int > 0, units of each GRU. Defaults to `256`.
        num_layers: int > 0, of GRUs. Defaults to `1`.
        bidirectional: bool, whether every row sees all, as generation may.
            Defaults to `False`.
        norm: `"layer"`, `"batch"` or `None`. Defaults to `"layer"`.
        activation: name of a Keras activation, or `None`. Defaults to `"tanh"`.
        dropout: float in [0, 1). Defaults to `0.1`.
        logvar_range: pair of floats that the log variance is clipped to.
            Defaults to `(-8.0, 4.0)`.
        seed: int or `None`, of the samples. Defaults to `None`.
        **kwargs: `name`, `dtype` and the like of `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(batch, rows, width)`.
        sample: bool, whether z is drawn; else it is the mean. Defaults to
            `False`.
        training: bool.

    Returns:
        Means, log variances and z, each `(batch, rows, k)`, float32.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
    >>> encoder = KoVAEEncoder(latent_dim=4, hidden_dim=8)
    >>> mean, logvar, z = encoder(keras.ops.ones((2, 5, 3)))
    >>> tuple(z.shape)
    (2, 5, 4)

    Reference:
        - [Naiman et al., 2023](https://arxiv.org/abs/2310.02619)
    """

    def __init__(
        self,
        latent_dim=64,
        hidden_dim=256,
        num_layers=1,
        bidirectional=False,
        norm="layer",
        activation="tanh",
        dropout=0.1,
        logvar_range=(-8.0, 4.0),
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (
            ("latent_dim", latent_dim),
            ("hidden_dim", hidden_dim),
            ("num_layers", num_layers),
        ):
            check_integer(name, value, 1)
        check_real("dropout", dropout, "in [0, 1)", lambda r: 0 <= r < 1)
        low, high = logvar_range
        if not low < high:
            raise ValueError(
                "`logvar_range` must be a smaller and a larger number. "
                f"Received: logvar_range={logvar_range!r}"
            )
        self.latent_dim = latent_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.norm = norm
        self.activation = keras.activations.get(activation)
        self.dropout_rate = dropout
        self.logvar_range = (float(low), float(high))
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        policy = self.dtype_policy
        self.recurrent = [
            recurrent_layer(
                hidden_dim, bidirectional, dtype=policy, name=f"recurrent_{i}"
            )
            for i in range(num_layers)
        ]
        self.normalization = normalization_layer(norm, dtype=policy)
        self.dropout = keras.layers.Dropout(dropout, seed=seed, dtype=policy)
        self.mean = keras.layers.Dense(latent_dim, dtype=policy, name="mean")
        self.logvar = keras.layers.Dense(
            latent_dim, dtype=policy, name="logvar"
        )

    def build(self, input_shape):
        shape = input_shape
        for layer in self.recurrent:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        if self.normalization is not None:
            self.normalization.build(shape)
        self.mean.build(shape)
        self.logvar.build(shape)

    def call(self, x, sample=False, training=False):
        for layer in self.recurrent:
            x = layer(x, training=training)
        if self.normalization is not None:
            x = self.normalization(x, training=training)
        x = self.dropout(self.activation(x), training=training)
        mean = ops.cast(self.mean(x), "float32")
        logvar = ops.clip(
            ops.cast(self.logvar(x), "float32"), *self.logvar_range
        )
        z = mean
        if sample:
            noise = keras.random.normal(
                ops.shape(mean), dtype="float32", seed=self.seed_generator
            )
            z = mean + ops.exp(0.5 * logvar) * noise
        return mean, logvar, z

    def compute_output_spec(self, x, sample=False, training=False):
        shape = (*x.shape[:-1], self.latent_dim)
        return tuple(keras.KerasTensor(shape, "float32") for _ in range(3))

    def get_config(self):
        return {
            **super().get_config(),
            "latent_dim": self.latent_dim,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "bidirectional": self.bidirectional,
            "norm": self.norm,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout_rate,
            "logvar_range": list(self.logvar_range),
            "seed": self.seed,
        }


def recurrent_layer(units, bidirectional=False, name=None, dtype=None):
    """A GRU that returns every row, or one for each direction."""
    layer = keras.layers.GRU(units, return_sequences=True, dtype=dtype)
    if not bidirectional:
        layer.name = name
        return layer
    return keras.layers.Bidirectional(layer, dtype=dtype, name=name)


def normalization_layer(norm, dtype=None):
    """A new layer that normalises, or `None`.

    Raises:
        ValueError: if `norm` is none of "layer", "batch" and `None`.
    """
    if norm is None:
        return None
    options = {"dtype": dtype, "name": "normalization"}
    if norm == "layer":
        return keras.layers.LayerNormalization(**options)
    if norm == "batch":
        # PyTorch's momentum, as the paper has it: at 0.99 the averages lag
        # behind weights that move on until the last step.
        return keras.layers.BatchNormalization(momentum=0.9, **options)
    raise ValueError(
        f"`norm` must be 'layer', 'batch' or None. Received: norm={norm!r}"
    )
