"""The named architectures of `KoopmanLM`."""

PRESETS = {
    "koopman_lm_small": {
        "vocabulary_size": 30_000,
        "dim": 112,
        "num_layers": 5,
        "num_heads": 4,
        "hidden_dim": 304,
        "mixer": ["koopman", "attention", "koopman", "attention", "koopman"],
        "dropout": 0.15,
        "koopman": {"operator": "gradient", "delays": 2, "lift_dim": 224},
        "replacement": 0.5,
    },
    "koopman_lm_stdlib": {
        "vocabulary_size": 8_000,
        "dim": 64,
        "num_layers": 4,
        "num_heads": 4,
        "hidden_dim": 128,
        "mixer": ["koopman", "attention", "koopman", "attention"],
        "dropout": 0.2,
        "koopman": {"operator": "gradient", "delays": 2, "lift_dim": 128},
        "replacement": 0.5,
    },
}
