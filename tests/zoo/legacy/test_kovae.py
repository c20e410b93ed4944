"""The report's autoencoder: that its faults are there."""

import keras
import numpy as np
from keras import ops
from orrery.datasets import Episode, ForecastWindows, SeriesData
from orrery.zoo.legacy.kovae import EffectiveKoVAE, published_optimizer

L, H = 6, 4
RNG = np.random.default_rng(0)


def process():
    parts = [
        Episode(
            *(RNG.normal(size=(n, w)) for n, w in ((50, 3), (49, 2), (49, 1)))
        )
        for _ in range(2)
    ]
    splits = {"train": parts[:1], "test": parts[1:]}
    return SeriesData("x", ("a", "b", "c"), ("u", "v"), ("w",), 1.0, splits)


DATA = process()


def make():
    keras.utils.set_random_seed(0)
    model = EffectiveKoVAE(3, 2, 1, L, H, latent_dim=4, hidden_dim=8, seed=1)
    model.adapt(DATA)
    return model


def test_it_is_trained_without_a_forecast(tmp_path):
    model = make()
    model.compile(keras.optimizers.AdamW(1e-3))
    windows = ForecastWindows(DATA, history=L, horizon=H, batch_size=16)
    history = model.fit(windows, shuffle=False, verbose=0).history
    assert set(history) == {"loss", "reconstruction", "divergence", "agreement"}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one, two in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, two)))


def test_controls_to_come_are_ignored():
    """And what is forecast is another sample every time."""
    windows = DATA.windows("test", L, H)
    inputs = {n: windows[n] for n in ("past", "controls", "disturbances")}
    changed = {n: x.copy() for n, x in inputs.items()}
    for name in ("controls", "disturbances"):
        changed[name][:, L:] += 99.0
    found = [make().predict(x, verbose=0) for x in (inputs, changed)]
    np.testing.assert_array_equal(*found)
    model = make()
    one, two = (model.predict(inputs, verbose=0) for _ in range(2))
    assert np.abs(one - two).max() > 1e-3


def test_the_rate_is_lowest_halfway():
    """And back where it was at the end, for it is stepped twice an epoch."""
    optimizer = published_optimizer(steps_per_epoch=42)
    schedule = optimizer.get_config()["learning_rate"]
    assert schedule["config"] == {"steps_per_epoch": 42}
    rates = [float(optimizer._learning_rate(42 * e + 41)) for e in range(402)]
    assert np.argmin(rates) in (200, 201)
    np.testing.assert_allclose(
        [rates[0], rates[200], rates[401]], [1e-4, 1e-5, 1e-4], rtol=1e-3
    )
    assert optimizer.weight_decay == 1e-3 and optimizer.global_clipnorm == 5.0
