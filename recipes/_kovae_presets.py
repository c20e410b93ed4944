"""Presets of `kovae.py`: what a model is, and how it is trained.

`new` is Orrery's. `old` has the sizes and weights of the report's first
version, whose faults live in `orrery.zoo.legacy.kovae` and run as `effective`.
"""

MODELS = {
    "new": {
        "latent_dim": 64,
        "hidden_dim": 256,
        "alpha": 1.0,
        "beta": 0.01,
        "norm": "layer",
        "dropout": 0.1,
    },
    "old": {
        "latent_dim": 16,
        "hidden_dim": 64,
        "koopman": "free",
        "alpha": 0.1,
        "beta": 1e-3,
        "norm": None,
        "dropout": 0.0,
    },
}
TRAINING = {
    "new": {"learning_rate": 2e-3, "clip_norm": 2.0},
    "old": {"learning_rate": 1e-3, "clip_norm": 1.0},
    "effective": {"learning_rate": 1e-4, "clip_norm": 5.0},
}
