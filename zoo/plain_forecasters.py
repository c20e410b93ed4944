"""Networks without dynamics of their own, to compare with those that have."""

import keras
from keras import ops

from .._checks import check_integer
from .forecaster import Forecaster, beside_the_past


@keras.saving.register_keras_serializable(package="orrery")
class GRUForecaster(Forecaster):
    """One recurrent network reads the past, another one writes the future.

    The second begins in the state where the first ends, and is fed what acts;
    its own forecasts are not fed back.

    Args:
        *args: sizes as for `Forecaster`: `observed_dim`, `control_dim`,
            `disturbance_dim`, `history`, `horizon`, `skip`; something must act.
        hidden_dim: int > 0, units of each GRU. Defaults to `128`.
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
    model = GRUForecaster(len(data.observed), len(data.controls), 1)
    model.adapt(data)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(orrery.datasets.ForecastWindows(data), shuffle=False)
    ```

    Reference:
        - [Sutskever et al., 2014](https://arxiv.org/abs/1409.3215)
    """

    def __init__(
        self,
        *args,
        hidden_dim=128,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        check_integer("hidden_dim", hidden_dim, 1)
        if self.control_dim + self.disturbance_dim == 0:
            raise ValueError(
                "`control_dim` or `disturbance_dim` must be above 0: the "
                "second network reads what acts."
            )
        self.hidden_dim = hidden_dim
        policy = self.dtype_policy
        self.reader = keras.layers.GRU(hidden_dim, dtype=policy, name="reader")
        self.writer = keras.layers.GRU(
            hidden_dim, return_sequences=True, dtype=policy, name="writer"
        )
        self.read_out = keras.layers.Dense(
            self.observed_dim, dtype=policy, name="read_out"
        )

    def build_layers(self):
        rows, steps = self.history_rows, self.horizon
        acting = self.control_dim + self.disturbance_dim
        self.reader.build((None, rows, self.observed_dim + acting))
        self.writer.build((None, steps, acting))
        self.read_out.build((None, steps, self.hidden_dim))

    def ahead(self, past, u, d, future, training):
        state = self.reader(beside_the_past(past, u, d), training=training)
        acting = [x for x in (u, d) if x is not None]
        acting = ops.concatenate(acting, axis=-1)[:, self.history_rows - 1 :]
        states = self.writer(acting, initial_state=state, training=training)
        forecast = ops.cast(self.read_out(states), "float32")
        return forecast + past[:, -1:] if self.skip == "last" else forecast

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim}


@keras.saving.register_keras_serializable(package="orrery")
class MLPForecaster(Forecaster):
    """All rows of a window side by side, through two hidden layers.

    Args:
        *args: sizes as for `Forecaster`: `observed_dim`, `control_dim`,
            `disturbance_dim`, `history`, `horizon`, `skip`.
        hidden_dim: int > 0, of each hidden layer. Defaults to `256`.
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
    model = MLPForecaster(len(data.observed), len(data.controls), 1)
    model.adapt(data)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(orrery.datasets.ForecastWindows(data), shuffle=False)
    ```
    """

    def __init__(
        self,
        *args,
        hidden_dim=256,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        check_integer("hidden_dim", hidden_dim, 1)
        self.hidden_dim = hidden_dim
        policy = self.dtype_policy
        self.hidden = [
            keras.layers.Dense(
                hidden_dim, "relu", dtype=policy, name=f"hidden_{i}"
            )
            for i in range(2)
        ]
        self.read_out = keras.layers.Dense(
            self.horizon * self.observed_dim, dtype=policy, name="read_out"
        )

    def build_layers(self):
        acting = self.control_dim + self.disturbance_dim
        width = self.history_rows * self.observed_dim
        width += (self.history_rows + self.horizon - 1) * acting
        for layer in self.hidden:
            layer.build((None, width))
            width = self.hidden_dim
        self.read_out.build((None, width))

    def ahead(self, past, u, d, future, training):
        x = ops.concatenate(
            [
                ops.reshape(part, (-1, part.shape[1] * part.shape[2]))
                for part in (past, u, d)
                if part is not None
            ],
            axis=-1,
        )
        for layer in self.hidden:
            x = layer(x)
        forecast = ops.reshape(
            ops.cast(self.read_out(x), "float32"),
            (-1, self.horizon, self.observed_dim),
        )
        return forecast + past[:, -1:] if self.skip == "last" else forecast

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim}
