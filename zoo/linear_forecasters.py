"""Forecasts that need no gradient: persistence, ridge regression, DMDc, EDMDc.

Each has `fit(data, history, horizon)` on a `SeriesData` and `predict(inputs)`
on a dict of windows, in the data's units, as the networks' `predict`.
"""

import warnings

import numpy as np

from .._checks import check_integer, check_real

# Windows whose normal equations are added up at once.
CHUNK = 2048


class Persistence:
    """What was last seen, forever."""

    def fit(self, data, history, horizon):
        """Nothing is to be learned but the horizon; returns itself."""
        self.horizon = horizon
        return self

    def predict(self, inputs):
        """Forecasts `(B, H, X)` of windows."""
        return np.repeat(inputs["past"][:, -1:], self.horizon, axis=1)


class RidgeForecaster:
    """Every number to come as a linear function of all numbers of a window.

    Args:
        ridge: float > 0, relative to the mean square of an input. Defaults to
            `1e-3`.
        differences: bool, whether to tell the difference from the last row.
            Defaults to `True`.

    Raises:
        ValueError: if `ridge` is not above 0.
    """

    def __init__(self, ridge=1e-3, differences=True):
        check_real("ridge", ridge, "above 0", lambda x: x > 0)
        self.ridge, self.differences = ridge, differences

    def fit(self, data, history, horizon):
        """Solve the normal equations of all training windows; returns itself.

        Args:
            data: a `SeriesData`.
            history: int > 0, rows of the past.
            horizon: int > 0, rows of the future.
        """
        self.scales = data.scales()
        starts = data.starts("train", history, horizon)
        gram = cross = 0
        for first in range(0, len(starts), CHUNK):
            part = starts[first : first + CHUNK]
            windows = data.take("train", part, history, horizon)
            x = self._features(windows)
            y = _scaled(windows["future"], self.scales["observed"])
            if self.differences:
                y = (
                    y
                    - _scaled(windows["past"], self.scales["observed"])[:, -1:]
                )
            gram = gram + x.T @ x
            cross = cross + x.T @ y.reshape(len(y), -1)
        self.kernel = _solve_ridge(gram, cross, self.ridge)
        self.shape = (horizon, len(data.observed))
        return self

    def predict(self, inputs):
        """Forecasts `(B, H, X)` of windows."""
        forecast = (self._features(inputs) @ self.kernel).reshape(
            -1, *self.shape
        )
        past = _scaled(inputs["past"], self.scales["observed"])
        if self.differences:
            forecast = forecast + past[:, -1:]
        return _unscaled(forecast, self.scales["observed"])

    def _features(self, windows):
        parts = [
            _scaled(windows[name], self.scales[group]).reshape(
                len(windows["past"]), -1
            )
            for name, group in _GROUPS
            if name in windows and windows[name].shape[-1]
        ]
        parts.append(np.ones((len(parts[0]), 1)))
        return np.concatenate(parts, axis=-1)


class DMDcForecaster:
    """Dynamic mode decomposition with control, by PyDMD.

    The state is the last `delays` rows side by side, the inputs what acts;
    `x' = A x + B u` is fitted to all pairs of the training episodes and rolled
    out.

    Args:
        delays: int > 0, rows of a state. Defaults to `1`.
        rank: int, number of singular values kept of the states; 0 for the
            optimal hard threshold, -1 for all. Defaults to `-1`.

    Raises:
        ValueError: if `delays` is below 1.

    Reference:
        - [Proctor et al., 2016](https://arxiv.org/abs/1409.6358)
    """

    def __init__(self, delays=1, rank=-1):
        check_integer("delays", delays, 1)
        self.delays, self.rank = delays, rank

    def fit(self, data, history, horizon):
        """Fit A and B to the training episodes; returns itself.

        Raises:
            ImportError: if PyDMD is not installed; says how to install it.
            ValueError: if the history is shorter than the state.
        """
        _check_delays(self.delays, history)
        self.scales, self.horizon = data.scales(), horizon
        states, after, acting = _pairs(data, self.scales, self.delays)
        self.transition, self.inputs = _dmdc(states, after, acting, self.rank)
        return self

    def predict(self, inputs):
        """Forecasts `(B, H, X)` of windows."""
        past, acting = _parts(inputs, self.scales, self.horizon)
        width, first = past.shape[-1], past.shape[1] - 1
        state = past[:, -self.delays :].reshape(len(past), -1)
        rows = []
        for step in range(self.horizon):
            state = state @ self.transition.T
            state = state + acting[:, first + step] @ self.inputs.T
            rows.append(state[:, -width:])
        return _unscaled(np.stack(rows, axis=1), self.scales["observed"])


class EDMDcForecaster:
    """Extended dynamic mode decomposition with control.

    States of `delays` rows beside random Fourier features of them; the next
    features are a ridge regression on these and on what acts. The forecast
    reads the last row among the features, which are lifted once and rolled
    out.

    Args:
        delays: int > 0, rows of a state. Defaults to `4`.
        features: int >= 0, random ones. Defaults to `128`.
        length_scale: float > 0, of the Gaussian kernel whose features these
            are, in units of the root of the state's size. Defaults to `3.0`.
        ridge: float > 0, relative. Defaults to `1e-4`.
        seed: int >= 0, of the features. Defaults to `0`.

    Raises:
        ValueError: if an argument is out of its range.

    Reference:
        - [Korda and Mezic, 2018](https://arxiv.org/abs/1611.03537)
        - Rahimi and Recht: Random features for large-scale kernel machines,
          NeurIPS 2007.
    """

    def __init__(
        self, delays=4, features=128, length_scale=3.0, ridge=1e-4, seed=0
    ):
        check_integer("delays", delays, 1)
        check_integer("features", features, 0)
        check_real("length_scale", length_scale, "above 0", lambda x: x > 0)
        check_real("ridge", ridge, "above 0", lambda x: x > 0)
        self.delays, self.features = delays, features
        self.length_scale, self.ridge, self.seed = length_scale, ridge, seed

    def fit(self, data, history, horizon):
        """Fit the dynamics of the features; returns itself.

        Raises:
            ValueError: if the history is shorter than the state.
        """
        _check_delays(self.delays, history)
        self.scales, self.horizon = data.scales(), horizon
        states, after, acting = _pairs(data, self.scales, self.delays)
        size = states.shape[1]
        generator = np.random.default_rng(self.seed)
        width = self.length_scale * np.sqrt(size)
        self.frequency = generator.normal(size=(size, self.features)) / width
        self.phase = generator.uniform(0, 2 * np.pi, self.features)
        lifted = self._lift(states)
        x = np.concatenate([lifted, acting], axis=1)
        kernel = _solve_ridge(x.T @ x, x.T @ self._lift(after), self.ridge)
        self.transition, self.inputs = np.split(kernel, [lifted.shape[1]])
        return self

    def predict(self, inputs):
        """Forecasts `(B, H, X)` of windows."""
        past, acting = _parts(inputs, self.scales, self.horizon)
        width, first = past.shape[-1], past.shape[1] - 1
        size = self.delays * width
        z = self._lift(past[:, -self.delays :].reshape(len(past), -1))
        rows = []
        for step in range(self.horizon):
            z = z @ self.transition + acting[:, first + step] @ self.inputs
            rows.append(z[:, size - width : size])
        return _unscaled(np.stack(rows, axis=1), self.scales["observed"])

    def _lift(self, states):
        waves = np.cos(states @ self.frequency + self.phase)
        return np.concatenate([states, waves], axis=1)


_GROUPS = (
    ("past", "observed"),
    ("controls", "controls"),
    ("disturbances", "disturbances"),
)


def _solve_ridge(gram, cross, ridge):
    """Normal equations, `ridge` relative to the mean square of an input."""
    penalty = ridge * np.trace(gram) / len(gram)
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), cross)


def _scaled(rows, scale):
    return (np.asarray(rows, "float64") - scale[0]) / scale[1]


def _unscaled(rows, scale):
    return (rows * scale[1] + scale[0]).astype("float32")


def _parts(windows, scales, horizon):
    """Scaled past, and all that acts side by side, a constant among it."""
    past = _scaled(windows["past"], scales["observed"])
    acting = [
        _scaled(windows[name], scales[name])
        for name in ("controls", "disturbances")
        if name in windows and windows[name].shape[-1]
    ]
    acting.append(np.ones((len(past), past.shape[1] + horizon - 1, 1)))
    return past, np.concatenate(acting, axis=-1)


def _pairs(data, scales, delays):
    """States, the next ones, and what acts between, of training episodes."""
    parts = []
    for episode in data.splits["train"]:
        values = _scaled(episode.values, scales["observed"])
        count = len(values) - delays
        rows = np.arange(count)[:, None] + np.arange(delays)
        acting = np.concatenate(
            [
                _scaled(episode.controls, scales["controls"]),
                _scaled(episode.disturbances, scales["disturbances"]),
                np.ones((len(values) - 1, 1)),
            ],
            axis=-1,
        )[delays - 1 :]
        states, after = (
            values[rows + step].reshape(count, -1) for step in (0, 1)
        )
        parts.append((states, after, acting))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _dmdc(states, after, acting, rank):
    """A and B of `x' = A x + B u`, by PyDMD from pairs of any episodes."""
    try:
        from pydmd import DMDc
    except ImportError as error:
        raise ImportError(
            "DMDcForecaster needs PyDMD: pip install 'orrery[forecast]'"
        ) from error

    # All states, then all next ones: a lag as long as either pairs them.
    snapshots = np.concatenate([states, after]).T
    known = np.linalg.matrix_rank(
        np.concatenate([states, acting], axis=1), rtol=1e-6
    )
    model = DMDc(svd_rank=rank, svd_rank_omega=int(known), lag=len(states))
    with warnings.catch_warnings():
        # Columns that do not vary are left out by that rank.
        warnings.filterwarnings("ignore", "Input data condition number")
        model.fit(snapshots, acting.T)
    reduced = model.operator.as_numpy_array
    return model.basis @ reduced @ model.basis.T, model.B


def _check_delays(delays, history):
    if delays > history:
        raise ValueError(
            f"`history` must be at least `delays` = {delays}. Received: "
            f"history={history}"
        )
