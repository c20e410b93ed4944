"""Every forecaster of the comparison: who it is, and how it is made."""

from _kovae_presets import MODELS
from orrery.zoo import (
    DeepKoopman,
    GRUForecaster,
    KoVAE,
    MamKO,
    MLPForecaster,
)
from orrery.zoo.legacy.kovae import EffectiveKoVAE
from orrery.zoo.linear_forecasters import (
    DMDcForecaster,
    EDMDcForecaster,
    Persistence,
    RidgeForecaster,
)

# No gradient, no seed.
LINEAR = {
    "persistence": Persistence,
    "ridge": lambda: RidgeForecaster(1e-5),
    "ridge, values": lambda: RidgeForecaster(1e-5, differences=False),
    "DMDc": lambda: DMDcForecaster(4),
    "EDMDc": lambda: EDMDcForecaster(4, 512),
}
LEARNED = {
    "MLP": (MLPForecaster, {}),
    "GRU": (GRUForecaster, {}),
    "deep Koopman": (DeepKoopman, {}),
    "MamKO": (MamKO, {}),
    "KoVAE": (KoVAE, MODELS["lean"]),
}
# What is changed of KoVAE, one thing at a time.
ABLATIONS = {
    "KoVAE, 64 latent": {"latent_dim": 64},
    "KoVAE, alpha 1": {"alpha": 1.0, "beta": 1e-3},
    "KoVAE, linear": {"bilinear_rank": 0},
    "KoVAE, linear, stable": {"bilinear_rank": 0, "koopman": "stable"},
    "KoVAE, linear, least squares": {"bilinear_rank": 0, "koopman": "lstsq"},
    "KoVAE, free": {"koopman": "free"},
    "KoVAE, soft": {"koopman": "soft"},
    "KoVAE, margin 0.05": {"koopman": "soft", "margin": 0.05},
    "KoVAE, no divergence": {"beta": 0.0},
    "KoVAE, latent term": {"latent_weight": 0.1},
    "KoVAE, linear decoder": {"decoder": "linear"},
    "KoVAE, GRU decoder": {"decoder": "gru"},
    "KoVAE, dropout": {"dropout": 0.1},
}
LEARNED |= {
    f"{name}, values": (model, {**options, "skip": None})
    for name, (model, options) in list(LEARNED.items())
}
LEARNED |= {
    name: (KoVAE, {**MODELS["lean"], **changed})
    for name, changed in ABLATIONS.items()
}
LEARNED["KoVAE, new"] = (KoVAE, MODELS["new"])
LEARNED["KoVAE, effective"] = (EffectiveKoVAE, {})
MAIN = (*LINEAR, "MLP", "GRU", "deep Koopman", "MamKO", "KoVAE")


def build(name, size, history, horizon, seed):
    """A new network of the comparison.

    Args:
        name: one of `LEARNED`.
        size: numbers of what is observed, set, and disturbs.
        history: int, rows seen.
        horizon: int, rows forecast.
        seed: int.
    """
    model, options = LEARNED[name]
    options = dict(options)
    if model in (KoVAE, EffectiveKoVAE):
        options["seed"] = seed
    if not any(size[1:]):
        options.pop("bilinear_rank", None)
    if model is MamKO:
        # As far back as the horizon asks for, and ten rows at least.
        options["conv_width"] = max(10, horizon - history + 2)
    return model(*size, history, horizon, **options)
