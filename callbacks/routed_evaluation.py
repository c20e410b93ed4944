"""How a model does with its exits in use, epoch by epoch."""

import keras
import numpy as np


class RoutedEvaluation(keras.callbacks.Callback):
    """Scores a text after every epoch, each token leaving at its exit.

    These keys are added to the epoch's logs, each behind `prefix`: `loss`, the
    mean negative log-likelihood in nats; `perplexity`, its exponential;
    `accuracy`, the share of tokens told right; `shallow_ratio`, the share that
    left before the last exit; `compute_cost`, the mean depth over full depth.
    Put it before an `EarlyStopping` that is to monitor one of them, with
    `mode="min"`: Keras only warns of a name that it does not find.

    Args:
        tokens: int array `(n, N)`.
        targets: int array `(n, N)`, the tokens that follow.
        model: a language model with exits, where the model that is trained is
            another one, made of its layers; `None` is the one that is trained.
        policy: see `EarlyExitLM.route`. Defaults to `"both"`.
        batch_size: int. Defaults to `32`.
        prefix: string. Defaults to `"val_routed_"`.

    Raises:
        TypeError: when training begins, if the model is none with exits.
        ValueError: likewise, if its only exit is the last.

    Example:
    ```python
    tokens = np.zeros((4, 8), "int32")
    model = EarlyExitLM(20, dim=8, blocks=(1, 1), num_heads=2)
    model.compile("adam")
    model.fit(
        {"tokens": tokens, "targets": tokens},
        epochs=3,
        callbacks=[
            RoutedEvaluation(tokens, tokens),
            keras.callbacks.EarlyStopping(
                "val_routed_loss", mode="min", restore_best_weights=True
            ),
        ],
    )
    ```
    """

    def __init__(
        self,
        tokens,
        targets,
        model=None,
        policy="both",
        batch_size=32,
        prefix="val_routed_",
    ):
        super().__init__()
        self.tokens = tokens
        self.targets = targets
        self.scored = model
        self.policy = policy
        self.batch_size = batch_size
        self.prefix = prefix

    def on_train_begin(self, logs=None):
        require_routes(self.scored or self.model, "RoutedEvaluation")

    def on_epoch_end(self, epoch, logs=None):
        model = self.scored or self.model
        found = model.measure_route(
            self.tokens, self.targets, self.policy, batch_size=self.batch_size
        )
        loss = float(found["loss"].mean(dtype="float64"))
        last = len(model.blocks) - 1
        shares = [float((found["exit"] == exit).mean()) for exit in range(last)]
        measured = {
            "loss": loss,
            "perplexity": float(np.exp(loss)),
            "accuracy": float((found["choice"] == self.targets).mean()),
            "shallow_ratio": sum(shares),
            "compute_cost": model.compute_cost(shares)["layers_only"],
        }
        if logs is not None:
            logs |= {
                f"{self.prefix}{name}": value
                for name, value in measured.items()
            }


def require_routes(model, callback):
    """Raise a TypeError or ValueError for a model without exits."""
    if not hasattr(model, "measure_route"):
        raise TypeError(
            f"{callback} needs a language model with exits, like EarlyExitLM. "
            f"Received: {model.__class__.__name__}"
        )
    model.require_exit(callback)
