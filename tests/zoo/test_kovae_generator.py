"""The generator: its loss, what it draws, series with missing rows."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.datasets import drop_values, sines
from orrery.losses import gaussian_divergence
from orrery.zoo import KoVAEGenerator

SERIES = sines(32, length=6, features=3)


def make(**kwargs):
    keras.utils.set_random_seed(0)
    arguments = {"length": 6, "latent_dim": 4, "hidden_dim": 5, "num_layers": 1}
    return KoVAEGenerator(3, **{**arguments, **kwargs})


@pytest.mark.parametrize("irregular", [False, True])
@pytest.mark.parametrize("history", ["prior", "posterior"])
def test_it_learns(history, irregular):
    model = make(history=history, irregular=irregular, prediction_weight=1.0)
    model.build()
    x = drop_values(SERIES, 0.3) if irregular else SERIES
    before = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    model.compile(keras.optimizers.Adam(1e-2))
    found = model.fit(x, batch_size=16, epochs=15, verbose=0).history
    assert found["reconstruction"][-1] < 0.7 * found["reconstruction"][0]
    for weight, old in zip(model.trainable_weights, before, strict=True):
        new = ops.convert_to_numpy(weight)
        assert np.isfinite(new).all() and (new != old).any(), weight.path


@pytest.mark.parametrize("history", ["prior", "posterior"])
def test_batches_need_not_be_of_one_size(history):
    model = make(history=history)
    model.compile("adam")
    found = model.fit(SERIES[:10], batch_size=4, epochs=1, verbose=0).history
    assert np.isfinite(found["loss"]).all()


def test_the_loss_is_its_formula():
    model = make(history="posterior", kl_weight=0.3, prediction_weight=2.0)
    model.compile("sgd")
    found = model.evaluate(SERIES, batch_size=32, verbose=0, return_dict=True)
    mean, logvar, z = model.encoder(SERIES)
    expected = model.prior(z)
    decoded = ops.convert_to_numpy(model.decoder(z))
    divergence = gaussian_divergence(mean, logvar, *expected)
    z = ops.convert_to_numpy(z).astype("float64")
    before, after = (x.reshape(-1, 4) for x in (z[:, :-1], z[:, 1:]))
    linear = np.linalg.lstsq(before, after, rcond=None)[0]
    error = np.mean((before @ linear - after) ** 2)
    terms = {
        "reconstruction": ((decoded - SERIES) ** 2).sum(axis=(1, 2)).mean(),
        # In nats of a row.
        "divergence": ops.convert_to_numpy(divergence).sum(axis=2).mean(),
        "prediction": error / np.linalg.norm(before @ linear),
    }
    for name, value in terms.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, err_msg=name)
    weights = {"reconstruction": 1.0, "divergence": 0.3 * 6, "prediction": 2.0}
    total = sum(weights[name] * value for name, value in terms.items())
    np.testing.assert_allclose(found["loss"], total, rtol=1e-3)


def test_a_term_without_weight_is_left_out():
    model = make(kl_weight=0.0, prediction_weight=2.0)
    model.compile("sgd")
    found = model.evaluate(SERIES, batch_size=32, verbose=0, return_dict=True)
    assert set(found) == {"loss", "reconstruction", "prediction"}
    total = found["reconstruction"] + 2 * found["prediction"]
    np.testing.assert_allclose(found["loss"], total, rtol=1e-5)


def test_what_was_not_seen_is_not_reconstructed():
    model = make(irregular=True, kl_weight=0.0, prediction_weight=0.0)
    model.compile("sgd")
    given = drop_values(SERIES, 0.5, seed=1)
    found = model.evaluate(given, batch_size=32, verbose=0, return_dict=True)
    decoded = model.predict(given, verbose=0)
    error = (decoded - given["values"]) ** 2 * given["mask"]
    np.testing.assert_allclose(
        found["loss"],
        error.sum(axis=(1, 2)).mean() / given["mask"].mean(),
        rtol=1e-4,
    )


def test_new_series():
    model = make()
    series = model.generate(20, seed=3, batch_size=8)
    assert series.shape == (20, 6, 3)
    assert 0 < series.min() and series.max() < 1
    assert np.ptp(series, axis=0).min() > 0
    np.testing.assert_array_equal(
        series, model.generate(20, seed=3, batch_size=8)
    )
    assert (series != model.generate(20, seed=4, batch_size=8)).any()


def test_a_file_keeps_everything(tmp_path):
    model = make(irregular=True)
    model.compile("adam")
    model.fit(drop_values(SERIES, 0.2), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.generate(5), model.generate(5), atol=1e-6)
    assert loaded.get_config() == model.get_config()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"length": 1}, "`length`"),
        ({"kl_weight": -1.0}, "`kl_weight`"),
        ({"history": "both"}, "`history`"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
