"""How well made series pass for real ones: the scores of TimeGAN."""

import keras
import numpy as np


def discriminative_score(
    real, made, units=None, steps=2000, batch_size=128, seed=0
):
    """How much better than chance a judge tells real series from made ones.

    A GRU with a logistic output is trained on four fifths of both; the score is
    `|0.5 - accuracy|` on the rest: 0 for series nobody can tell apart, 0.5 for
    those that give themselves away. With n series left to judge, chance alone
    gives about `0.4 / sqrt(n)`: compare with a score of real series against
    other real ones.

    Args:
        real: float array `(N, length, features)`.
        made: float array `(M, length, features)`.
        units: int > 0, of the GRU. Defaults to `None`, half of the features as
            in TimeGAN: two or three, a lenient judge.
        steps: int > 0, of training. Defaults to `2000`.
        batch_size: int > 0, of real series and of made ones each. Defaults to
            `128`.
        seed: int >= 0, of the split, the judge and its batches. Defaults to
            `0`.

    Returns:
        float in [0, 0.5].

    Raises:
        ValueError: if the shapes do not fit.

    Reference:
        - Yoon, Jarrett, van der Schaar: Time-series generative adversarial
          networks, NeurIPS 2019.
    """
    real, made = _checked(real, made)
    generator = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    parts = [_split(rows, generator) for rows in (real, made)]
    judge = _network(real.shape[-1], units or real.shape[-1] // 2, False)
    judge.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )
    labels = np.repeat([1.0, 0.0], batch_size).astype("float32")[:, None]
    for _ in range(steps):
        rows = [
            train[generator.integers(len(train), size=batch_size)]
            for train, _ in parts
        ]
        judge.train_on_batch(np.concatenate(rows), labels)
    right = []
    for label, (_, test) in zip((True, False), parts, strict=True):
        logits = judge.predict(test, batch_size=1024, verbose=0)
        right.append((logits[:, 0] > 0) == label)
    return float(abs(0.5 - np.concatenate(right).mean()))


def predictive_score(
    real, made, units=None, steps=5000, batch_size=128, seed=0
):
    """How well who learned from made series forecasts real ones.

    A GRU with a logistic output is trained on made series to tell the last
    feature one row ahead from the others; the score is its mean absolute error
    on all real series. Beside it belongs the score of one who learned from real
    series.

    Args:
        real: float array `(N, length, features)`, features >= 2.
        made: float array `(M, length, features)`.
        units: int > 0, of the GRU. Defaults to `None`, half of the features as
            in TimeGAN.
        steps: int > 0, of training. Defaults to `5000`.
        batch_size: int > 0. Defaults to `128`.
        seed: int >= 0. Defaults to `0`.

    Returns:
        float >= 0, in the unit of the series.

    Raises:
        ValueError: if the shapes do not fit or there is one feature only.

    Reference:
        - Yoon, Jarrett, van der Schaar: Time-series generative adversarial
          networks, NeurIPS 2019.
    """
    real, made = _checked(real, made)
    if real.shape[-1] < 2:
        raise ValueError(
            "`real` must have two features or more: the last one is told from "
            f"the others. Received: shape {real.shape}"
        )
    generator = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    network = _network(
        real.shape[-1] - 1, units or real.shape[-1] // 2, True, "sigmoid"
    )
    network.compile(keras.optimizers.Adam(1e-3), "mae")
    for _ in range(steps):
        rows = made[generator.integers(len(made), size=batch_size)]
        network.train_on_batch(rows[:, :-1, :-1], rows[:, 1:, -1:])
    forecast = network.predict(real[:, :-1, :-1], batch_size=1024, verbose=0)
    return float(np.abs(forecast - real[:, 1:, -1:]).mean())


def _network(features, units, every_row, activation=None):
    """A GRU of one layer and a number for each row, or for the series."""
    inputs = keras.Input((None, features))
    hidden = keras.layers.GRU(max(1, units), return_sequences=every_row)(inputs)
    outputs = keras.layers.Dense(1, activation=activation)(hidden)
    return keras.Model(inputs, outputs)


def _split(rows, generator):
    order = generator.permutation(len(rows))
    count = int(0.8 * len(rows))
    return rows[order[:count]], rows[order[count:]]


def _checked(real, made):
    real, made = (np.asarray(x, "float32") for x in (real, made))
    if real.ndim != 3 or real.shape[1:] != made.shape[1:] or real.shape[1] < 2:
        raise ValueError(
            "`real` and `made` must be of one shape (any, length, features), "
            f"length 2 or more. Received: {real.shape} and {made.shape}"
        )
    for name, rows in (("real", real), ("made", made)):
        if len(rows) < 5:
            raise ValueError(
                f"`{name}` must hold five series or more. Received: {len(rows)}"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"`{name}` must be finite.")
    return real, made
