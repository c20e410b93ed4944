"""Whether a mixture of experts uses all of them."""

import math

import keras

from ..layers.mixture_of_experts import MixtureOfExperts


class ExpertUsage(keras.callbacks.Callback):
    """Logs how evenly the experts of a model were used.

    `expert_usage` is the mean over its `MixtureOfExperts` layers of the
    entropy of the last training batch's assignments, divided by `log(E)`: 1
    where all E experts are used alike, 0 where one takes every token. A model
    without such layers, or with one expert in each, logs nothing.

    Example:
    ```python
    model.fit(batches, callbacks=[ExpertUsage()])
    ```
    """

    def on_epoch_end(self, epoch, logs=None):
        shares = [
            float(layer.usage_entropy) / math.log(experts)
            for layer in self.model._flatten_layers()
            if isinstance(layer, MixtureOfExperts)
            and (experts := layer.num_experts) > 1
        ]
        if shares and logs is not None:
            logs["expert_usage"] = sum(shares) / len(shares)
