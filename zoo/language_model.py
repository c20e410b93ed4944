"""What a trained language model can do beside predicting: the base class."""

import keras
import numpy as np

from ..datasets.vocabulary import check_ids
from .generation import generate
from .presets import Presets

# What a model keeps of what was compiled for it.
COMPILED = (
    "_generation_loops",
    "_measures",
    "_prediction",
    "_score_loops",
    "_speculation_loops",
)


@keras.saving.register_keras_serializable(package="orrery")
class LanguageModel(Presets, keras.Model):
    """A `keras.Model` of token ids that generates, quantizes and exports.

    A subclass maps int32 ids `(B, N)` to logits `(B, N, V)`, keeps its
    `LanguageHead` in `head` and V in `vocabulary_size`, and can be built
    without a shape. To generate it has `initial_state(batch_size, max_length)`
    and `step(tokens, state, index)`. Its named architectures are `presets`.
    """

    def __call__(self, inputs, *args, **kwargs):
        # A backend would clamp an id out of range, or look up NaN.
        given = inputs if isinstance(inputs, dict) else {"tokens": inputs}
        for name in ("tokens", "targets"):
            if isinstance(given.get(name), np.ndarray):
                check_ids(given[name], self.vocabulary_size)
        return super().__call__(inputs, *args, **kwargs)

    @staticmethod
    def unpack(inputs):
        """Tokens, targets and sample weight of a batch, as far as given.

        Raises:
            ValueError: if the tokens are not `(B, N)` with N > 0.
        """
        if not isinstance(inputs, dict):
            inputs = {"tokens": inputs}
        names = "tokens", "targets", "sample_weight"
        tokens, targets, sample_weight = map(inputs.get, names)
        shape = tuple(getattr(tokens, "shape", ()))
        if len(shape) != 2 or shape[1] == 0:
            raise ValueError(
                "`inputs` must hold token ids (batch, length), length at least "
                f"1. Received: shape {shape}"
            )
        return tokens, targets, sample_weight

    def compute_output_spec(self, inputs, training=False):
        tokens, targets, _ = self.unpack(inputs)
        if targets is not None:
            return keras.KerasTensor(targets.shape, dtype="float32")
        shape = (*tokens.shape, self.vocabulary_size)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def generate(self, prompt, max_length, **options):
        """Continue a prompt; see `orrery.zoo.generation.generate`."""
        return generate(self, prompt, max_length, **options)

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """`keras.Model.quantize` for the embedding, the head and the `Dense`s.

        Everything else stays in floating point: norms, recurrences, Koopman
        operators. Losses and logits come from the integer products, so what
        `evaluate` reports is the quantized model. Not trainable afterwards.

        Args:
            mode: `"int8"` or another mode of Keras.
            config: a `keras.quantizers.QuantizationConfig`, or `None`.
            filters: what to quantize instead, as in Keras.
            **kwargs: passed on to Keras.
        """
        # What was compiled holds the variables it was made with.
        for compiled in COMPILED:
            vars(self).pop(compiled, None)
        filters = _is_matrix_product if filters is None else filters
        super().quantize(mode, config=config, filters=filters, **kwargs)

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        length=128,
        **kwargs,
    ):
        """`keras.Model.export` of the map from ids to logits.

        Args:
            filepath: str or path, where to write.
            format: `"onnx"` (needs `jax2onnx` on JAX, `tf2onnx` on TensorFlow;
                PyTorch's exporter lacks RMSNorm) or another format of Keras.
            verbose: bool or `None`, whether to print the path.
            input_signature: what to feed instead of ids `(B, length)`, as in
                Keras.
            length: int, N, while B stays free. A causal model reads a shorter
                text with anything behind it. `None` leaves N free too, where
                backend and format can. Defaults to `128`.
            **kwargs: passed on to Keras.
        """
        if input_signature is None:
            input_signature = [
                keras.InputSpec(
                    shape=(None, length), dtype="int32", name="tokens"
                )
            ]
        super().export(
            filepath,
            format=format,
            verbose=verbose,
            input_signature=input_signature,
            **kwargs,
        )

    def get_build_config(self):
        return {"quantization": self.head.quantization}

    def build_from_config(self, config):
        self.build()
        if config.get("quantization"):
            self.quantize(config["quantization"])


def _is_matrix_product(layer):
    products = keras.layers.Dense, keras.layers.ReversibleEmbedding
    return isinstance(layer, products)
