"""The report's Koopman autoencoder, as its code ran, not as it was meant.

Reproduces what stands behind 4392 % and 4603 %. What is wrong with it, and is
right in `orrery.zoo.KoVAE`:

- the prior is fed zeros: it knows nothing of the series, and nor does the
  operator, which is fitted to its noise, anew at every forecast, and not saved;
- the term called prediction is the distance of two independent samples, which
  drives the posterior towards that same prior;
- nothing in the loss rolls the operator out on what was encoded;
- its learning rate is stepped twice an epoch: lowest halfway, then rising;
- controls are reconstructed as if they were measured, and ignored in forecasts,
  which begin with a sample and a decoder that has not seen the past.
"""

import keras
import numpy as np
from keras import ops

from ...layers.kovae_decoder import KoVAEDecoder
from ...layers.kovae_encoder import KoVAEEncoder
from ...layers.kovae_prior import path_operator
from ...losses.gaussian_divergence import gaussian_divergence
from ..forecaster import Forecaster

ALPHA, BETA = 0.1, 1e-3
RATES, DECAY, CLIP_NORM, EPOCHS = (1e-4, 1e-5), 1e-3, 5.0, 401


@keras.saving.register_keras_serializable(package="orrery")
class EffectiveKoVAE(Forecaster):
    """A posterior and a prior that have nothing to do with each other.

    Args:
        *args: sizes as for `Forecaster`: `observed_dim`, `control_dim`,
            `disturbance_dim`, `history`, `horizon`; rows are told as they are,
            `skip` is `None`.
        latent_dim: int > 0, k. Defaults to `64`.
        hidden_dim: int > 0. Defaults to `256`.
        seed: int or `None`, of all samples. Defaults to `None`.
        **kwargs: sizes by name; `name`, `dtype` and the like of `keras.Model`.

    Call arguments:
        inputs: see `Forecaster`.
        training: bool.

    Returns:
        Float tensor `(B, H, X)`, another one at every call.

    Example:

    ```python
    data = orrery.datasets.load_plant_data()
    model = EffectiveKoVAE(len(data.observed), len(data.controls), 1)
    model.adapt(data)
    model.compile(keras.optimizers.AdamW(1e-4, clipnorm=5.0))
    model.fit(orrery.datasets.ForecastWindows(data), shuffle=False)
    ```
    """

    def __init__(
        self,
        *args,
        latent_dim=64,
        hidden_dim=256,
        seed=None,
        **kwargs,
    ):
        super().__init__(*args, **{"skip": None, **kwargs})
        if self.skip is not None:
            raise ValueError(
                f"`skip` must be None. Received: skip={self.skip!r}"
            )
        self.options = {
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "seed": seed,
        }
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.encoder = KoVAEEncoder(
            latent_dim, hidden_dim, seed=seed, name="encoder"
        )
        self.prior = keras.layers.GRU(
            hidden_dim, return_sequences=True, name="prior"
        )
        self.moments = keras.layers.Dense(2 * latent_dim, name="moments")
        self.decoder = KoVAEDecoder(
            sum(self.widths.values()),
            hidden_dim,
            "gru",
            seed=seed,
            name="decoder",
        )

    def term_weights(self):
        return {"reconstruction": 1.0, "divergence": BETA, "agreement": ALPHA}

    def build_layers(self):
        rows = (None, self.history_rows)
        latent, hidden = (
            self.options[name] for name in ("latent_dim", "hidden_dim")
        )
        self.encoder.build((*rows, sum(self.widths.values())))
        self.prior.build((*rows, 1))
        self.moments.build((*rows, hidden))
        self.decoder.build((*rows, latent))

    def ahead(self, past, u, d, future, training):
        seen = [x[:, : self.history_rows] for x in (u, d) if x is not None]
        rows = ops.concatenate([past, *seen], axis=-1)
        mean, logvar, z = self.encoder(rows, sample=True, training=training)
        # The same for every series: zeros in, one curve out.
        moments = self.moments(self.prior(ops.zeros_like(rows[:1, :, :1])))
        prior_mean, prior_logvar = ops.split(
            ops.broadcast_to(moments, (ops.shape(z)[0], *moments.shape[1:])),
            2,
            axis=-1,
        )
        noise = keras.random.normal(ops.shape(z), seed=self.seed_generator)
        path = prior_mean + ops.exp(0.5 * prior_logvar) * noise
        if future is not None:
            decoded = self.decoder(z, training=training)
            self.add_term("reconstruction", _mean_square(decoded - rows))
            divergence = gaussian_divergence(
                mean, logvar, prior_mean, prior_logvar
            )
            self.add_term("divergence", ops.mean(divergence))
            self.add_term("agreement", _mean_square(z - path))
        operator = ops.transpose(path_operator(path))
        state, rolled = z[:, -1], []
        for _ in range(self.horizon):
            state = ops.matmul(state, operator)
            rolled.append(state)
        told = self.decoder(ops.stack(rolled, axis=1))
        return told[..., : self.observed_dim]

    def get_config(self):
        return {**super().get_config(), **self.options}


@keras.saving.register_keras_serializable(package="orrery")
class SteppedTwice(keras.optimizers.schedules.LearningRateSchedule):
    """A cosine from 1e-4 to 1e-5 over 401 epochs, stepped twice in each.

    It is at its lowest near epoch 200, and rises to where it began.

    Args:
        steps_per_epoch: int > 0.
    """

    def __init__(self, steps_per_epoch):
        super().__init__()
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step):
        high, low = RATES
        epoch = ops.floor(ops.cast(step, "float32") / self.steps_per_epoch)
        angle = np.pi * 2.0 * epoch / EPOCHS
        return low + (high - low) * (1.0 + ops.cos(angle)) / 2.0

    def get_config(self):
        return {"steps_per_epoch": self.steps_per_epoch}


def published_optimizer(steps_per_epoch):
    """What the report's code trained with.

    Args:
        steps_per_epoch: int > 0.

    Returns:
        A `keras.optimizers.AdamW` under `SteppedTwice`.
    """
    return keras.optimizers.AdamW(
        SteppedTwice(steps_per_epoch),
        weight_decay=DECAY,
        global_clipnorm=CLIP_NORM,
    )


def _mean_square(x):
    return ops.mean(ops.square(x))
