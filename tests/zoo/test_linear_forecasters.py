"""Forecasts without gradients: exact on a linear system."""

import numpy as np
import pytest
from orrery.datasets import Episode, SeriesData
from orrery.zoo.linear_forecasters import (
    DMDcForecaster,
    EDMDcForecaster,
    Persistence,
    RidgeForecaster,
)

pytestmark = pytest.mark.one_backend("torch")
L, H = 4, 6


def process(hidden=False):
    """A linear system; if `hidden`, one of its three states is not seen."""
    generator = np.random.default_rng(0)
    a = 0.95 * np.linalg.qr(generator.normal(size=(3, 3)))[0]
    b, e = generator.normal(size=(3, 2)), generator.normal(size=(3, 1))
    parts = []
    for _ in range(4):
        u, d = generator.normal(size=(99, 2)), generator.normal(size=(99, 1))
        x = [generator.normal(size=3)]
        for t in range(99):
            x.append(a @ x[-1] + b @ u[t] + e @ d[t])
        values = np.array(x)[:, : 3 - hidden] * 10.0 ** np.arange(3 - hidden)
        parts.append(Episode(values, 9 * u, d))
    names = ("a", "b", "c")[: 3 - hidden]
    splits = {"train": parts[:3], "test": parts[3:]}
    return SeriesData("linear", names, ("u", "v"), ("w",), 1.0, splits)


def errors(model, data):
    windows = data.windows("test", L, H)
    model.fit(data, L, H)
    forecast = model.predict(windows)
    assert forecast.shape == windows["future"].shape
    scale = data.scales()["observed"][1]
    return np.abs(forecast - windows["future"]).max(axis=(0, 1)) / scale


@pytest.mark.parametrize(
    "model",
    [
        DMDcForecaster(),
        RidgeForecaster(1e-10),
        RidgeForecaster(1e-10, differences=False),
        EDMDcForecaster(1, 0, ridge=1e-10),
    ],
    ids=["dmdc", "ridge", "ridge of values", "edmdc"],
)
def test_a_linear_system_is_forecast_exactly(model):
    pytest.importorskip("pydmd")
    assert errors(model, process()).max() < 1e-4


def test_delays_stand_in_for_what_is_not_seen():
    pytest.importorskip("pydmd")
    data = process(hidden=True)
    one, three = (errors(DMDcForecaster(n), data).max() for n in (1, 3))
    assert three < 0.2 * one


def test_features_learn_what_is_not_linear():
    """x' = x^3 / ... has no matrix; random features come close."""
    generator = np.random.default_rng(1)
    parts = []
    for _ in range(4):
        u, x = generator.uniform(-1, 1, (399, 1)), [np.zeros(1)]
        for t in range(399):
            x.append(np.sin(2 * x[-1]) + u[t])
        parts.append(Episode(np.array(x), u, np.zeros((399, 0))))
    splits = {"train": parts[:3], "test": parts[3:]}
    data = SeriesData("sine", ("x",), ("u",), (), 1.0, splits)
    windows, found = data.windows("test", L, 1), []
    for features in (0, 100):
        model = EDMDcForecaster(1, features, 1.0, 1e-8).fit(data, L, 1)
        error = model.predict(windows) - windows["future"]
        found.append(np.sqrt(np.mean(error**2)))
    assert found[1] < 0.05 * found[0]


def test_persistence_is_the_last_row():
    data = process()
    windows = data.windows("test", L, H)
    forecast = Persistence().fit(data, L, H).predict(windows)
    np.testing.assert_array_equal(
        forecast, np.repeat(windows["past"][:, -1:], H, axis=1)
    )


def test_a_column_that_never_varies():
    pytest.importorskip("pydmd")
    data = process()
    splits = {
        split: [
            Episode(
                np.pad(e.values, ((0, 0), (0, 1)), constant_values=30.0),
                e.controls,
                e.disturbances,
            )
            for e in part
        ]
        for split, part in data.splits.items()
    }
    data = SeriesData("x", (*data.observed, "z"), ("u", "v"), ("w",), 1, splits)
    for model in (
        DMDcForecaster(),
        RidgeForecaster(1e-10),
        EDMDcForecaster(2, 9),
    ):
        forecast = model.fit(data, L, H).predict(data.windows("test", L, H))
        np.testing.assert_allclose(forecast[..., 3], 30.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RidgeForecaster(0.0), "`ridge`"),
        (lambda: DMDcForecaster(0), "`delays`"),
        (lambda: EDMDcForecaster(features=-1), "`features`"),
        (lambda: EDMDcForecaster(9).fit(process(), L, H), "`history`"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
