"""The Hamiltonian language model."""

import keras

from .._checks import check_real
from ..layers.attention_potential import AttentionPotential
from ..layers.hamiltonian import HamiltonianBlock
from ..layers.mlp_potential import MLPPotential
from .backbone import LanguageBackbone, make_mixer
from .hamiltonian_lm_presets import PRESETS

COUPLINGS = ("context", "attention_energy", "none")


@keras.saving.register_keras_serializable(package="orrery")
class HamiltonianLM(LanguageBackbone):
    """A causal language model whose blocks integrate Hamilton's equations.

    The backbone of `KoopmanLM` with a `HamiltonianBlock` in the place of
    attention and feed-forward network: half of the width are positions, half
    momenta, and a block moves them for the time `num_steps * step_size` along
    an energy of its own. What tokens know of each other enters through the
    energy: as a frozen context computed by the mixer (`"context"`), as wells
    at the keys of earlier tokens (`"attention_energy"`), or not at all
    (`"none"`). Energies of different blocks are different functions and are
    not compared; a model of one block with many steps is autonomous.

    Args:
        vocabulary_size: int, V. Defaults to `30000`.
        dim: int, even width d. Defaults to `64`.
        num_layers: int, number of blocks L. Defaults to `4`.
        num_heads: int, heads of the attention and resolvent mixers, and of
            `"attention_energy"`. Defaults to `4`.
        mixer: as in `KoopmanLM`; of no use without `coupling="context"`.
            Defaults to `"attention"`.
        coupling: `"context"`, `"attention_energy"` or `"none"`. Defaults to
            `"context"`.
        hidden_dim: int, hidden width of the potentials; `None` is `2 d`.
        num_steps: int, steps of a block. Defaults to `4`.
        step_size: float > 0, time of a step. Defaults to `0.25`.
        integrator: see `HamiltonianBlock`. Defaults to `"leapfrog"`.
        energy_tokens: see `HamiltonianBlock`. Defaults to `128`.
        energy_weight: float >= 0, lambda, the weight of the mean over blocks
            of their losses on energy. `LagrangeMultiplier` starts from it.
            Defaults to `0`.
        dropout: float in `[0, 1)`, rate on the embedding, on the context and
            before the head. Defaults to `0.1`.
        tie_embeddings: see `KoopmanLM`. Defaults to `True`.
        koopman: see `KoopmanLM`. Defaults to `None`.
        detach: see `KoopmanLM`. Defaults to `"target"`.
        replacement: see `KoopmanLM`. Defaults to `0`.
        replaced: see `KoopmanLM`. Defaults to none.
        embedding_stddev: float, deviation of the initial embeddings. Defaults
            to `0.02`.
        normalize_embedding: bool, whether `h_0 = RMSNorm(E[x])`. Without it
            the first block starts next to rest, and its energy has no scale
            that a drift could be compared with. Defaults to `True`.

    Call arguments:
        inputs: as in `KoopmanLM`.
        training: bool.

    Returns:
        As `KoopmanLM`: logits, or with targets the negative log-likelihoods.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    ```python
    model = HamiltonianLM(1000)
    logits = model(np.zeros((2, 16), "int32"))  # (2, 16, 1000)
    ```

    Reference:
        - [Galimberti et al., 2021](https://arxiv.org/abs/2105.13205)
        - [Hoover et al., 2023](https://arxiv.org/abs/2302.07253)
    """

    presets = PRESETS

    def __init__(
        self,
        vocabulary_size=30_000,
        dim=64,
        num_layers=4,
        num_heads=4,
        mixer="attention",
        coupling="context",
        hidden_dim=None,
        num_steps=4,
        step_size=0.25,
        integrator="leapfrog",
        energy_tokens=128,
        energy_weight=0.0,
        dropout=0.1,
        tie_embeddings=True,
        koopman=None,
        detach="target",
        replacement=0.0,
        replaced=(),
        embedding_stddev=0.02,
        normalize_embedding=True,
        **kwargs,
    ):
        if coupling not in COUPLINGS:
            raise ValueError(
                f"`coupling` must be one of {COUPLINGS}. Received: {coupling!r}"
            )

        check_real(
            "energy_weight", energy_weight, "from 0 on", lambda w: w >= 0
        )

        def make_block(mixer, name, dtype):
            if coupling == "attention_energy":
                potential = AttentionPotential(
                    num_heads, hidden_dim, name="potential"
                )
            else:
                potential = MLPPotential(hidden_dim, name="potential")
            has_mixer = coupling == "context"
            return HamiltonianBlock(
                potential,
                make_mixer(mixer, num_heads, {"dtype": dtype})
                if has_mixer
                else None,
                num_steps=num_steps,
                step_size=step_size,
                integrator=integrator,
                dropout=dropout,
                energy_tokens=energy_tokens,
                energy_weight=energy_weight / num_layers,
                name=name,
                dtype=dtype,
            )

        super().__init__(
            make_block,
            vocabulary_size=vocabulary_size,
            dim=dim,
            num_layers=num_layers,
            mixer=mixer,
            dropout=dropout,
            tie_embeddings=tie_embeddings,
            koopman=koopman,
            detach=detach,
            replacement=replacement,
            replaced=replaced,
            embedding_stddev=embedding_stddev,
            normalize_embedding=normalize_embedding,
            **kwargs,
        )
        self.num_heads = num_heads
        self.coupling = coupling
        self.hidden_dim = hidden_dim
        self.num_steps = num_steps
        self.step_size = step_size
        self.integrator = integrator
        self.energy_tokens = energy_tokens
        self.energy_weight = energy_weight

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "coupling": self.coupling,
            "hidden_dim": self.hidden_dim,
            "num_steps": self.num_steps,
            "step_size": self.step_size,
            "integrator": self.integrator,
            "energy_tokens": self.energy_tokens,
            "energy_weight": self.energy_weight,
        }
