"""The endpoint layer of a language model."""

import keras
from keras import ops

from .._backend import keep_freed_memory
from ..losses.fused_linear_crossentropy import (
    CHUNK_SIZE,
    fused_linear_crossentropy,
)


@keras.saving.register_keras_serializable(package="orrery")
class LanguageHead(keras.layers.Layer):
    """Logits without targets; with targets, the fused loss and per-token NLL.

    `logits = h W + b`. Given targets, the layer adds the mean cross-entropy
    through `add_loss` without ever building the `(B, N, V)` logits, and
    returns `nll[b, t] = -log softmax(logits[b, t])[targets[b, t]]`, which a
    `Perplexity` metric reads.

    Args:
        vocabulary_size: int, V.
        embedding: a `keras.layers.ReversibleEmbedding` of V rows whose matrix
            the head shares (`W = E^T`), or `None` for a kernel of its own. A
            shared embedding belongs to the model that owns it and is passed
            again when that model is rebuilt; it is not part of the config.

    Call arguments:
        hidden: float tensor `(B, N, d)`.
        targets: int tensor `(B, N)` in `[0, V)`, or `None`.
        sample_weight: float tensor `(B, N)`, or `None` for ones.
        training: bool. Outside training the gradient is not formed: one matrix
            product instead of three. A head that `quantize` has made an integer
            product computes the loss of just that, and cannot be trained.

    Returns:
        float tensor `(B, N, V)` without targets, float32 `(B, N)` with them.

    Raises:
        ValueError: if `vocabulary_size` is below 2, if `embedding` has another
            number of rows, or if a quantized head is called in training with
            targets.

    Example:

    ```python
    head = LanguageHead(vocabulary_size=1000)
    logits = head(keras.random.normal((2, 16, 64)))  # (2, 16, 1000)
    ```

    Reference:
        - [Press and Wolf, 2016](https://arxiv.org/abs/1608.05859), tied
          weights.
    """

    def __init__(self, vocabulary_size, embedding=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(vocabulary_size, int) or vocabulary_size < 2:
            raise ValueError(
                "`vocabulary_size` must be an integer of at least 2. "
                f"Received: vocabulary_size={vocabulary_size}"
            )
        if embedding is not None and embedding.input_dim != vocabulary_size:
            raise ValueError(
                "`embedding` must have `vocabulary_size` rows. Received: "
                f"embedding.input_dim={embedding.input_dim}, "
                f"vocabulary_size={vocabulary_size}"
            )
        self.vocabulary_size = vocabulary_size
        self.embedding = embedding
        self.projection = None
        if embedding is None:
            self.projection = keras.layers.Dense(
                vocabulary_size,
                use_bias=False,
                dtype=self.dtype_policy,
                name="projection",
            )

    def build(self, input_shape):
        keep_freed_memory()
        if self.projection is not None:
            self.projection.build(input_shape)
        self.bias = self.add_weight(
            shape=(self.vocabulary_size,), initializer="zeros", name="bias"
        )

    @property
    def quantization(self):
        """The mode of `quantize` if the kernel is integer, else `None`."""
        return (self.projection or self.embedding).quantization_mode

    def call(self, hidden, targets=None, sample_weight=None, training=False):
        if targets is None:
            return self._logits(hidden)
        if self.quantization is None:
            tied = self.projection is None
            kernel = (
                self.embedding.embeddings if tied else self.projection.kernel
            )
            loss, nll = fused_linear_crossentropy(
                hidden,
                ops.cast(kernel, hidden.dtype),
                targets,
                bias=self.bias,
                sample_weight=sample_weight,
                transpose=tied,
                with_gradient=training,
            )
        elif training:
            raise ValueError(
                "A quantized head has no gradient: quantize after training. "
                "Received: training=True"
            )
        else:
            nll = self._quantized_nll(hidden, targets)
            weight = 1.0 if sample_weight is None else sample_weight
            loss = ops.mean(ops.cast(weight, "float32") * nll)
        self.add_loss(loss)
        return nll

    def _logits(self, hidden):
        if self.projection is None:
            logits = self.embedding(hidden, reverse=True)
        else:
            logits = self.projection(hidden)
        # Keras multiplies by a tied matrix in the matrix's precision.
        logits = ops.cast(logits, self.compute_dtype)
        return logits + ops.cast(self.bias, logits.dtype)

    def _quantized_nll(self, hidden, targets):
        """Negative log-likelihoods from the integer logits, in chunks."""
        shape, size = ops.shape(targets), CHUNK_SIZE
        targets = ops.cast(ops.reshape(targets, (-1,)), "int32")
        hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))
        length = ops.shape(targets)[0]
        missing = -length % size
        targets = ops.pad(targets, ((0, missing),))
        hidden = ops.pad(hidden, ((0, missing), (0, 0)))

        def chunk(pair):
            hidden, targets = pair
            s = ops.cast(self._logits(hidden), "float32")
            picked = ops.take_along_axis(s, targets[:, None], axis=-1)
            return ops.logsumexp(s, axis=-1) - picked[:, 0]

        nll = ops.map(
            chunk,
            (
                ops.reshape(hidden, (-1, size, hidden.shape[-1])),
                ops.reshape(targets, (-1, size)),
            ),
        )
        return ops.reshape(ops.reshape(nll, (-1,))[:length], shape)

    def compute_output_spec(
        self, hidden, targets=None, sample_weight=None, training=False
    ):
        if targets is None:
            shape = hidden.shape[:-1] + (self.vocabulary_size,)
            return keras.KerasTensor(shape, dtype=self.compute_dtype)
        return keras.KerasTensor(targets.shape, dtype="float32")

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
        }
