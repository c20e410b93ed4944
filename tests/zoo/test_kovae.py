"""The Koopman autoencoder: its loss, its causality, its uncertainty."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.datasets import Episode, ForecastWindows, SeriesData
from orrery.losses import gaussian_divergence
from orrery.metrics import central_interval
from orrery.zoo import KoVAE

X, M, P, L, H = 3, 2, 1, 4, 5
RNG = np.random.default_rng(0)


def process(rows=60, episodes=3, noise=0.0):
    """A linear system far from 0 and of unlike units."""
    generator = np.random.default_rng(1)
    a = 0.9 * np.linalg.qr(generator.normal(size=(X, X)))[0]
    b, e = generator.normal(size=(X, M)), generator.normal(size=(X, P))
    parts = []
    for _ in range(episodes):
        u = generator.normal(size=(rows - 1, M))
        d = generator.normal(size=(rows - 1, P))
        x = [generator.normal(size=X)]
        for t in range(rows - 1):
            x.append(a @ x[-1] + b @ u[t] + e @ d[t])
            x[-1] += noise * generator.normal(size=X)
        parts.append(
            Episode(
                np.array([1e3, 1.0, 1e-2]) * (np.array(x) + 5),
                100 * u + 50,
                d,
            )
        )
    splits = {"train": parts[:-1], "test": parts[-1:]}
    return SeriesData(
        "linear", ("a", "b", "c"), ("u", "v"), ("w",), 0.25, splits
    )


DATA = process()
WINDOWS = DATA.windows("test", L, H)
INPUTS = {n: WINDOWS[n] for n in ("past", "controls", "disturbances")}


def make(**kwargs):
    keras.utils.set_random_seed(0)
    arguments = {"latent_dim": 6, "hidden_dim": 8, "history": L, "horizon": H}
    arguments |= {"latent_weight": 0.1, "beta": 0.01}
    model = KoVAE(X, M, P, **{**arguments, **kwargs})
    model.adapt(DATA)
    return model


def forecast(model, inputs=INPUTS):
    return model.predict(inputs, verbose=0)


def fitted(model, data=DATA, epochs=2, **kwargs):
    model.compile(keras.optimizers.AdamW(1e-2, clipnorm=2.0))
    windows = ForecastWindows(data, history=L, horizon=H, batch_size=32)
    return model.fit(windows, epochs=epochs, shuffle=False, verbose=0, **kwargs)


@pytest.mark.parametrize(
    ("koopman", "decoder"),
    [
        ("bounded", "mlp"),
        ("stable", "linear"),
        ("free", "gru"),
        ("soft", "linear"),
        ("lstsq", "mlp"),
    ],
)
def test_it_learns(koopman, decoder):
    model = make(koopman=koopman, decoder=decoder)
    before = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    history = fitted(model, epochs=8).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    for weight, old in zip(model.trainable_weights, before, strict=True):
        new = ops.convert_to_numpy(weight)
        assert np.isfinite(new).all() and (new != old).any(), weight.path


def test_the_loss_is_its_formula():
    model = make(dropout=0.0, free_bits=0.3)
    model.compile("sgd")
    batch = ForecastWindows(DATA, "test", L, H, batch_size=99, shuffle=False)[0]
    found = model.evaluate(batch, batch_size=99, verbose=0, return_dict=True)

    def scaled(rows):
        mean, deviation = ops.convert_to_numpy(model.observed_scale)
        return (rows - mean) / deviation

    past, future = scaled(batch["past"]), scaled(batch["future"])
    u, d = (
        (batch[n] - s[0]) / s[1]
        for n, s in (
            ("controls", ops.convert_to_numpy(model.controls_scale)),
            ("disturbances", ops.convert_to_numpy(model.disturbances_scale)),
        )
    )
    acting = np.concatenate([u, d], axis=-1)
    seen = np.concatenate([np.zeros_like(acting[:, :1]), acting], axis=1)
    rows = np.concatenate([past, future], axis=1)
    mean, logvar, _ = (
        ops.convert_to_numpy(part)
        for part in model.encoder(np.concatenate([rows, seen], axis=-1))
    )
    a, b, e = model.operator.matrices()
    z, rolled = mean[:, L - 1], []
    for t in range(L - 1, L + H - 1):
        z = z @ a.T + u[:, t] @ b.T + d[:, t] @ e.T
        rolled.append(z)
    rolled = np.stack(rolled, axis=1)
    path = np.concatenate([mean[:, :L], rolled], axis=1).astype("float32")
    decoded = ops.convert_to_numpy(model.decoder(path))
    ahead = past[:, -1:] + decoded[:, L:] - decoded[:, L - 1 : L]
    expected = np.zeros_like(mean)
    expected[:, 1:] = mean[:, :-1] @ a.T + u @ b.T + d @ e.T
    noise = np.zeros_like(mean)
    noise[:, 1:] = ops.convert_to_numpy(model.prior.noise_logvar)
    divergence = ops.convert_to_numpy(
        gaussian_divergence(mean, logvar, expected, noise)
    )
    terms = {
        "reconstruction": np.mean((decoded[:, :L] - past) ** 2),
        "divergence": np.maximum(divergence, 0.3).sum(-1).mean(),
        "latent": np.mean((rolled - mean[:, L:]) ** 2),
        "forecast": np.mean((ahead - future) ** 2),
    }
    for name, value in terms.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    weights = model.term_weights()
    assert weights["divergence"] == 0.01 / 6
    total = sum(weights[name] * value for name, value in terms.items())
    np.testing.assert_allclose(found["loss"], total, rtol=1e-4)


def test_terms_that_weigh_nothing_are_not_computed():
    model = make(beta=0.0, latent_weight=0.0)
    history = fitted(model).history
    assert set(history) == {"loss", "reconstruction", "forecast"}


def test_a_penalty_bounds_what_is_free():
    radii = {}
    for koopman in ("free", "soft"):
        weighed = {"gamma": 1.0, "margin": 0.2} if koopman == "soft" else {}
        model = make(koopman=koopman, **weighed)
        fitted(model, epochs=10)
        radii[koopman] = np.abs(model.operator.eigenvalues()).max()
    assert radii["soft"] < radii["free"] - 0.01
    assert "penalty" in model.term_weights()


def test_units_are_no_matter():
    """In other units the scaled data are the same, and so is the forecast."""
    model, other = make(), make()
    factor = np.array([7.0, 1e-3, 1e4], "float32")
    episodes = {
        split: [
            Episode(e.values * factor, e.controls, e.disturbances) for e in part
        ]
        for split, part in DATA.splits.items()
    }
    other.adapt(
        SeriesData("x", ("a", "b", "c"), ("u", "v"), ("w",), 1.0, episodes)
    )
    found = forecast(other, {**INPUTS, "past": INPUTS["past"] * factor})
    np.testing.assert_allclose(found, forecast(model) * factor, rtol=1e-4)


def test_controls_act_from_their_row_on():
    model = make()
    for name in ("controls", "disturbances"):
        changed = {n: x.copy() for n, x in INPUTS.items()}
        changed[name][:, L + 2] += 1.0
        difference = np.abs(forecast(model, changed) - forecast(model))
        assert difference[:, :3].max() == 0
        assert difference[:, 3:].max(axis=(0, 2)).min() > 0


def test_nothing_of_the_future_is_in_a_forecast():
    """Also where the future is among the inputs, as in training."""
    model = make()
    given = {**INPUTS, "future": WINDOWS["future"]}
    other = {**INPUTS, "future": WINDOWS["future"] + 99.0}
    known = ops.convert_to_numpy(model(given))
    np.testing.assert_array_equal(known, ops.convert_to_numpy(model(other)))
    np.testing.assert_allclose(known, forecast(model), rtol=1e-4, atol=1e-3)


def test_skip_contains_persistence():
    model = make(decoder="linear")
    model.decoder.output_layer.kernel.assign(np.zeros((6, X)))
    np.testing.assert_allclose(
        forecast(model),
        np.repeat(INPUTS["past"][:, -1:], H, axis=1),
        rtol=1e-4,
        atol=1e-3,
    )


def test_a_log_is_forecast_in_one_call():
    model = make()
    rows = np.concatenate(
        [
            INPUTS["past"],
            INPUTS["controls"][:, :L],
            INPUTS["disturbances"][:, :L],
        ],
        axis=-1,
    )
    ahead = {n: INPUTS[n][:, L - 1 :] for n in ("controls", "disturbances")}
    found = model.forecast(rows, *ahead.values())
    np.testing.assert_allclose(found, forecast(model), rtol=1e-4, atol=1e-3)
    one = model.forecast(rows[0], *(x[0] for x in ahead.values()))
    np.testing.assert_allclose(one, found[0], rtol=1e-4, atol=1e-3)
    held = model.inputs_of(rows)
    for name in ("controls", "disturbances"):
        np.testing.assert_array_equal(
            held[name][:, L - 1 :],
            np.repeat(INPUTS[name][:, L - 1 : L], H, axis=1),
        )


def test_sensors_that_do_not_answer():
    model = make()
    rows = np.arange(L * (X + M + P), dtype="float32").reshape(L, -1)
    rows[0, 0] = rows[2, 0] = rows[-1, 1] = np.nan
    past = model.inputs_of(rows)["past"][0]
    step = X + M + P
    assert past[:, 0].tolist() == [step, step, step, 3 * step]
    assert past[:, 1].tolist() == [1, 1 + step, 1 + 2 * step, 1 + 2 * step]
    assert np.isfinite(model.forecast(rows)).all()
    rows[:, 2] = np.nan
    with pytest.raises(ValueError, match="window 0, column 2"):
        model.forecast(rows)


def test_what_was_never_seen_is_flagged():
    model = make()
    seen = DATA.windows("train", L, H)
    assert not model.outside_range(seen).any()
    seen["controls"][3, -1, 1] = 1e6
    seen["past"][5, 0, 0] = -1e6
    flags = model.outside_range(seen)
    assert np.argwhere(flags).tolist() == [[3, X + 1], [5, 0]]


def test_ensembles_are_the_forecast_with_noise():
    model = make(decoder="linear")
    inputs = {n: x[:2] for n, x in INPUTS.items()}
    members = model.forecast_ensemble(inputs, samples=4000, seed=1)
    assert members.shape == (2, 4000, H, X)
    spread = members.std(axis=1)
    deviation = ops.convert_to_numpy(model.observed_scale)[1]
    # At the start as much as the data vary; what is linear adds to it.
    assert (spread > deviation).all()
    model.observation_variance.assign(np.zeros(X))
    moved = model.forecast_ensemble(inputs, samples=4000, seed=1)
    np.testing.assert_allclose(
        spread, np.hypot(deviation, moved.std(axis=1)), rtol=0.1
    )
    error = members.mean(axis=1) - forecast(model, inputs)
    assert np.abs(error / spread).max() < 0.1
    again = model.forecast_ensemble(inputs, samples=4000, seed=1)
    np.testing.assert_array_equal(moved, again)


def test_the_variance_of_what_is_observed_is_that_of_the_decoder():
    model = make()
    model.observation_variance.assign(np.zeros(X))
    model.compile(keras.optimizers.SGD(0.0))
    batch = ForecastWindows(DATA, "test", L, H, batch_size=99, shuffle=False)
    model.fit(batch, epochs=1, shuffle=False, verbose=0)
    found = ops.convert_to_numpy(model.observation_variance)
    model.reset_metrics()
    mean = model.evaluate(batch, verbose=0, return_dict=True)["reconstruction"]
    # One hundredth of the way; z is drawn in training, and is the mean here.
    assert found.mean() == pytest.approx(0.01 * mean, rel=0.5)
    assert len(set(found.tolist())) == X


def test_calibrated_intervals_hold_what_they_say():
    data = process(rows=300, noise=0.3)
    model = make()
    model.adapt(data)
    fitted(model, data, epochs=4)
    windows = data.windows("train", L, H)
    inputs = {n: windows[n] for n in INPUTS}
    half = [
        ({n: x[k::2] for n, x in inputs.items()}, windows["future"][k::2])
        for k in range(2)
    ]
    stretch = model.calibrate(*half[0], level=0.8)
    assert stretch.shape == (H, X)
    for part, least in zip(half, (0.8, 0.7), strict=True):
        members = model.forecast_ensemble(part[0])
        low, high = central_interval(members, 0.8)
        covered = ((low <= part[1]) & (part[1] <= high)).mean(axis=0)
        assert covered.min() >= least - 0.01 and covered.max() < 0.9
    with pytest.raises(ValueError, match="at least 5 windows"):
        model.calibrate(
            {n: x[:3] for n, x in inputs.items()}, windows["future"][:3], 0.8
        )


def test_the_linear_model_is_the_forecast():
    model = make(decoder="linear", skip=None)
    system = model.linear_model()
    scaled = [
        (INPUTS[n] - s[0]) / s[1]
        for n, s in (
            ("past", ops.convert_to_numpy(model.observed_scale)),
            ("controls", ops.convert_to_numpy(model.controls_scale)),
            ("disturbances", ops.convert_to_numpy(model.disturbances_scale)),
        )
    ]
    past, u, d = (x.astype("float32") for x in scaled)
    acting = np.concatenate([u, d], -1)[:, : L - 1]
    seen = np.pad(acting, ((0, 0), (1, 0), (0, 0)))
    z = ops.convert_to_numpy(
        model.encoder(np.concatenate([past, seen], axis=-1))[0]
    )[:, -1]
    rows = []
    for t in range(L - 1, L + H - 1):
        z = z @ system["A"].T + u[:, t] @ system["B"].T
        z = z + d[:, t] @ system["E"].T
        rows.append(z @ system["C"].T + system["offset"])
    mean, deviation = ops.convert_to_numpy(model.observed_scale)
    np.testing.assert_allclose(
        np.stack(rows, axis=1) * deviation + mean, forecast(model), rtol=1e-4
    )
    with pytest.raises(ValueError, match="decoder='linear'"):
        make().linear_model()
    with pytest.raises(ValueError, match="bilinear_rank=0"):
        make(decoder="linear", bilinear_rank=2).linear_model()


def test_the_spectrum_in_hours():
    model = make(latent_dim=2, koopman="stable")
    model.operator.nu.assign(np.log(np.expm1([0.1])))
    model.operator.theta.assign([np.pi / 4])
    modes = model.spectrum(step=0.25)
    np.testing.assert_allclose(modes["modulus"], np.exp(-0.1), rtol=1e-5)
    np.testing.assert_allclose(modes["time_constant"], 2.5, rtol=1e-4)
    np.testing.assert_allclose(modes["period"], 2.0, rtol=1e-5)


def test_a_process_on_its_own():
    episodes = [
        Episode(e.values, np.zeros((59, 0)), np.zeros((59, 0)))
        for e in DATA.splits["train"]
    ]
    data = SeriesData("x", ("a", "b", "c"), (), (), 1.0, {"train": episodes})
    model = KoVAE(X, history=L, horizon=H, latent_dim=4, hidden_dim=6)
    model.adapt(data)
    assert np.isfinite(fitted(model, data).history["loss"]).all()
    assert model.forecast(episodes[0].values[:L]).shape == (H, X)


def test_a_file_keeps_everything(tmp_path):
    model = make(koopman="lstsq")
    fitted(model)
    model.calibrate(INPUTS, WINDOWS["future"])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        forecast(loaded), forecast(model), rtol=1e-4, atol=1e-3
    )
    members = [m.forecast_ensemble(INPUTS, 5) for m in (model, loaded)]
    np.testing.assert_allclose(*members, rtol=1e-4)
    assert loaded.get_config() == model.get_config()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"koopman": "dense"}, "`koopman`"),
        ({"decoder": "bigru"}, "`decoder`"),
        ({"beta": -1.0}, "`beta`"),
        ({"alpha": 0.0}, "`alpha`"),
        ({"koopman": "free", "gamma": 1.0}, "`gamma` and `margin`"),
        ({"koopman": "bounded", "margin": 0.1}, "`gamma` and `margin`"),
        ({"koopman": "soft", "gamma": 0.0}, "`gamma`"),
        ({"beta": 0.0, "free_bits": 0.1}, "`free_bits`"),
        ({"skip": "first"}, "`skip`"),
        ({"horizon": 0}, "`horizon`"),
        ({"latent_dim": 5, "koopman": "stable"}, "`latent_dim`"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_bad_rows():
    model = make()
    rows = np.zeros((L, X + M + P))
    for arguments, message in (
        ((rows[1:],), "`last_rows`"),
        ((rows, np.zeros((H - 1, M))), "`future_controls`"),
        ((rows, np.full((H, M), np.nan)), "finite"),
        ((np.full_like(rows, np.inf),), "window 0, row 0, column 0"),
    ):
        with pytest.raises(ValueError, match=message):
            model.forecast(*arguments)
    with pytest.raises(ValueError, match="`future` must be among"):
        model.compile("sgd")
        model.fit(INPUTS, verbose=0)


def test_bilinear_dynamics_learn_a_product():
    """What is set multiplies what is there: no linear roll-out tells that."""
    generator, episodes = np.random.default_rng(0), []
    for _ in range(6):
        u, x = generator.uniform(0, 1, (60, 1)), [1.0]
        for row in u[:, 0]:
            x.append(x[-1] + 0.3 * (1 - x[-1]) - 0.6 * row * x[-1])
        rows = np.array(x)[:, None]
        episodes.append(Episode(rows, u, np.zeros((60, 0))))
    data = SeriesData("x", ("a",), ("u",), (), 1.0, {"train": episodes})
    errors = {}
    for rank in (0, 4):
        keras.utils.set_random_seed(0)
        model = KoVAE(
            1,
            1,
            0,
            4,
            8,
            latent_dim=2,
            hidden_dim=8,
            decoder="linear",
            bilinear_rank=rank,
            beta=0.0,
        )
        model.adapt(data)
        model.compile(keras.optimizers.Adam(1e-2))
        windows = ForecastWindows(data, "train", 4, 8, batch_size=64)
        model.fit(windows, epochs=40, shuffle=False, verbose=0)
        windows = data.windows("train", 4, 8)
        inputs = {"past": windows["past"], "controls": windows["controls"]}
        forecast = model.predict(inputs, verbose=0)
        errors[rank] = np.mean((forecast - windows["future"]) ** 2)
    assert errors[4] < 0.5 * errors[0]
