"""What the Koopman operators of a model became, epoch by epoch."""

import importlib.util
import pathlib

import keras
import numpy as np


class KoopmanMonitor(keras.callbacks.Callback):
    """Records the operators' spectra and how far they moved.

    For each operator K of `model.operators` and each epoch: the eigenvalues,
    the spectral radius `max |lambda|`, and `||K - K_0||_F / ||K_0||_F`. One
    file `epoch_<e>.npz` per epoch (from 1) holds the arrays `eigenvalues`
    `(operators, m)`, `spectral_radius` and `distance` `(operators,)`; with
    `tokens` also `r_squared` and `skill` `(operators,)`; and in epochs with an
    evaluation `replaced_perplexity` `(operators + 1,)`, entry n with the first
    n blocks replaced by their operators. `eigenvalues.png`
    shows the newest spectra if Matplotlib is installed. Training is not
    changed by any of this.

    These keys are added to the epoch's logs:

    - `koopman_spectral_radius`: the largest over the operators.
    - `koopman_distance`: the mean over the operators.
    - `koopman_held_out_r_squared`, `koopman_held_out_skill`: with `tokens`, the
      means over the operators.
    - `koopman_contribution_fraction`: weighted Koopman loss over total loss,
      (total - LM) / total.

    Args:
        path: String or path of a directory, made if absent.
        tokens: Int array `(n, N)`, held-out text for the model's
            `evaluate_operators`, or None. Defaults to `None`.
        replaced_perplexity: Callable from a tuple of block indices to the
            perplexity with these blocks run by their operators, or None. It
            must leave the model as it found it. Defaults to `None`.
        every: Integer, epochs between evaluations; the first is after epoch
            `every`. Defaults to `1`.

    Raises:
        ValueError: If `every` is below 1.
        TypeError: If the model has no `operators`.

    Example:
    ```python
    monitor = KoopmanMonitor("run/koopman")
    model.fit(
        dataset,
        epochs=10,
        shuffle=False,
        callbacks=[KoopmanSchedule(), monitor],
    )
    np.load("run/koopman/epoch_10.npz")["eigenvalues"]
    ```
    """

    def __init__(self, path, tokens=None, replaced_perplexity=None, every=1):
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: {every}")
        self.path = pathlib.Path(path)
        self.tokens = tokens
        self.replaced_perplexity = replaced_perplexity
        self.every = every

    def on_train_begin(self, logs=None):
        if not getattr(self.model, "operators", None):
            raise TypeError(
                "KoopmanMonitor needs a model with at least one operator in "
                f"`operators`. Received: {self.model.__class__.__name__}"
            )
        self.path.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        operators = model.operators
        record = {
            "eigenvalues": np.stack([o.spectrum() for o in operators]),
            "distance": np.array(
                [float(o.distance_from_initial()) for o in operators]
            ),
        }
        record["spectral_radius"] = np.abs(record["eigenvalues"]).max(axis=1)
        if self.tokens is not None:
            record |= model.evaluate_operators(self.tokens)
        if self.replaced_perplexity and (epoch + 1) % self.every == 0:
            record["replaced_perplexity"] = np.array(
                [
                    float(self.replaced_perplexity(tuple(range(count))))
                    for count in range(len(operators) + 1)
                ]
            )
        np.savez(self.path / f"epoch_{epoch + 1}.npz", **record)
        self._draw(record)
        if logs is not None:
            logs["koopman_spectral_radius"] = float(
                record["spectral_radius"].max()
            )
            logs["koopman_distance"] = float(record["distance"].mean())
            for name in ("r_squared", "skill"):
                if name in record:
                    logs[f"koopman_held_out_{name}"] = float(
                        record[name].mean()
                    )
            logs["koopman_contribution_fraction"] = (
                model.koopman_measures()["contribution"] / logs["loss"]
            )

    def _draw(self, record):
        if importlib.util.find_spec("matplotlib") is None:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 6), layout="constrained")
        axes = figure.subplots()
        angle = np.linspace(0, 2 * np.pi, 361)
        axes.plot(np.cos(angle), np.sin(angle), color="0.7", linewidth=1)
        for block, values in enumerate(record["eigenvalues"], 1):
            axes.scatter(values.real, values.imag, s=12, label=f"block {block}")
        axes.set(
            title="Koopman eigenvalues",
            xlabel="Re λ",
            ylabel="Im λ",
            aspect="equal",
        )
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(
            self.path / "eigenvalues.png", dpi=150, bbox_inches="tight"
        )
