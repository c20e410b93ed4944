"""Token-weighted perplexity of a language model."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="orrery")
class Perplexity(keras.metrics.Metric):
    """Exponential of the weighted mean negative log-likelihood per token.

    `exp(sum_i w_i nll_i / sum_i w_i)` over every token of every batch since the
    last reset: batches of different sizes count by their tokens, never as a
    mean of batch means. The rank of `y_pred` says what it holds, so the same
    metric serves a head that returns logits and one that returns its own loss.

    Args:
        mask_token_id: Integer or None. Targets with this id are left out, for
            example the id of `<unk>`. Defaults to `None`.
        name: String, name of the metric. Defaults to `"perplexity"`.
        dtype: Float dtype of the sums. Defaults to `"float32"`.

    Call arguments:
        y_true: Integer targets of shape `(batch, length)`.
        y_pred: Negative log-likelihood of each target in nats, `(batch,
            length)`, or logits, `(batch, length, vocabulary)`.
        sample_weight: Weights of shape `(batch, length)`, or any shape that
            broadcasts to it after trailing axes are added; 1 by default.

    Returns:
        `result()`: a scalar, at least 1; 0 before any token was seen.

    Raises:
        ValueError: If `y_pred` has neither the rank of `y_true` nor one more.

    Example:
    >>> metric = Perplexity()
    >>> metric.update_state([[0, 1]], [[0.0, 2.0]], sample_weight=[[1, 3]])
    >>> round(float(metric.result()), 4)  # exp(6 / 4)
    4.4817
    """

    def __init__(
        self, mask_token_id=None, name="perplexity", dtype="float32", **kwargs
    ):
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.mask_token_id = mask_token_id
        self.total = self.add_weight(
            shape=(), initializer="zeros", dtype=self.dtype, name="total"
        )
        self.count = self.add_weight(
            shape=(), initializer="zeros", dtype=self.dtype, name="count"
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = ops.cast(ops.convert_to_tensor(y_true), "int32")
        y_pred = ops.cast(ops.convert_to_tensor(y_pred), self.dtype)
        nll = self._negative_log_likelihood(y_true, y_pred)
        weight = ops.ones_like(nll)
        if sample_weight is not None:
            sample_weight = ops.cast(
                ops.convert_to_tensor(sample_weight), self.dtype
            )
            while len(sample_weight.shape) < len(nll.shape):
                sample_weight = ops.expand_dims(sample_weight, -1)
            weight = weight * sample_weight
        if self.mask_token_id is not None:
            weight = weight * ops.cast(
                ops.not_equal(y_true, self.mask_token_id), self.dtype
            )
        self.total.assign_add(ops.sum(nll * weight))
        self.count.assign_add(ops.sum(weight))

    def _negative_log_likelihood(self, y_true, y_pred):
        if len(y_pred.shape) == len(y_true.shape):
            return y_pred
        if len(y_pred.shape) != len(y_true.shape) + 1:
            raise ValueError(
                "`y_pred` must be negative log-likelihoods with the shape of "
                "`y_true` or logits with one more axis. Received: y_true.shape="
                f"{tuple(y_true.shape)}, y_pred.shape={tuple(y_pred.shape)}"
            )
        chosen = ops.take_along_axis(
            y_pred, ops.expand_dims(y_true, -1), axis=-1
        )
        return ops.logsumexp(y_pred, axis=-1) - ops.squeeze(chosen, -1)

    def result(self):
        count = ops.convert_to_tensor(self.count)
        mean = ops.divide_no_nan(ops.convert_to_tensor(self.total), count)
        return ops.where(count > 0, ops.exp(mean), ops.zeros_like(mean))

    def get_config(self):
        return {**super().get_config(), "mask_token_id": self.mask_token_id}
