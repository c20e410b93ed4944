"""Forecasts of a measured process under what acts on it. The base class."""

import keras
import numpy as np
from keras import ops

from .._checks import check_integer
from .presets import Presets

# Windows that are forecast at once.
BATCH_SIZE = 512
GROUPS = ("observed", "controls", "disturbances")


@keras.saving.register_keras_serializable(package="orrery")
class Forecaster(Presets, keras.Model):
    """A model of H rows to come, given O rows and what acts on the process.

    A subclass has `ahead(past, u, d, future, training)`, which maps scaled rows
    `(B, O, X)` and inputs `(B, O + H - 1, m)` and `(B, O + H - 1, p)` (or
    `None`) to scaled forecasts `(B, H, X)`; where a future is given it may add
    terms to the loss, in the order of `term_weights`. Scaling is part of the
    model: what goes in and comes out has the data's units.

    Trained by `fit` on `orrery.datasets.ForecastWindows`: with a `future` among
    its inputs a call adds the mean square error of the scaled forecast.

    Args:
        observed_dim: int > 0, X.
        control_dim: int >= 0, m. Defaults to `0`.
        disturbance_dim: int >= 0, p. Defaults to `0`.
        history: int > 0, O. Defaults to `20`.
        horizon: int > 0, H. Defaults to `20`.
        skip: `"last"`, so that the network tells the difference from the last
            row, or `None`. Defaults to `"last"`.

    Call arguments:
        inputs: dict of float tensors: `past` `(B, O, X)`, `controls` `(B, O +
            H - 1, m)`, `disturbances` `(B, O + H - 1, p)`, perhaps `future`
            `(B, H, X)`. Row t of what acts, acts from t to t + 1.
        training: bool.

    Returns:
        Float tensor `(B, H, X)`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        observed_dim,
        control_dim=0,
        disturbance_dim=0,
        history=20,
        horizon=20,
        skip="last",
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value, least in (
            ("observed_dim", observed_dim, 1),
            ("control_dim", control_dim, 0),
            ("disturbance_dim", disturbance_dim, 0),
            ("history", history, 1),
            ("horizon", horizon, 1),
        ):
            check_integer(name, value, least)
        if skip not in (None, "last"):
            raise ValueError(
                f"`skip` must be 'last' or None. Received: skip={skip!r}"
            )
        self.observed_dim = observed_dim
        self.control_dim = control_dim
        self.disturbance_dim = disturbance_dim
        self.history_rows = history
        self.horizon = horizon
        self.skip = skip

    @property
    def widths(self):
        """Numbers a row of what is observed, set, and disturbs."""
        return dict(
            zip(
                GROUPS,
                (self.observed_dim, self.control_dim, self.disturbance_dim),
                strict=True,
            )
        )

    def build(self, input_shape=None):
        for group, width in self.widths.items():
            if not width:
                continue
            for name, low, high in (
                ("scale", 0.0, 1.0),
                ("range", -np.inf, np.inf),
            ):
                weight = self.add_weight(
                    name=f"{group}_{name}",
                    shape=(2, width),
                    initializer=lambda shape, dtype, low=low, high=high: (
                        ops.convert_to_tensor(
                            np.repeat([[low], [high]], shape[1], axis=1), dtype
                        )
                    ),
                    trainable=False,
                    autocast=False,
                )
                setattr(self, weight.name, weight)
        self.trackers = [
            keras.metrics.Mean(name=name) for name in self.term_weights()
        ]
        self.build_layers()

    def term_weights(self):
        """Names and weights > 0 of the terms of the loss, the forecast last."""
        return {"forecast": 1.0}

    def build_layers(self):
        """Make the weights of the layers, whose shapes are all known."""
        raise NotImplementedError

    def adapt(self, data):
        """Take the scales and the range of the training episodes.

        Args:
            data: a `SeriesData` of this model's widths.

        Raises:
            ValueError: if it has other widths.
        """
        widths = {group: len(getattr(data, group)) for group in GROUPS}
        if widths != self.widths:
            raise ValueError(
                f"`data` must have the widths {self.widths}. Received: {widths}"
            )
        if not self.built:
            self.build()
        scales, ranges = data.scales(), data.ranges()
        for group, width in widths.items():
            if width:
                scale, range_ = np.stack(scales[group]), np.stack(ranges[group])
                getattr(self, f"{group}_scale").assign(scale)
                getattr(self, f"{group}_range").assign(range_)

    # === Training ===
    def call(self, inputs, training=False):
        scaled = {
            group: self._scaled(group, inputs.get(group))
            for group in ("controls", "disturbances")
        }
        past = self._scaled("observed", inputs["past"])
        future = self._scaled("observed", inputs.get("future"))
        forecast = self.ahead(
            past, scaled["controls"], scaled["disturbances"], future, training
        )
        forecast = ops.cast(forecast, "float32")
        if future is not None:
            self.add_term("forecast", ops.mean(ops.square(forecast - future)))
        mean, deviation = self._scale("observed")
        return forecast * deviation + mean

    def ahead(self, past, u, d, future, training):
        """Scaled forecasts `(B, H, X)` of scaled rows."""
        raise NotImplementedError

    def add_term(self, name, value):
        """Add a term to the loss; each of `term_weights` once, in order.

        One that has no weight is left out.
        """
        weight = self.term_weights().get(name)
        if weight is not None:
            self.add_loss(weight * value)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        losses, weights = self.losses, self.term_weights().values()
        if len(losses) < len(weights):
            raise ValueError(
                "`future` must be among the inputs in training: use "
                "ForecastWindows."
            )
        # Behind the terms come penalties of layers.
        for tracker, loss, weight in zip(
            self.trackers, losses, weights, strict=False
        ):
            tracker.update_state(loss / weight)
        return sum(losses)

    def compute_output_spec(self, inputs, training=False):
        shape = (inputs["past"].shape[0], self.horizon, self.observed_dim)
        return keras.KerasTensor(shape, dtype="float32")

    def _scale(self, group):
        """Mean and standard deviation, each a tensor of the group's width."""
        scale = ops.convert_to_tensor(getattr(self, f"{group}_scale"))
        return scale[0], scale[1]

    def _scaled(self, group, rows):
        if rows is None:
            return None
        mean, deviation = self._scale(group)
        return (ops.cast(rows, "float32") - mean) / deviation

    # === Forecasts ===
    def forecast(
        self, last_rows, future_controls=None, future_disturbances=None
    ):
        """What is to come behind the last rows of a log, if so controlled.

        Args:
            last_rows: array `(B, O, X + m + p)`, or `(O, X + m + p)`: of each
                time what was observed, set, and what disturbed, in this order.
                What was observed may be NaN, a sensor that did not answer: the
                last value seen stands in (of the first rows, the next one).
            future_controls: array `(B, H, m)` or `(H, m)`; the first row acts
                from the last row on. Defaults to `None`, the last row's.
            future_disturbances: array `(B, H, p)` or `(H, p)`, likewise.

        Returns:
            Float32 array `(B, H, X)`, or `(H, X)`.

        Raises:
            ValueError: if a shape does not fit, a column was never observed, or
                what acts is not finite.
        """
        single = np.ndim(last_rows) == 2
        inputs = self.inputs_of(last_rows, future_controls, future_disturbances)
        if len(inputs["past"]) > BATCH_SIZE:
            return self.predict(inputs, batch_size=BATCH_SIZE, verbose=0)
        # Without what `predict` prepares, which takes longer than one window.
        forecast = self.predict_on_batch(inputs)
        return forecast[0] if single else forecast

    def inputs_of(
        self, last_rows, future_controls=None, future_disturbances=None
    ):
        """The inputs of a call from the arguments of `forecast`."""
        widths = self.widths
        rows = np.array(last_rows, "float32", ndmin=3)
        shape = (len(rows), self.history_rows, sum(widths.values()))
        if rows.ndim != 3 or rows.shape != shape:
            raise ValueError(
                "`last_rows` must have the shape (batch, "
                f"{shape[1]}, {shape[2]}): {widths} a row. Received: "
                f"{np.shape(last_rows)}"
            )
        ends = np.cumsum(list(widths.values()))
        past, *acting = np.split(rows, ends[:-1], axis=-1)
        inputs = {"past": _filled(past)}
        future = {
            "controls": future_controls,
            "disturbances": future_disturbances,
        }
        for (group, given), seen in zip(future.items(), acting, strict=True):
            width = widths[group]
            shape = (len(rows), self.horizon, width)
            if given is None:
                given = np.repeat(seen[:, -1:], self.horizon, axis=1)
            given = np.array(given, "float32", ndmin=3)
            if given.shape != shape:
                raise ValueError(
                    f"`future_{group}` must have the shape {shape}. Received: "
                    f"{given.shape}"
                )
            given = np.concatenate([seen[:, :-1], given], axis=1)
            if not np.isfinite(given).all():
                raise ValueError(f"What acts must be finite: {group} is not.")
            if width:
                inputs[group] = given
        return inputs

    def outside_range(self, inputs):
        """Which columns leave what the model has seen in training.

        Args:
            inputs: dict of arrays, as in a call (`inputs_of` makes it).

        Returns:
            Bool array `(B, X + m + p)`: a forecast from there is a guess.
        """
        flags = []
        names = {"observed": "past"}
        for group, width in self.widths.items():
            if width:
                rows = np.asarray(inputs[names.get(group, group)])
                low, high = ops.convert_to_numpy(
                    getattr(self, f"{group}_range")
                )
                flags.append(((rows < low) | (rows > high)).any(axis=1))
        return np.concatenate(flags, axis=-1)

    # === Config ===
    def get_config(self):
        return {
            **super().get_config(),
            "observed_dim": self.observed_dim,
            "control_dim": self.control_dim,
            "disturbance_dim": self.disturbance_dim,
            "history": self.history_rows,
            "horizon": self.horizon,
            "skip": self.skip,
        }

    def get_build_config(self):
        return {"widths": self.widths}  # An empty one would not be restored.

    def build_from_config(self, config):
        self.build()


def beside_the_past(past, u, d):
    """Rows with what acted before them: x_t, u_{t-1}, d_{t-1}; first 0.

    Args:
        past: float tensor `(B, T, X)`.
        u: float tensor `(B, T - 1 or more, m)`, or `None`.
        d: float tensor `(B, T - 1 or more, p)`, or `None`.

    Returns:
        Float tensor `(B, T, X + m + p)`.
    """
    rows = past.shape[1]
    before = [
        ops.pad(acting[:, : rows - 1], ((0, 0), (1, 0), (0, 0)))
        for acting in (u, d)
        if acting is not None
    ]
    return ops.concatenate([past, *before], axis=-1)


def _filled(past):
    """NaN replaced by the last value seen, at the beginning by the next."""
    if np.isinf(past).any():
        window, row, column = np.argwhere(np.isinf(past))[0]
        raise ValueError(
            "`last_rows` must be finite, or NaN where a sensor did not answer. "
            f"Received: {past[window, row, column]} in window {window}, row "
            f"{row}, column {column}"
        )
    missing = np.isnan(past)
    if not missing.any():
        return past
    if missing.all(axis=1).any():
        window, column = np.argwhere(missing.all(axis=1))[0]
        raise ValueError(
            "`last_rows` must have at least one value of what is observed. "
            f"Received: NaN alone in window {window}, column {column}"
        )
    rows = np.arange(past.shape[1])[:, None]
    last = np.maximum.accumulate(np.where(missing, -1, rows), axis=1)
    first = np.argmin(missing, axis=1)[:, None]
    return np.take_along_axis(past, np.where(last < 0, first, last), axis=1)
