"""Where the tokens of a text leave, epoch by epoch."""

import keras
import numpy as np

from .routed_evaluation import require_routes


class ExitHistogram(keras.callbacks.Callback):
    """Counts at which exit the tokens of a text leave, and how confident.

    Training is not changed by it. `prefix` `shallow_ratio`, the share of
    tokens that leave before the last exit, and `prefix` `mean_confidence`, at
    the first exit, are added to the epoch's logs.

    Args:
        tokens: int array `(n, N)`.
        bins: int, of the histogram of confidences over [0, 1]. Defaults to
            `20`.
        every: int, epochs between counts, the first after epoch `every`.
            Defaults to `1`.
        policy: see `EarlyExitLM.route`. Defaults to `"propagate"`.
        batch_size: int. Defaults to `32`.
        prefix: string. Defaults to `"exit_"`.

    Attributes:
        history: a list, an entry per count: a dict of `epoch`, from 1, `left`,
            the tokens that left at every exit, the last one too, and
            `confidence`, how many fell into each bin.

    Raises:
        ValueError: if `bins` or `every` is below 1; when training begins, if
            the only exit is the last.
        TypeError: when training begins, if the model is none with exits.

    Example:
    ```python
    tokens = np.zeros((4, 8), "int32")
    model = EarlyExitLM(20, dim=8, blocks=(1, 1), num_heads=2)
    model.compile("adam")
    histogram = ExitHistogram(tokens)
    inputs = {"tokens": tokens, "targets": tokens}
    model.fit(inputs, epochs=3, callbacks=[histogram])
    histogram.history[-1]["left"]  # [0, 32]: without a threshold all stay
    ```
    """

    def __init__(
        self,
        tokens,
        bins=20,
        every=1,
        policy="propagate",
        batch_size=32,
        prefix="exit_",
    ):
        super().__init__()
        for name, value in (("bins", bins), ("every", every)):
            if value < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {value}"
                )
        self.tokens = tokens
        self.bins = bins
        self.every = every
        self.policy = policy
        self.batch_size = batch_size
        self.prefix = prefix
        self.history = []

    def on_train_begin(self, logs=None):
        require_routes(self.model, "ExitHistogram")

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        model = self.model
        found = model.measure_route(
            self.tokens, self.tokens, self.policy, batch_size=self.batch_size
        )
        exits = len(model.blocks)
        left = np.bincount(found["exit"].ravel(), minlength=exits)
        counts, _ = np.histogram(found["confidence"], self.bins, (0, 1))
        self.history.append(
            {
                "epoch": epoch + 1,
                "left": left.tolist(),
                "confidence": counts.tolist(),
            }
        )
        if logs is not None:
            logs[f"{self.prefix}shallow_ratio"] = float(
                left[:-1].sum() / left.sum()
            )
            logs[f"{self.prefix}mean_confidence"] = float(
                found["confidence"].mean(dtype="float64")
            )
