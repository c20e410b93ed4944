"""Judges of made series: chance for the same, certainty for the unlike."""

import keras
import numpy as np
import pytest
from orrery.metrics import discriminative_score, predictive_score

RNG = np.random.default_rng(0)


def series(count, slope=0.0):
    start = RNG.uniform(0, 0.5, (count, 1, 2))
    rows = start + 0.02 * (1 + slope) * np.arange(8)[:, None]
    # The second is what the first was, a row before.
    rows[:, 1:, 1] = rows[:, :-1, 0]
    return rows.astype("float32")


def test_a_judge_cannot_tell_the_same_apart():
    score = discriminative_score(series(400), series(400), steps=150)
    assert score < 0.1


def test_a_judge_tells_the_unlike_apart():
    unlike = RNG.uniform(0, 1, (400, 8, 2))
    score = discriminative_score(series(400), unlike, units=8, steps=600)
    assert score > 0.3


def test_a_forecast_is_learned_from_what_is_alike():
    real = series(300)
    same = predictive_score(real, series(300), units=8, steps=800)
    noise = RNG.uniform(0, 1, (300, 8, 2))
    other = predictive_score(real, noise, units=8, steps=800)
    assert same < 0.05 < other


def test_scores_repeat_with_the_seed():
    arguments = series(40), series(40)
    for score in (discriminative_score, predictive_score):
        one, two = (score(*arguments, steps=5, seed=2) for _ in range(2))
        assert one == pytest.approx(two, abs=1e-6)


def test_a_batch_holds_as_many_of_each_kind(monkeypatch):
    """As TimeGAN draws them: 128 real series and 128 made ones."""
    seen = []

    def train_on_batch(self, x, y):
        seen.append((len(x), y[:, 0].tolist()))

    monkeypatch.setattr(keras.Model, "train_on_batch", train_on_batch)
    for options, size in (({}, 128), ({"batch_size": 3}, 3)):
        discriminative_score(series(20), series(20), steps=1, **options)
        assert seen.pop() == (2 * size, [1.0] * size + [0.0] * size)


def test_bad_input():
    real = series(10)
    for score in (discriminative_score, predictive_score):
        for made, message in (
            (real[:, :-1], "one shape"),
            (real[:4], "five series"),
            (np.full_like(real, np.nan), "finite"),
        ):
            with pytest.raises(ValueError, match=message):
                score(real, made)
    with pytest.raises(ValueError, match="two features"):
        predictive_score(real[..., :1], real[..., :1])
