"""What `koopman_lm.py` does where a flag is not given."""

# A text file takes those of stdlib.
DEFAULTS = {
    "stdlib": {
        "preset": "koopman_lm_stdlib",
        "epochs": 4,
        "operator_epochs": 1,
        "learning_rate": 4e-3,
    },
    "wikitext2": {
        "preset": "koopman_lm_small",
        "epochs": 10,
        "operator_epochs": 2,
        "learning_rate": 2e-3,
    },
}
# A saved model has its architecture, and learns a new text slowly.
FINE_TUNING = {"preset": None, "learning_rate": 5e-4}
