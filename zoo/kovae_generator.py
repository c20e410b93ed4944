"""A Koopman variational autoencoder that makes new series."""

import keras
import numpy as np
from keras import ops

from .._checks import check_integer, check_real
from ..layers.kovae_decoder import KoVAEDecoder
from ..layers.kovae_encoder import KoVAEEncoder
from ..layers.kovae_prior import KoVAEPrior, nonlinearity
from ..losses.gaussian_divergence import gaussian_divergence
from .presets import Presets


@keras.saving.register_keras_serializable(package="orrery")
class KoVAEGenerator(Presets, keras.Model):
    """Makes series like those it was shown, through nearly linear paths.

    A bidirectional encoder gives `q(z | x)`, a recurrent prior `p(z_t | z_1 ...
    z_{t-1})` makes latent paths, a decoder reads them. Paths are kept close to
    those of one linear operator C, fitted to each batch by least squares:

        L = |dec(z) - x|^2 + kl_weight KL(q || p)
            + prediction_weight |Z C - Z'|^2 / (n |Z C|),

    the first two as sums over a series and means over the batch, in the last
    Z and Z' all latent states but the last, or the first, of n entries. What
    training shows of each term is without its weight, the divergence in nats
    a row; a term without weight is left out.

    Args:
        features: int > 0, numbers of a row, scaled to [0, 1].
        length: int > 1, rows of a series. Defaults to `24`.
        latent_dim: int > 0, k. Defaults to `16`.
        hidden_dim: int > 0, units of each GRU and direction. Defaults to `20`.
        num_layers: int > 0, of encoder and decoder. Defaults to `3`.
        kl_weight: float >= 0. Defaults to `0.007`, of the paper for sines.
        prediction_weight: float >= 0. Defaults to `0.005`, likewise.
        history: what the divergence takes as the past of z_t: `"posterior"`,
            the encoded one, which makes the loss an evidence lower bound; or
            `"prior"`, a path that the prior draws by itself, as the paper's
            code has it. Paths of the same kind are kept linear. Defaults to
            `"prior"`.
        irregular: bool, whether rows are missing: the encoder is then given
            what `orrery.datasets.drop_values` returns, and only rows that were
            seen are reconstructed. The paper's encoder of such series is
            another one, a neural differential equation. Defaults to `False`.
        seed: int or `None`, of what is drawn in training. Defaults to `None`.
        **kwargs: `name`, `dtype` and the like of `keras.Model`.

    Call arguments:
        inputs: float tensor `(B, length, features)`; if `irregular` a dict with
            it as `values`, and `mask` and `elapsed` `(B, length, 1)`.
        training: bool.

    Returns:
        Float tensor `(B, length, features)`, the series decoded again.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    ```python
    model = KoVAEGenerator(features=5)
    model.compile(keras.optimizers.Adam(7e-4))
    model.fit(orrery.datasets.sines(64), epochs=1, verbose=0)
    series = model.generate(10, seed=0)  # (10, 24, 5)
    ```

    Reference:
        - [Naiman et al., 2023](https://arxiv.org/abs/2310.02619)
    """

    presets = {
        "kovae_sines": {"features": 5},
        "kovae_stocks": {
            "features": 6,
            "kl_weight": 0.009,
            "prediction_weight": 0.03,
        },
    }

    def __init__(
        self,
        features,
        length=24,
        latent_dim=16,
        hidden_dim=20,
        num_layers=3,
        kl_weight=0.007,
        prediction_weight=0.005,
        history="prior",
        irregular=False,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_integer("features", features, 1)
        check_integer("length", length, 2)
        for name, value in (
            ("kl_weight", kl_weight),
            ("prediction_weight", prediction_weight),
        ):
            check_real(name, value, "at least 0", lambda x: x >= 0)
        if history not in ("posterior", "prior"):
            raise ValueError(
                "`history` must be 'posterior' or 'prior'. Received: "
                f"history={history!r}"
            )
        self.features, self.length = features, length
        self.kl_weight = kl_weight
        self.prediction_weight = prediction_weight
        self.history_of = history
        self.irregular = irregular
        self.options = {
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "num_layers": num_layers,
            "seed": seed,
        }
        self.seed_generator = keras.random.SeedGenerator(seed)
        policy = self.dtype_policy
        self.encoder = KoVAEEncoder(
            **self.options,
            bidirectional=True,
            norm="batch",
            activation=None,
            dropout=0.0,
            dtype=policy,
            name="encoder",
        )
        self.prior = KoVAEPrior(
            latent_dim, hidden_dim, dtype="float32", name="prior"
        )
        self.decoder = KoVAEDecoder(
            features,
            hidden_dim,
            "bigru",
            num_layers,
            norm=None,
            dropout=0.0,
            output_activation="sigmoid",
            dtype=policy,
            name="decoder",
        )
        self.trackers = [
            keras.metrics.Mean(name=name) for name in self.term_weights()
        ]

    def term_weights(self):
        """Weights in the loss of the terms as they are shown, by name."""
        weights = {
            "reconstruction": 1.0,
            "divergence": self.kl_weight * self.length,
            "prediction": self.prediction_weight,
        }
        return {name: weight for name, weight in weights.items() if weight > 0}

    def build(self, input_shape=None):
        seen = self.features + 2 * self.irregular
        self.encoder.build((None, self.length, seen))
        latent = (None, self.length, self.options["latent_dim"])
        self.prior.build(latent)
        self.decoder.build(latent)

    def call(self, inputs, training=False):
        x, observed = inputs, None
        if self.irregular:
            x, observed = inputs["values"], inputs["mask"]
            inputs = ops.concatenate([x, observed, inputs["elapsed"]], axis=-1)
        mean, logvar, z = self.encoder(
            inputs, sample=training, training=training
        )
        if self.history_of == "posterior":
            path = z
        else:
            noise = keras.random.normal(
                ops.shape(z), dtype="float32", seed=self.seed_generator
            )
            path = self.prior.sample(noise)
        decoded = self.decoder(z, training=training)
        error = ops.square(ops.cast(decoded, "float32") - x)
        if observed is not None:
            # As if as much had been seen of every series.
            error = error * observed / ops.mean(observed)
        self.add_loss(ops.mean(ops.sum(error, axis=(1, 2))))
        if self.kl_weight > 0:
            divergence = gaussian_divergence(mean, logvar, *self.prior(path))
            nats = ops.mean(ops.sum(divergence, axis=(1, 2)))
            self.add_loss(self.kl_weight * nats)
        if self.prediction_weight > 0:
            self.add_loss(self.prediction_weight * nonlinearity(path))
        return decoded

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        weights = self.term_weights().values()
        terms = zip(self.trackers, self.losses, weights, strict=True)
        for tracker, loss, weight in terms:
            tracker.update_state(loss / weight)
        return sum(self.losses)

    def compute_output_spec(self, inputs, training=False):
        x = inputs["values"] if self.irregular else inputs
        shape = (x.shape[0], self.length, self.features)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def generate(self, count, seed=0, batch_size=512):
        """New series.

        Args:
            count: int > 0.
            seed: int >= 0. The same on every backend. Defaults to `0`.
            batch_size: int > 0, series at once. Defaults to `512`.

        Returns:
            Float32 array `(count, length, features)`.
        """
        check_integer("count", count, 1)
        if not self.built:
            self.build()
        generator, parts = np.random.default_rng(seed), []
        shape = (self.length, self.options["latent_dim"])
        while sum(map(len, parts)) < count:
            noise = generator.standard_normal((batch_size, *shape), "float32")
            path = self.prior.sample(ops.convert_to_tensor(noise))
            decoded = ops.stop_gradient(self.decoder(path))
            parts.append(ops.convert_to_numpy(decoded).astype("float32"))
        return np.concatenate(parts)[:count]

    # === Config ===
    def get_config(self):
        return {
            **super().get_config(),
            "features": self.features,
            "length": self.length,
            "kl_weight": self.kl_weight,
            "prediction_weight": self.prediction_weight,
            "history": self.history_of,
            "irregular": self.irregular,
            **self.options,
        }

    def get_build_config(self):
        return {"length": self.length}  # An empty one would not be restored.

    def build_from_config(self, config):
        self.build()
