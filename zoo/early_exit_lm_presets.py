"""The named architectures of `EarlyExitLM`."""

PRESETS = {
    "early_exit_lm_small": {
        "vocabulary_size": 256,
        "dim": 192,
        "blocks": (3, 7),
        "num_heads": 6,
        "num_key_value_heads": 1,
        "exit_weight": 1.0,
        "random_exits": 1.0,
    },
    "early_exit_lm_stdlib": {
        "vocabulary_size": 256,
        "dim": 64,
        "blocks": (1, 3),
        "num_heads": 4,
        "num_key_value_heads": 1,
        "exit_weight": 1.0,
        "random_exits": 1.0,
    },
}
