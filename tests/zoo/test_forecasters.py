"""Learned forecasters beside KoVAE: each learns, is causal and saves."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.datasets import Episode, ForecastWindows, SeriesData
from orrery.zoo import DeepKoopman, GRUForecaster, MamKO, MLPForecaster

X, M, P, L, H = 3, 2, 1, 4, 5
MODELS = {
    "mamko": (MamKO, {"latent_dim": 6, "hidden_dim": 8, "conv_width": 3}),
    "mamko stable": (MamKO, {"latent_dim": 6, "spectrum": "stable"}),
    "deep koopman": (DeepKoopman, {"latent_dim": 6, "hidden_dim": 8}),
    "stable deep koopman": (
        DeepKoopman,
        {"latent_dim": 6, "hidden_dim": 8, "koopman": "stable"},
    ),
    "gru": (GRUForecaster, {"hidden_dim": 8}),
    "mlp": (MLPForecaster, {"hidden_dim": 8}),
}


def process():
    generator = np.random.default_rng(1)
    a = 0.9 * np.linalg.qr(generator.normal(size=(X, X)))[0]
    b, e = generator.normal(size=(X, M)), generator.normal(size=(X, P))
    parts = []
    for _ in range(3):
        u, d = generator.normal(size=(59, M)), generator.normal(size=(59, P))
        x = [generator.normal(size=X)]
        for t in range(59):
            x.append(a @ x[-1] + b @ u[t] + e @ d[t])
        values = np.array([1e3, 1.0, 1e-2]) * (np.array(x) + 5)
        parts.append(Episode(values, 100 * u + 50, d))
    splits = {"train": parts[:2], "test": parts[2:]}
    return SeriesData("x", ("a", "b", "c"), ("u", "v"), ("w",), 0.25, splits)


DATA = process()
WINDOWS = DATA.windows("test", L, H)
INPUTS = {n: WINDOWS[n] for n in ("past", "controls", "disturbances")}


def make(name, skip="last"):
    keras.utils.set_random_seed(0)
    model, options = MODELS[name]
    model = model(X, M, P, L, H, skip, **options)
    model.adapt(DATA)
    return model


@pytest.mark.parametrize("skip", ["last", None])
@pytest.mark.parametrize("name", MODELS)
def test_it_learns(name, skip):
    model = make(name, skip)
    before = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(
        ForecastWindows(DATA, history=L, horizon=H, batch_size=32),
        epochs=12,
        shuffle=False,
        verbose=0,
    ).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    for weight, old in zip(model.trainable_weights, before, strict=True):
        new = ops.convert_to_numpy(weight)
        assert np.isfinite(new).all() and (new != old).any(), weight.path


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_the_scaled_error(name):
    model = make(name)
    model.compile("sgd")
    batch = ForecastWindows(DATA, "test", L, H, batch_size=99, shuffle=False)[0]
    found = model.evaluate(batch, batch_size=99, verbose=0)
    error = model.predict(INPUTS, verbose=0) - WINDOWS["future"]
    scaled = error / DATA.scales()["observed"][1]
    np.testing.assert_allclose(found, [np.mean(scaled**2)] * 2, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"mlp"}))
def test_controls_act_from_their_row_on(name):
    model = make(name)
    for group in ("controls", "disturbances"):
        changed = {n: x.copy() for n, x in INPUTS.items()}
        changed[group][:, L + 2] += 1.0
        before, after = (model.predict(x, verbose=0) for x in (INPUTS, changed))
        difference = np.abs(after - before)
        assert difference[:, :3].max() == 0
        assert difference[:, 3:].max(axis=(0, 2)).min() > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_file_keeps_everything(name, tmp_path):
    model = make(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(INPUTS, verbose=0),
        model.predict(INPUTS, verbose=0),
        rtol=1e-5,
    )
    assert loaded.get_config() == model.get_config()


def test_modes_of_mamko_are_those_its_windows_choose():
    model = make("mamko stable")
    modes = model.spectrum(0.25, INPUTS)
    assert (np.diff(modes["modulus"]) <= 0).all() and np.isinf(
        modes["period"]
    ).all()
    np.testing.assert_allclose(
        modes["modulus"], np.exp(-0.25 / modes["time_constant"]), rtol=1e-5
    )
    model.operator.alpha.assign(np.full(6, -40.0))  # Rates near zero.
    assert model.spectrum(0.25, INPUTS)["modulus"].min() > 1 - 1e-6


def test_mamko_is_affine_in_the_controls_to_come():
    model = make("mamko")
    one, two, both = ({n: x.copy() for n, x in INPUTS.items()} for _ in "123")
    one["controls"][:, L - 1 :] += 10.0
    two["controls"][:, L - 1 :, 0] -= 25.0
    both["controls"] += one["controls"] - INPUTS["controls"]
    both["controls"] += two["controls"] - INPUTS["controls"]
    base, one, two, both = (
        model.predict(x, verbose=0) for x in (INPUTS, one, two, both)
    )
    scale = DATA.scales()["observed"][1]
    np.testing.assert_allclose(
        (both - base) / scale, (one + two - 2 * base) / scale, atol=1e-4
    )


def test_deep_koopman_has_no_memory():
    model, changed = make("deep koopman"), dict(INPUTS)
    changed["past"] = INPUTS["past"].copy()
    changed["past"][:, :-1] += 99.0
    np.testing.assert_array_equal(
        *(model.predict(x, verbose=0) for x in (INPUTS, changed))
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MamKO(X, M, P, 4, 20, conv_width=10), "`history`"),
        (lambda: MamKO(X), "`control_dim`"),
        (lambda: GRUForecaster(X), "`control_dim`"),
        (lambda: DeepKoopman(X, koopman="lstsq"), "`koopman`"),
        (lambda: MLPForecaster(0), "`observed_dim`"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_data_of_another_width():
    with pytest.raises(ValueError, match="`data` must have the widths"):
        MLPForecaster(X, M).adapt(DATA)
