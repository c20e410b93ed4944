"""The named architectures of `HamiltonianLM`."""

# The hidden width makes the blocks' weights as many as those of attention and
# SwiGLU blocks of twice the width, to 0.4 %.
PRESETS = {
    "hamiltonian_lm_small": {
        "vocabulary_size": 30_000,
        "dim": 64,
        "num_layers": 4,
        "num_heads": 4,
        "mixer": "attention",
        "hidden_dim": 140,
        "num_steps": 4,
        "dropout": 0.1,
    },
    "hamiltonian_lm_stdlib": {
        "vocabulary_size": 8_000,
        "dim": 64,
        "num_layers": 4,
        "num_heads": 4,
        "mixer": "attention",
        "hidden_dim": 140,
        "num_steps": 4,
        "dropout": 0.1,
    },
}
