"""Forecasters and generators of one file forecast alike on every backend."""

import pathlib

import keras
import numpy as np
import pytest
from orrery.testing import compare_backends
from orrery.zoo import (
    DeepKoopman,
    GRUForecaster,
    KoVAE,
    KoVAEGenerator,
    MamKO,
    MLPForecaster,
)

X, M, P, L, H = 3, 2, 1, 4, 5
SMALL = {"latent_dim": 6, "hidden_dim": 8}
OPERATORS = ("bounded", "stable", "free", "soft", "lstsq")
RNG = np.random.default_rng(0)
INPUTS = {
    "past": RNG.normal(size=(7, L, X)).astype("float32"),
    "controls": RNG.normal(size=(7, L + H - 1, M)).astype("float32"),
    "disturbances": RNG.normal(size=(7, L + H - 1, P)).astype("float32"),
}


def models():
    keras.utils.set_random_seed(0)
    size = (X, M, P, L, H)
    found = {
        f"kovae_{koopman}": KoVAE(*size, koopman=koopman, **SMALL)
        for koopman in OPERATORS
    }
    for decoder in ("linear", "gru"):
        found[f"kovae_{decoder}"] = KoVAE(*size, decoder=decoder, **SMALL)
    return found | {
        "mamko": MamKO(*size, conv_width=3, **SMALL),
        "mamko_stable": MamKO(*size, conv_width=3, spectrum="stable", **SMALL),
        "deep_koopman": DeepKoopman(*size, **SMALL),
        "gru": GRUForecaster(*size, hidden_dim=8),
        "mlp": MLPForecaster(*size, hidden_dim=8),
        "generator": KoVAEGenerator(2, length=6, **SMALL),
    }


def build(path):
    for name, model in models().items():
        if not model.built:
            model.build()
        model.save(pathlib.Path(path).with_name(f"{name}.keras"))


def run(path):
    arrays = {}
    for file in pathlib.Path(path).parent.glob("*.keras"):
        model, name = keras.saving.load_model(file), file.stem
        if name == "generator":
            arrays[name] = model.generate(4, batch_size=4)
            continue
        arrays[name] = model.predict_on_batch(INPUTS)
        if isinstance(model, KoVAE):
            arrays[f"{name}.ensemble"] = model.forecast_ensemble(INPUTS, 3)
            for part, matrix in zip(
                "ABE", model.operator.matrices(), strict=True
            ):
                arrays[f"{name}.{part}"] = matrix
    return arrays


@pytest.mark.cross_backend
def test_backends_agree(tmp_path):
    differences = compare_backends(__file__, tmp_path)
    assert len(differences) == 6 + 5 * (len(OPERATORS) + 2)
    assert max(d.absolute for d in differences.values()) < 1e-4, differences
