"""Presets of `kovae.py`: what a model is, and how it is trained.

`new` has the sizes and weights that the report proposed for its second version,
on a model that is right; `old` those of its first version, which had no
controls; `effective` is what that code really ran, `orrery.zoo.legacy.kovae`.
`lean` is Orrery's own: half the width but twice the latent numbers, no dropout,
a bounded operator, dynamics that are bilinear in what acts, and a forecast that
counts for a hundred times as much as telling the past again.
"""

MODELS = {
    "lean": {
        "latent_dim": 128,
        "bilinear_rank": 64,
        "alpha": 100.0,
        "beta": 0.1,
    },
    "new": {
        "latent_dim": 64,
        "hidden_dim": 256,
        "koopman": "soft",
        "alpha": 1.0,
        "beta": 0.01,
        "gamma": 0.1,
        "margin": 0.0,
        "latent_weight": 0.1,
        "norm": "layer",
        "dropout": 0.1,
    },
    "old": {
        "latent_dim": 16,
        "hidden_dim": 64,
        "koopman": "free",
        "alpha": 0.1,
        "beta": 1e-3,
        "latent_weight": 0.1,
        "norm": None,
        "dropout": 0.0,
    },
}
# A rate that stays, unless it falls along a cosine to a tenth.
CONSTANT = {"warmup": 0.0, "final": 1.0}
TRAINING = {
    "lean": {
        "learning_rate": 2e-3,
        "clip_norm": 2.0,
        "warmup": 0.05,
        "final": 0.1,
    },
    "new": {"learning_rate": 1e-3, "clip_norm": 2.0, **CONSTANT},
    "old": {"learning_rate": 1e-3, "clip_norm": 1.0, **CONSTANT},
    # As published: `orrery.zoo.legacy.kovae.published_optimizer`.
    "effective": {},
}
