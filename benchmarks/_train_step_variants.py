"""What `train_step.py` measures: sizes, and the variants installed here."""

import importlib.util
import itertools
from typing import NamedTuple

SIZES = {
    "d64": {
        "model": {
            "vocabulary_size": 30_000,
            "dim": 64,
            "num_layers": 4,
            "num_heads": 4,
            "hidden_dim": 128,
        },
        "preset": None,
        "koopman": {"lift_dim": 128},
        # As many weights in a block as attention and SwiGLU have.
        "hamiltonian": {"hidden_dim": 140},
        "batch": 32,
        "length": 128,
        "dropout": 0.1,
        "threads": None,
    },
    "koopman_lm_small": {
        "model": {
            "vocabulary_size": 30_000,
            "dim": 112,
            "num_layers": 5,
            "num_heads": 4,
            "hidden_dim": 304,
        },
        "preset": "koopman_lm_small",
        "koopman": {"lift_dim": 128},
        "hamiltonian": {"hidden_dim": 336},
        "batch": 32,
        "length": 128,
        "dropout": 0.1,
        "threads": None,
    },
    "smoke": {
        "model": {
            "vocabulary_size": 300,
            "dim": 16,
            "num_layers": 4,
            "num_heads": 2,
            "hidden_dim": 24,
        },
        "preset": "koopman_lm_stdlib",
        "koopman": {"lift_dim": 8},
        "hamiltonian": {"hidden_dim": 24},
        "batch": 4,
        "length": 16,
        "dropout": 0.1,
        # A busy machine may run it: waiting threads would slow it manifold.
        "threads": 1,
    },
}


class Variant(NamedTuple):
    """One way to train one model."""

    model: str
    backend: str
    head: str
    compiled: str

    @property
    def name(self):
        return "-".join(self)

    @property
    def mathematics(self):
        """Variants of the same mathematics must agree in their steps."""
        same = self.model in ("peer", "base", "koopman")
        return "koopman" if same else self.model

    @property
    def family(self):
        """Models of one family start from the same weights."""
        return self.mathematics.removesuffix("_base")


def all_variants(sizes, backends):
    """Every variant that is installed, the peers first."""
    variants = []
    if installed("torch"):
        heads = ["naive", "chunked"]
        import torch

        if hasattr(torch.nn.functional, "linear_cross_entropy"):
            heads.append("library")
        variants = [
            Variant("peer", "torch", head, compiled)
            for head in heads
            for compiled in ("eager", "compile")
        ]
    models = ["base-fused", "base-naive", "koopman-fused", "lstm-fused"]
    models += ["gpt2-default"] if installed("keras_hub") else []
    if sizes["preset"]:
        models += ["preset_base-fused", "preset-fused"]
    for backend, model in itertools.product(backends, models):
        name, head = model.split("-")
        variants.append(Variant(name, backend, head, "auto"))
        # Keras' LSTM does not compile with XLA on TensorFlow.
        if backend == "tensorflow" and name != "lstm":
            variants.append(Variant(name, backend, head, "xla"))
    return variants


def installed(package):
    return importlib.util.find_spec(package) is not None
