"""A Koopman variational autoencoder that forecasts a controlled process."""

import keras
import numpy as np
from keras import ops

from .._checks import check_integer, check_real
from ..layers.kovae_decoder import KoVAEDecoder
from ..layers.kovae_encoder import KoVAEEncoder
from ..layers.kovae_prior import KoVAEPrior
from ..layers.stable_koopman import MODES, StableKoopman
from ..losses.gaussian_divergence import gaussian_divergence
from ..losses.spectral_penalty import SpectralPenalty
from ..metrics.forecast_scores import central_interval
from .forecaster import Forecaster, beside_the_past

# Windows whose ensembles are computed at once.
WINDOWS = 16
# Of a step, in the moving mean of the variance of what is observed.
MOMENTUM = 0.01


@keras.saving.register_keras_serializable(package="orrery")
class KoVAE(Forecaster):
    """Forecasts, with their uncertainty, through linear latent dynamics.

    A causal encoder gives `q(z_t | x_1 ... x_t, u_1 ... u_{t-1}, d_1 ...)`; the
    prior is linear, `p(z_{t+1} | z_t, u_t, d_t) = N(A z_t + B u_t + E d_t,
    diag(exp(w)))`, or bilinear; the forecast decodes its roll-out from z_O.

        L = |dec(z) - x|^2 + alpha (|dec(zhat) - x|^2 + w_l |zhat - mu|^2)
            + beta KL / k + gamma penalty(A),

    all squares as means. The KL divergence is reported in nats a row. The
    variance of each variable about `dec(z)` is a moving mean of the first term.

    Args:
        *args: sizes as for `Forecaster`: `observed_dim`, `control_dim`,
            `disturbance_dim`, `history`, `horizon`, `skip`.
        latent_dim: int > 0, k. Defaults to `64`.
        hidden_dim: int > 0, of encoder and decoder. Defaults to `128`.
        koopman: `"bounded"`, `"stable"`, `"free"`, `"soft"` (free, with a
            penalty on a spectral radius above 1) or `"lstsq"`; see
            `StableKoopman`. Defaults to `"bounded"`.
        bilinear_rank: int >= 0, of what acts and z together, see
            `StableKoopman`. Defaults to `0`.
        decoder: `"mlp"`, `"linear"` or `"gru"`. Defaults to `"mlp"`.
        norm: `"layer"` or `None`. Defaults to `"layer"`.
        dropout: float in [0, 1). Defaults to `0.0`.
        alpha: float > 0, weight of the forecast. Defaults to `1.0`.
        beta: float >= 0, weight of the divergence. Defaults to `1e-3`.
        gamma: float > 0, weight of the penalty, of `"soft"` alone. Defaults to
            `None`, there 0.1.
        margin: float in [0, 1), of that penalty. Defaults to `None`, there 0.
        latent_weight: float >= 0, w_l; above 0 the future is encoded in
            training as well. Defaults to `0.0`.
        free_bits: float >= 0, nats of each latent number that the divergence
            does not count below; with beta alone. Defaults to `0.0`.
        seed: int or `None`, of the samples in training. Defaults to `None`.
        **kwargs: sizes by name; `name`, `dtype` and the like of `keras.Model`.

    Call arguments:
        inputs: see `Forecaster`.
        training: bool. In training z is drawn, else it is the mean.

    Returns:
        Float tensor `(B, H, X)`.

    Raises:
        ValueError: if an argument is out of its range, or would change nothing.

    Example:

    ```python
    data = orrery.datasets.load_plant_data()
    model = KoVAE(len(data.observed), len(data.controls), 1)
    model.adapt(data)
    model.compile(keras.optimizers.AdamW(1e-3, clipnorm=2.0))
    model.fit(orrery.datasets.ForecastWindows(data), shuffle=False)
    rows = data.log("test")[0][:20]  # (20, 14): sensors, controls, inflow
    forecast = model.forecast(rows, np.full((20, 2), [120.0, 5e4]))  # (20, 11)
    ```

    Reference:
        - [Naiman et al., 2023](https://arxiv.org/abs/2310.02619), the Koopman
          prior.
        - [Han et al., 2024](https://arxiv.org/abs/2405.12478), controls.
    """

    def __init__(
        self,
        *args,
        latent_dim=64,
        hidden_dim=128,
        koopman="bounded",
        bilinear_rank=0,
        decoder="mlp",
        norm="layer",
        dropout=0.0,
        alpha=1.0,
        beta=1e-3,
        gamma=None,
        margin=None,
        latent_weight=0.0,
        free_bits=0.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        check_real("alpha", alpha, "above 0", lambda x: x > 0)
        for name, value in (
            ("beta", beta),
            ("latent_weight", latent_weight),
            ("free_bits", free_bits),
        ):
            check_real(name, value, "at least 0", lambda x: x >= 0)
        if koopman not in (*MODES, "soft"):
            raise ValueError(
                f"`koopman` must be one of {(*MODES, 'soft')}. Received: "
                f"koopman={koopman!r}"
            )
        if decoder not in ("mlp", "linear", "gru"):
            raise ValueError(
                "`decoder` must be 'mlp', 'linear' or 'gru', for a forecast "
                f"knows no later rows. Received: decoder={decoder!r}"
            )
        if koopman != "soft" and (gamma, margin) != (None, None):
            raise ValueError(
                "`gamma` and `margin` need koopman='soft'. Received: "
                f"gamma={gamma}, margin={margin}, koopman={koopman!r}"
            )
        if free_bits and not beta:
            raise ValueError(
                "`free_bits` has no effect with beta=0. Received: "
                f"free_bits={free_bits}"
            )
        self.options = {
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "koopman": koopman,
            "bilinear_rank": bilinear_rank,
            "decoder": decoder,
            "norm": norm,
            "dropout": dropout,
            "alpha": alpha,
            "beta": beta,
            "gamma": gamma,
            "margin": margin,
            "latent_weight": latent_weight,
            "free_bits": free_bits,
            "seed": seed,
        }
        self.penalty, self.gamma = None, 0.0
        if koopman == "soft":
            self.gamma = 0.1 if gamma is None else gamma
            check_real("gamma", self.gamma, "above 0", lambda x: x > 0)
            self.penalty = SpectralPenalty(margin=margin or 0.0)
        self.encoder = KoVAEEncoder(
            latent_dim,
            hidden_dim,
            norm=norm,
            dropout=dropout,
            seed=seed,
            dtype=self.dtype_policy,
            name="encoder",
        )
        self.prior = KoVAEPrior(
            latent_dim,
            operator=StableKoopman(
                latent_dim,
                self.control_dim,
                self.disturbance_dim,
                "free" if koopman == "soft" else koopman,
                bilinear_rank=bilinear_rank,
                dtype="float32",
                name="operator",
            ),
            dtype="float32",
            name="prior",
        )
        self.decoder = KoVAEDecoder(
            self.observed_dim,
            hidden_dim,
            decoder,
            norm=norm,
            dropout=dropout,
            seed=seed,
            dtype=self.dtype_policy,
            name="decoder",
        )

    @property
    def operator(self):
        """The `StableKoopman` of the latent dynamics."""
        return self.prior.operator

    def term_weights(self):
        options = self.options
        weights = {
            "divergence": options["beta"] / options["latent_dim"],
            "reconstruction": 1.0,
            "latent": options["alpha"] * options["latent_weight"],
            "penalty": self.gamma,
            "forecast": options["alpha"],
        }
        return {name: weight for name, weight in weights.items() if weight}

    def build_layers(self):
        latent = (None, self.history_rows, self.options["latent_dim"])
        seen = sum(self.widths.values())
        self.encoder.build((None, self.history_rows, seen))
        self.prior.build(latent)
        # Nothing is learned of a noise that no divergence judges.
        self.prior.noise_logvar.trainable = self.options["beta"] > 0
        self.decoder.build(latent)
        self.observation_variance = self.add_weight(
            name="observation_variance",
            shape=(self.observed_dim,),
            initializer="ones",
            trainable=False,
            autocast=False,
        )
        self.interval_scale = self.add_weight(
            name="interval_scale",
            shape=(self.horizon, self.observed_dim),
            initializer="ones",
            trainable=False,
            autocast=False,
        )

    def ahead(self, past, u, d, future, training):
        rows, count = past, self.history_rows
        weights = self.term_weights()
        if future is not None and "latent" in weights:
            rows = ops.concatenate([past, future], axis=1)
        mean, logvar, z = self.encoder(
            beside_the_past(rows, u, d), sample=training, training=training
        )
        before = self._acting(u, d, slice(0, rows.shape[1] - 1))
        if training and self.options["koopman"] == "lstsq":
            self._observe(mean, *before)
        if future is not None and "divergence" in weights:
            # Before the operator: a layer forgets the losses of its parts.
            expected = self.prior(z, *before)
            divergence = gaussian_divergence(mean, logvar, *expected)
            counted = ops.maximum(divergence, self.options["free_bits"])
            self.add_term("divergence", ops.mean(counted) * z.shape[-1])
        rolled = self.operator(
            z[:, count - 1],
            *self._acting(u, d, slice(count - 1, None)),
            steps=self.horizon,
            training=training,
        )
        decoded, forecast = self._decode(past, z[:, :count], rolled, training)
        if future is not None:
            error = ops.mean(ops.square(decoded - past), axis=(0, 1))
            self.add_term("reconstruction", ops.mean(error))
            if "latent" in weights:
                drift = ops.mean(ops.square(rolled - mean[:, count:]))
                self.add_term("latent", drift)
            if self.penalty is not None:
                self.add_term(
                    "penalty", self.penalty(self.operator.transition())
                )
            if training:
                before = ops.convert_to_tensor(self.observation_variance)
                change = ops.stop_gradient(error) - before
                self.observation_variance.assign(before + MOMENTUM * change)
        return forecast

    def _decode(self, past, z, rolled, training=False):
        """Rows of the past, and the forecast, in float32."""
        decoded = self.decoder(
            ops.concatenate([z, rolled], axis=1), training=training
        )
        decoded = ops.cast(decoded, "float32")
        seen, forecast = ops.split(decoded, [z.shape[1]], axis=1)
        if self.skip == "last":
            forecast = past[:, -1:] + forecast - seen[:, -1:]
        return seen, forecast

    @staticmethod
    def _acting(u, d, rows):
        return tuple(None if x is None else x[:, rows] for x in (u, d))

    def _observe(self, mean, u, d):
        def flat(x):
            return ops.reshape(x, (-1, x.shape[-1]))

        pairs = [mean[:, :-1], mean[:, 1:]]
        z, z_next = (flat(ops.stop_gradient(x)) for x in pairs)
        acting = [None if x is None else flat(x) for x in (u, d)]
        self.operator.observe(z, z_next, *acting)

    # === Uncertainty ===
    def forecast_ensemble(self, inputs, samples=100, seed=0, calibrated=True):
        """What may come: `samples` futures of each window.

        z_O is drawn from the posterior, noise of the prior is added at every
        step, and noise of what is observed to every row. A calibrated ensemble
        is that cloud about the forecast of the mean, stretched by what
        `calibrate` found.

        Args:
            inputs: dict of arrays, as in a call (`inputs_of` makes it).
            samples: int >= 2. Defaults to `100`.
            seed: int >= 0. Defaults to `0`.
            calibrated: bool. Defaults to `True`.

        Returns:
            Float32 array `(B, samples, H, X)`.
        """
        check_integer("samples", samples, 2)
        generator = np.random.default_rng(seed)
        parts = []
        for first in range(0, len(inputs["past"]), WINDOWS):
            part = {
                name: rows[first : first + WINDOWS]
                for name, rows in inputs.items()
            }
            members = self._ensemble(part, samples, generator)
            if calibrated:
                point = self.predict_on_batch(part)[:, None]
                centre = members.mean(axis=1, keepdims=True)
                stretch = ops.convert_to_numpy(self.interval_scale)
                members = point + stretch * (members - centre)
            parts.append(members.astype("float32"))
        return np.concatenate(parts)

    def calibrate(self, inputs, future, level=0.9, samples=100, seed=0):
        """Stretch ensembles until their intervals hold what they say.

        Of each step and variable, by the quantile of the error over the
        interval's bound (split conformal): over windows like these the central
        interval of `level` then contains the truth so often. Kept in the saved
        file.

        Args:
            inputs: dict of arrays, windows that were not trained on.
            future: array `(B, H, X)`, what came.
            level: float in (0, 1). Defaults to `0.9`.
            samples: int >= 2. Defaults to `100`.
            seed: int >= 0. Defaults to `0`.

        Returns:
            Float array `(H, X)`, the stretch.

        Raises:
            ValueError: if the level is out of its range, or there are too few
                windows for it.
        """
        check_real("level", level, "in (0, 1)", lambda x: 0 < x < 1)
        count, least = len(future), np.ceil(level / (1 - level))
        rank = int(np.ceil((count + 1) * level))
        if rank > count:
            raise ValueError(
                f"`inputs` must hold at least {least:.0f} windows for "
                f"level={level}. Received: {count}"
            )
        members = self.forecast_ensemble(inputs, samples, seed, False)
        members = members - members.mean(axis=1, keepdims=True)
        low, high = central_interval(members, level)
        error = future - self.predict(inputs, verbose=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.maximum(error / low, error / high)
        # No error within an interval of no width.
        ratio = np.where(np.isfinite(ratio), ratio, 1.0)
        stretch = np.sort(ratio, axis=0)[rank - 1]
        self.interval_scale.assign(stretch)
        return stretch

    def _ensemble(self, inputs, samples, generator):
        past, u, d = (
            self._scaled(group, inputs.get(name))
            for group, name in (
                ("observed", "past"),
                ("controls", "controls"),
                ("disturbances", "disturbances"),
            )
        )
        count, size = self.history_rows, self.options["latent_dim"]
        mean, logvar, _ = self.encoder(beside_the_past(past, u, d))
        past, u, d, mean, logvar = (
            None if x is None else ops.repeat(x, samples, axis=0)
            for x in (past, u, d, mean, logvar)
        )

        def normal(*shape):
            shape = (past.shape[0], *shape)
            return generator.standard_normal(shape, dtype="float32")

        noise = ops.convert_to_tensor(normal(self.horizon + 1, size))
        last = mean[:, -1] + ops.exp(0.5 * logvar[:, -1]) * noise[:, 0]
        rolled = self.prior.roll_out(
            last, noise[:, 1:], *self._acting(u, d, slice(count - 1, None))
        )
        z = ops.concatenate([mean[:, :-1], last[:, None]], axis=1)
        _, forecast = self._decode(past, z, rolled)
        forecast = ops.convert_to_numpy(forecast)
        spread = np.sqrt(ops.convert_to_numpy(self.observation_variance))
        forecast = forecast + spread * normal(self.horizon, self.observed_dim)
        location, deviation = ops.convert_to_numpy(self.observed_scale)
        forecast = forecast * deviation + location
        return forecast.reshape(-1, samples, *forecast.shape[1:])

    # === What was learned ===
    def linear_model(self):
        """The system in scaled units, for control: NumPy float64 arrays.

        Returns:
            A dict of A `(k, k)`, B `(k, m)`, E `(k, p)`, C `(X, k)` and the
            offset `(X,)` of `x = C z + offset` (with `skip`, differences of it
            are added to the last row).

        Raises:
            ValueError: if the decoder or the dynamics are not linear.
        """
        options = self.options
        if options["decoder"] != "linear" or options["bilinear_rank"]:
            raise ValueError(
                "A linear model needs decoder='linear' and bilinear_rank=0. "
                f"Received: decoder={options['decoder']!r}, "
                f"bilinear_rank={options['bilinear_rank']}"
            )
        kernel, offset = (
            ops.convert_to_numpy(w).astype("float64")
            for w in self.decoder.output_layer.weights
        )
        a, b, e = self.operator.matrices()
        return {"A": a, "B": b, "E": e, "C": kernel.T, "offset": offset}

    def spectrum(self, step):
        """Modes of the latent dynamics, the slowest first.

        Args:
            step: float > 0, hours between two rows.

        Returns:
            A dict of float arrays `(k,)`: `modulus`; `time_constant`, hours in
            which a mode falls to 1/e, `-step / ln |lambda|` (negative: it
            grows); and `period` in hours, infinite where it does not swing.
        """
        roots = self.operator.eigenvalues()
        roots = roots[np.argsort(-np.abs(roots), kind="stable")]
        with np.errstate(divide="ignore"):
            return {
                "modulus": np.abs(roots),
                "time_constant": -step / np.log(np.abs(roots)),
                "period": 2 * np.pi * step / np.abs(np.angle(roots)),
            }

    # === Config ===
    def get_config(self):
        return {**super().get_config(), **self.options}
