"""A linear system of learned observables, without a memory."""

import keras
from keras import ops

from ..layers.stable_koopman import StableKoopman
from .forecaster import Forecaster


@keras.saving.register_keras_serializable(package="orrery")
class DeepKoopman(Forecaster):
    """Forecasts by `z' = A z + B u + E d`, `y = C z`, from the last row alone.

    `z_O = phi(x_O)` by a network of one hidden layer; the loss is that of all
    steps of the roll-out.

    Args:
        *args: sizes as for `Forecaster`: `observed_dim`, `control_dim`,
            `disturbance_dim`, `history`, `horizon`, `skip`; of the history
            only the last row is used.
        latent_dim: int > 0, k. Defaults to `64`.
        hidden_dim: int > 0, of phi. Defaults to `256`.
        koopman: mode of the `StableKoopman`, `"free"`, `"bounded"` or
            `"stable"`. Defaults to `"free"`.
        **kwargs: sizes by name; `name`, `dtype` and the like of `keras.Model`.

    Call arguments:
        inputs: see `Forecaster`.
        training: bool.

    Returns:
        Float tensor `(B, H, X)`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    ```python
    data = orrery.datasets.load_plant_data()
    model = DeepKoopman(len(data.observed), len(data.controls), 1)
    model.adapt(data)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(orrery.datasets.ForecastWindows(data), shuffle=False)
    ```

    Reference:
        - [Lusch et al., 2018](https://arxiv.org/abs/1712.09707)
        - [Han et al., 2024](https://arxiv.org/abs/2405.12478), controls.
    """

    def __init__(
        self,
        *args,
        latent_dim=64,
        hidden_dim=256,
        koopman="free",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if koopman not in ("free", "bounded", "stable"):
            raise ValueError(
                "`koopman` must be 'free', 'bounded' or 'stable'. Received: "
                f"koopman={koopman!r}"
            )
        self.options = {
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "koopman": koopman,
        }
        policy = self.dtype_policy
        self.hidden = keras.layers.Dense(
            hidden_dim, "relu", dtype=policy, name="hidden"
        )
        self.lift = keras.layers.Dense(latent_dim, dtype=policy, name="lift")
        self.operator = StableKoopman(
            latent_dim,
            self.control_dim,
            self.disturbance_dim,
            koopman,
            dtype="float32",
            name="operator",
        )
        self.read = keras.layers.Dense(
            self.observed_dim, use_bias=False, dtype="float32", name="read"
        )

    def build_layers(self):
        self.hidden.build((None, self.observed_dim))
        self.lift.build((None, self.options["hidden_dim"]))
        latent = (None, self.options["latent_dim"])
        self.operator.build(latent)
        self.read.build(latent)

    def ahead(self, past, u, d, future, training):
        first = self.history_rows - 1
        state = ops.cast(self.lift(self.hidden(past[:, -1])), "float32")
        states = self.operator(
            state,
            *(None if x is None else x[:, first:] for x in (u, d)),
            steps=self.horizon,
        )
        forecast = self.read(states)
        if self.skip == "last":
            forecast = past[:, -1:] + forecast - self.read(state)[:, None]
        return forecast

    def get_config(self):
        return {**super().get_config(), **self.options}
