"""Encoder, prior and decoder of a Koopman variational autoencoder."""

import numpy as np
import pytest
from keras import ops
from orrery.layers import (
    KoVAEDecoder,
    KoVAEEncoder,
    KoVAEPrior,
    StableKoopman,
)
from orrery.layers.kovae_prior import path_operator

T, X, K, M, P = 5, 3, 4, 2, 1
RNG = np.random.default_rng(0)
SERIES = RNG.normal(size=(6, T, X)).astype("float32")
Z = RNG.normal(size=(6, T, K)).astype("float32")
U = RNG.normal(size=(6, T - 1, M)).astype("float32")
D = RNG.normal(size=(6, T - 1, P)).astype("float32")


def to_numpy(x):
    return ops.convert_to_numpy(x).astype("float64")


def linear_prior():
    operator = StableKoopman(K, M, P, "free")
    return KoVAEPrior(K, operator=operator)


@pytest.mark.parametrize("norm", ["layer", "batch", None])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_encoder_contract(contract, norm, bidirectional):
    contract(
        lambda: KoVAEEncoder(K, 8, 2, bidirectional, norm, dropout=0.0, seed=1),
        SERIES,
    )


def test_encoder_is_causal_unless_it_looks_both_ways():
    changed = SERIES.copy()
    changed[:, 3] += 1.0
    for bidirectional in (False, True):
        encoder = KoVAEEncoder(K, 8, bidirectional=bidirectional)
        before, after = (to_numpy(encoder(x)[0]) for x in (SERIES, changed))
        assert np.array_equal(before[:, :3], after[:, :3]) != bidirectional
        assert not np.allclose(before[:, 3:], after[:, 3:])


def test_samples_have_the_moments_that_are_said():
    encoder = KoVAEEncoder(K, 8, seed=3)
    many = np.repeat(SERIES[:1], 20_000, axis=0)
    mean, logvar, z = map(to_numpy, encoder(many, sample=True))
    deviation = np.exp(0.5 * logvar[0])
    assert (np.abs(z.mean(0) - mean[0]) < 0.05 * deviation).all()
    np.testing.assert_allclose(z.std(0), deviation, rtol=0.03)
    mean, _, z = encoder(many[:2])
    np.testing.assert_array_equal(to_numpy(mean), to_numpy(z))


def test_the_log_variance_stays_in_its_range():
    encoder = KoVAEEncoder(K, 8, logvar_range=(-0.1, 0.1))
    encoder.build((None, T, X))
    encoder.logvar.bias.assign(np.linspace(-9, 9, K))
    found = to_numpy(encoder(SERIES)[1])
    assert np.abs(found).max() <= 0.1 + 1e-7
    assert found[..., 0].max() < 0 < found[..., -1].min()


@pytest.mark.parametrize("kind", ["mlp", "linear", "gru", "bigru"])
def test_decoder_contract(contract, kind):
    contract(lambda: KoVAEDecoder(X, 8, kind, 2, dropout=0.0), Z)


def test_who_reads_a_row_by_itself():
    changed = Z.copy()
    changed[:, 2] += 1.0
    same = {"mlp": [0, 1, 3, 4], "linear": [0, 1, 3, 4], "gru": [0, 1]}
    for kind, rows in (*same.items(), ("bigru", [])):
        decoder = KoVAEDecoder(X, 8, kind)
        before, after = (to_numpy(decoder(z)) for z in (Z, changed))
        unchanged = np.isclose(before, after, atol=1e-6).all(axis=(0, 2))
        assert np.flatnonzero(unchanged).tolist() == rows, kind


def test_a_linear_decoder_is_a_matrix():
    decoder = KoVAEDecoder(X, kind="linear")
    out = to_numpy(decoder(Z))
    kernel, bias = map(to_numpy, decoder.output_layer.weights)
    np.testing.assert_allclose(out, Z @ kernel + bias, atol=1e-6)
    assert len(decoder.weights) == 2


def linear_reference(prior, z):
    a, b, e = prior.operator.matrices()
    mean = np.zeros_like(z, dtype="float64")
    mean[:, 1:] = z[:, :-1] @ a.T + U @ b.T + D @ e.T
    logvar = np.zeros_like(mean)
    logvar[:, 1:] = to_numpy(prior.noise_logvar)
    return [mean, logvar]


def test_linear_prior_contract(contract):
    contract(
        linear_prior,
        Z,
        call_kwargs={"u": U, "d": D},
        reference=lambda prior, z: linear_reference(prior, Z),
        variable_length=False,
    )


def test_recurrent_prior_contract(contract):
    contract(lambda: KoVAEPrior(K, 8), Z)


def test_a_prior_knows_the_past_alone():
    prior, changed = KoVAEPrior(K, 8), Z.copy()
    changed[:, 2] += 1.0
    before, after = (to_numpy(prior(z)[0]) for z in (Z, changed))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert not np.allclose(before[:, 3], after[:, 3])


def test_drawn_paths_are_those_that_a_call_expects():
    """Sampling goes step by step, judging all at once: the same moments."""
    prior = KoVAEPrior(K, 8)
    prior.build((None, T, K))
    path = prior.sample(RNG.normal(size=(20_000, 3, K)))
    mean, logvar = map(to_numpy, prior(path))
    score = (to_numpy(path) - mean) / np.exp(0.5 * logvar)
    assert np.abs(score.mean(axis=0)).max() < 0.04
    np.testing.assert_allclose(score.std(axis=0), 1.0, atol=0.03)


@pytest.mark.parametrize("mode", ["stable", "free"])
def test_noise_of_a_linear_roll_out(mode):
    prior = KoVAEPrior(K, operator=StableKoopman(K, M, P, mode))
    prior.build((None, T, K))
    prior.noise_logvar.assign(np.array([-9.0, -2.0, 0.0, 1.0]))
    z, u, d = (np.repeat(x[:1], 20_000, axis=0) for x in (Z[:, 0], U, D))
    noise = RNG.normal(size=(20_000, T - 1, K))
    paths = to_numpy(prior.roll_out(z, noise, u, d))
    assert paths.shape == (20_000, T - 1, K)
    sure = to_numpy(prior.operator(z[:1], u[:1], d[:1]))[0]
    a, _, _ = prior.operator.matrices()
    noise = np.diag(np.exp(to_numpy(prior.noise_logvar)))
    covariance = np.zeros((K, K))
    for step in range(T - 1):
        covariance = a @ covariance @ a.T + noise
        deviation = np.sqrt(np.diag(covariance))
        assert (
            np.abs(paths[:, step].mean(0) - sure[step]) < 0.05 * deviation
        ).all()
        np.testing.assert_allclose(
            np.cov(paths[:, step].T), covariance, atol=0.05 * covariance.max()
        )


def test_paths_without_noise_follow_the_operator():
    prior = KoVAEPrior(K, operator=StableKoopman(K))
    prior.build((None, T, K))
    noise = np.zeros((3, T, K))
    noise[:, 0] = Z[:3, 0]
    path = to_numpy(prior.sample(noise))
    a, _, _ = prior.operator.matrices()
    for before, after in zip(
        path.swapaxes(0, 1), path.swapaxes(0, 1)[1:], strict=False
    ):
        np.testing.assert_allclose(after, before @ a.T, atol=1e-6)


def test_the_operator_of_paths_is_the_least_squares_one():
    found = to_numpy(path_operator(Z))
    before, after = (
        z.reshape(-1, K).astype("float64") for z in (Z[:, :-1], Z[:, 1:])
    )
    expected = np.linalg.lstsq(before, after, rcond=None)[0].T
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_linear_paths_give_their_operator():
    operator = 0.5 * np.linalg.qr(RNG.normal(size=(K, K)))[0]
    path = [RNG.normal(size=(20, K))]
    for _ in range(3):
        path.append(path[-1] @ operator.T)
    found = to_numpy(path_operator(np.stack(path, axis=1).astype("float32")))
    np.testing.assert_allclose(found, operator, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KoVAEEncoder(latent_dim=0), "`latent_dim`"),
        (lambda: KoVAEEncoder(dropout=1.0), "`dropout`"),
        (lambda: KoVAEEncoder(norm="group"), "`norm`"),
        (lambda: KoVAEEncoder(logvar_range=(1.0, 1.0)), "`logvar_range`"),
        (lambda: KoVAEDecoder(X, kind="cnn"), "`kind`"),
        (lambda: KoVAEDecoder(0), "`output_dim`"),
        (lambda: KoVAEPrior(K, operator=StableKoopman(2 * K)), "`operator`"),
        (lambda: KoVAEPrior(K).roll_out(Z[:, 0], Z), "`operator`"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
