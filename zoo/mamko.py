"""A selective Koopman operator as a forecaster."""

import keras
import numpy as np
from keras import ops

from ..layers.selective_koopman import SelectiveKoopman
from .forecaster import Forecaster


@keras.saving.register_keras_serializable(package="orrery")
class MamKO(Forecaster):
    """Forecasts by linear dynamics that the past chooses.

    A `SelectiveKoopman` on scaled rows. Its matrices do not depend on what is
    yet to be set, so that the forecast is affine in the controls to come.

    Args:
        *args: sizes as for `Forecaster`: `observed_dim`, `control_dim`,
            `disturbance_dim`, `history`, `horizon`, `skip`; something must
            act, and the history be as long as `SelectiveKoopman` needs it.
        latent_dim: int > 0, N. Defaults to `64`.
        hidden_dim: int > 0, of the lift. Defaults to `256`.
        delta_rank: int > 0. Defaults to `10`.
        conv_width: int > 0, rows the convolution looks back. Defaults to `10`.
        spectrum: `"celu"` or `"stable"`. Defaults to `"celu"`.
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
    model = MamKO(len(data.observed), len(data.controls), 1)
    model.adapt(data)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(orrery.datasets.ForecastWindows(data), shuffle=False)
    ```

    Reference:
        - Li, Han, Yin: MamKO: Mamba-based Koopman operator for modeling and
          predictive control, ICLR 2025 (OpenReview hNjCVVm0EQ).
    """

    def __init__(
        self,
        *args,
        latent_dim=64,
        hidden_dim=256,
        delta_rank=10,
        conv_width=10,
        spectrum="celu",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        rows, steps = self.history_rows, self.horizon
        if rows + conv_width - 2 < steps or rows < 2:
            raise ValueError(
                "`history` must be at least 2 and `horizon` - `conv_width` + 2."
                f" Received: history={rows}, horizon={steps}, "
                f"conv_width={conv_width}"
            )
        self.options = {
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "delta_rank": delta_rank,
            "conv_width": conv_width,
            "spectrum": spectrum,
        }
        self.operator = SelectiveKoopman(
            *self.widths.values(),
            **self.options,
            dtype=self.dtype_policy,
            name="operator",
        )

    def build_layers(self):
        self.operator.build((None, self.history_rows, self.observed_dim))

    def ahead(self, past, u, d, future, training):
        forecast = ops.cast(self.operator(past, u, d), "float32")
        return forecast + past[:, -1:] if self.skip == "last" else forecast

    def spectrum(self, step, inputs):
        """Modes of the dynamics that these windows choose, the slowest first.

        Args:
            step: float > 0, hours between two rows.
            inputs: dict of arrays, as in a call (`inputs_of` makes it).

        Returns:
            A dict of float arrays `(k,)`: `modulus`, the geometric mean over
            windows and steps; `time_constant`, hours in which a mode falls to
            1/e (negative: it grows); and `period`, infinite, for no mode
            swings.
        """
        rows = {
            group: self._scaled(group, inputs.get(name))
            for group, name in (
                ("observed", "past"),
                ("controls", "controls"),
                ("disturbances", "disturbances"),
            )
        }
        diagonals = ops.convert_to_numpy(
            self.operator.operators(*rows.values())[1]
        )
        rates = -np.sort(-np.log(diagonals).mean(axis=(0, 1)))
        with np.errstate(divide="ignore"):
            return {
                "modulus": np.exp(rates),
                "time_constant": -step / rates,
                "period": np.full(len(rates), np.inf),
            }

    def get_config(self):
        return {**super().get_config(), **self.options}
