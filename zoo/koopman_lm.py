"""The Koopman language model."""

import keras

from ..layers.decoder_block import DecoderBlock
from ..layers.mixture_of_experts import MixtureOfExperts
from .backbone import LanguageBackbone, make_mixer
from .koopman_lm_presets import PRESETS


@keras.saving.register_keras_serializable(package="orrery")
class KoopmanLM(LanguageBackbone):
    """A causal language model whose blocks can run as linear operators.

    `h_0 = E[x]`, `h_{l+1} = block_l(h_l)`, logits `= RMSNorm(h_L) W + b`. A
    block is a pre-norm residual step (mixer, then SwiGLU). Beside each block a
    `KoopmanOperator` may learn its map as `h_{l+1} = psi(K_l phi(h_l))`: one
    linear step in a lifted space. Koopman-forward mode (`set_replaced`) runs
    the operators in the place of the blocks.

    In training the operators add `koopman_weight` times their mean consistency
    loss, and with `replacement` they also take part in the language task: of a
    batch of B rows the first `floor(B f_l)` pass through operator l instead of
    block l. The shares fall with l, so a row that runs j operators runs the
    first j, and no row is computed twice.

    Args:
        vocabulary_size: int, V. Defaults to `30000`.
        dim: int, width d. Defaults to `64`.
        num_layers: int, number of blocks L. Defaults to `4`.
        num_heads: int, heads of the attention and resolvent mixers. Defaults
            to `4`.
        mixer: `"attention"`, `"resolvent"` or `"koopman"` (a hard-stable
            linear recurrence over tokens), or a list of L of them. Defaults
            to `"attention"`.
        num_experts: int, SwiGLU experts per block. Defaults to `1`.
        hidden_dim: int, hidden width of an expert; `None` is `2 d`.
        dropout: float in `[0, 1)`, rate on the embedding, on both branches of
            a block and before the head. Defaults to `0.1`.
        tie_embeddings: bool, whether the head shares the embedding. With
            `False` TensorFlow makes the embedding's gradient sparse, and an
            optimizer that does not clip treats an id that a batch repeats
            unlike the other backends. Defaults to `True`.
        koopman: dict, the config of the blocks' `KoopmanOperator`s, or `None`
            for a model without operators.
        detach: `"target"` or `"both"`, see `KoopmanConsistency`; with `"both"`
            the operators watch the model and never change it, so `replacement`
            must be 0.
        replacement: float f in `[0, 1)`, which stands for `f_l = f (L - l) / L`
            (as many rows with 1 as with 2, ... L operators), or the list of
            the L shares, none above the one before. Defaults to `0`.
        replaced: sequence of int, the blocks run by their operators outside
            training. Defaults to none.
        embedding_stddev: float, deviation of the initial embeddings. Defaults
            to `0.02`.
        normalize_embedding: bool, whether `h_0 = RMSNorm(E[x])` instead.
            Defaults to `False`.

    Call arguments:
        inputs: int tensor `(B, N)` of token ids in `[0, V)`, any N; or a dict
            with `"tokens"`, `"targets"` (int, `(B, N)`) and optionally
            `"sample_weight"` (float, `(B, N)`).
        training: bool.

    Returns:
        Logits `(B, N, V)`; with targets the float32 negative log-likelihood
        per token `(B, N)`, its mean being added to the losses.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    ```python
    model = KoopmanLM(1000, koopman={"lift_dim": 64, "delays": 1})
    logits = model(np.zeros((2, 16), "int32"))  # (2, 16, 1000)
    ```

    Reference:
        - [Aswani et al., 2024](https://arxiv.org/abs/2409.01308), layers as
          Koopman operators.
        - [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762)
    """

    presets = PRESETS

    def __init__(
        self,
        vocabulary_size=30_000,
        dim=64,
        num_layers=4,
        num_heads=4,
        mixer="attention",
        num_experts=1,
        hidden_dim=None,
        dropout=0.1,
        tie_embeddings=True,
        koopman=None,
        detach="target",
        replacement=0.0,
        replaced=(),
        embedding_stddev=0.02,
        normalize_embedding=False,
        **kwargs,
    ):
        def make_block(mixer, name, dtype):
            policy = {"dtype": dtype}
            return DecoderBlock(
                make_mixer(mixer, num_heads, policy),
                MixtureOfExperts(
                    num_experts,
                    hidden_dim,
                    dropout=0.0,
                    name="feedforward",
                    **policy,
                ),
                dropout=dropout,
                name=name,
                **policy,
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
        self.num_experts = num_experts
        self.hidden_dim = hidden_dim

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_experts": self.num_experts,
            "hidden_dim": self.hidden_dim,
        }
