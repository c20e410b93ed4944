"""The original experiment from text to report, faults included.

Phase 1: two layers, all tokens of train. Then, on valid: the threshold, the
median of the confidences; the hard tokens below it. Phase 2: two layers more,
trained with the head on those hard tokens; valid once more decides when it
stops and is what is reported. `ashem.py` lists the faults.
"""

import dataclasses
import json
import math
import os
import pathlib

import keras
import numpy as np

from ..ashem_configs import ASHEMConfig
from ..staged_training import UpperLayers
from .ashem import (
    InOrder,
    RoutedScores,
    collect_hard_examples,
    compute_confidence_threshold,
    create_hard_example_loader,
    evaluate_on_hard_examples,
    hard_perplexity,
    hard_token_batches,
    published_optimizer,
)
from .ashem_data import published_data
from .ashem_report import FORMATS, fit_until_worse
from .lego_lm import LegoLM
from .resnet_bk_training import BatchMeanPerplexity
from .torch_draws import TorchDraws, draw_as_published


@dataclasses.dataclass(frozen=True)
class LegacyExperiment:
    """What the original had written into its script.

    Args:
        dim: int, width. Defaults to `64`.
        num_heads: int. Defaults to `4`.
        hidden_dim: int. Defaults to `256`.
        length: int, tokens of a window. Defaults to `32`.
        samples: int, see `published_data`. Defaults to `10_000`.
        batch_size: int, windows, and in phase 2 tokens. Defaults to `64`.
        max_epochs: int, of a phase. Defaults to `50`.
        ashem: an `ASHEMConfig`.
        seed: int. Defaults to `42`.
        init: `"torch"`, the original's weights and order, number by number;
            `"keras"`, others of the same distribution. Defaults to `"torch"`.

    Raises:
        ValueError: for another `init`.
    """

    dim: int = 64
    num_heads: int = 4
    hidden_dim: int = 256
    length: int = 32
    samples: int = 10_000
    batch_size: int = 64
    max_epochs: int = 50
    ashem: ASHEMConfig = ASHEMConfig()
    seed: int = 42
    init: str = "torch"

    def __post_init__(self):
        if self.init not in ("torch", "keras"):
            raise ValueError(
                "`init` must be 'torch' or 'keras'. "
                f"Received: init={self.init!r}"
            )


def run_legacy_protocol(texts, experiment=None, say=print, kept=None):
    """Both phases, as published, each trained by `fit`.

    Args:
        texts: dict of `"train"` and `"valid"`, the texts; see `Corpus.texts`.
        experiment: a `LegacyExperiment`, or `None` for the original's.
        say: function of a line, which reports as the original did.
        kept: path of a file that holds phase 1 when it is done. If it is there,
            the run goes on from it, to the same end.

    Returns:
        A pair of dicts. The first is the original's: `model_name`,
        `phase1_acc` (in %), `phase1_ppl`, `phase1_hard_ppl`, `phase1_time` (in
        s), `num_hard_examples`, `phase2_hard_ppl`, `phase2_time`,
        `two_stage_acc` (in %), `two_stage_ppl`, `hard_ppl_improvement`,
        `shallow_ratio`, `compute_cost`. The second has `phase1` and `phase2`,
        the models; `phase1_history` and `phase2_history`, dicts of lists of
        `train_ppl`, `val_ppl`, `val_acc` (in 0 ... 1) and in phase 2
        `hard_ppl`, one entry per epoch; `threshold`; `mean_confidence`, of
        the hard tokens; `vocabulary_size`.
    """
    experiment = experiment or LegacyExperiment()
    keras.utils.set_random_seed(experiment.seed)
    draws = TorchDraws(experiment.seed)
    train, valid, words = published_data(
        texts, experiment.samples, experiment.batch_size, experiment.length
    )
    model = LegoLM(
        words,
        experiment.dim,
        experiment.ashem.phase1_layers,
        None,
        experiment.num_heads,
        experiment.hidden_dim,
    )
    if experiment.init == "torch":
        draw_as_published(model, draws)
    settings = {**dataclasses.asdict(experiment), "words": words}
    first = None if kept is None else read_phase1(kept, model, settings)
    if first is None:
        first = train_phase1(model, train, valid, experiment, say)
        if kept is not None:
            keep_phase1(kept, model, first, settings)
    mined = mine(model, valid, experiment, say)
    deep = extend(model, mined["threshold"], experiment, draws)
    second = train_phase2(deep, mined, valid, experiment, draws, say)
    best, final = first["best"], second["final"]
    gain = mined["hard_ppl"] - second["hard_ppl"]
    share = 100 * gain / mined["hard_ppl"]
    say(FORMATS["compute_cost"].format(final["compute_cost"]))
    say(FORMATS["change"].format(final["ppl"] - best["ppl"]))
    say(FORMATS["improvement"].format(gain, share))
    results = {
        "model_name": "Standard Transformer",
        "phase1_acc": 100 * best["acc"],
        "phase1_ppl": best["ppl"],
        "phase1_hard_ppl": mined["hard_ppl"],
        "phase1_time": first["time"],
        "num_hard_examples": len(mined["examples"]["targets"]),
        "phase2_hard_ppl": second["hard_ppl"],
        "phase2_time": second["time"],
        "two_stage_acc": 100 * final["acc"],
        "two_stage_ppl": final["ppl"],
        "hard_ppl_improvement": gain,
        "shallow_ratio": final["shallow_ratio"],
        "compute_cost": final["compute_cost"],
    }
    details = {
        "phase1": model,
        "phase2": deep,
        "phase1_history": first["history"],
        "phase2_history": second["history"],
        "threshold": mined["threshold"],
        "mean_confidence": mined["mean_confidence"],
        "vocabulary_size": words,
    }
    return results, details


def train_phase1(model, train, valid, experiment, say=print):
    """All tokens, until valid gets worse; the best epoch is put back.

    Args:
        model: a `LegoLM` without an exit before its end.
        train: list of batches, see `published_batches`.
        valid: likewise.
        experiment: a `LegacyExperiment`.
        say: function of a line.

    Returns:
        A dict: `history`; `best`, the `ppl` and `acc` of the epoch that was
        best; `time`, in seconds.
    """
    scores = RoutedScores(model)

    def measure():
        found = scores.evaluate_batches(valid)
        return {"val_ppl": found["ppl"], "val_acc": found["acc"]}

    batches = [({"tokens": x, "targets": y}, y) for x, y in train]
    config = experiment.ashem
    history, best, seconds = _fit(
        model,
        batches,
        measure,
        "phase1",
        config.phase1_lr,
        config.phase1_patience,
        experiment,
        say,
    )
    best = {"ppl": history["val_ppl"][best], "acc": history["val_acc"][best]}
    return {"history": history, "best": best, "time": seconds}


def keep_phase1(path, model, first, settings):
    """Write the weights of phase 1, and what it found, through a rename."""
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial.npz")
    found = json.dumps({"first": first, "settings": settings})
    np.savez(partial, *model.get_weights(), found=np.array(found))
    os.replace(partial, path)


def read_phase1(path, model, settings):
    """What `keep_phase1` wrote, the weights put into the model, or `None`.

    Raises:
        ValueError: if it is of other settings.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return None
    with np.load(path) as file:
        found = json.loads(str(file["found"]))
        if found["settings"] != json.loads(json.dumps(settings)):
            raise ValueError(
                f"{path} holds phase 1 of another run: {found['settings']}"
            )
        count = len(model.weights)
        model.set_weights([file[f"arr_{index}"] for index in range(count)])
    return found["first"]


def mine(model, valid, experiment, say=print):
    """The threshold, and the hard tokens of valid (fault 1).

    Returns:
        A dict: `threshold`; `examples`, see `collect_hard_examples`;
        `mean_confidence` of them; `hard_ppl`, see `evaluate_on_hard_examples`.
    """
    ratio = experiment.ashem.hard_example_ratio
    threshold = compute_confidence_threshold(model, valid, ratio)
    examples = collect_hard_examples(model, valid, threshold)
    count = len(examples["targets"])
    mean = float(examples["confidences"].mean(dtype="float64"))
    # Fault 4: of an older loader's tokens, which are fewer.
    total = experiment.samples * 0.2 * experiment.length
    hard_ppl = evaluate_on_hard_examples(
        model,
        examples,
        batch_size=experiment.batch_size,
        num_lower_layers=model.num_layers,
    )
    say(FORMATS["threshold"].format(threshold))
    say(FORMATS["collected"].format(count))
    say(FORMATS["mean_confidence"].format(mean))
    say(FORMATS["ratio"].format(100 * count / total, 100 * ratio))
    say(FORMATS["phase1_hard"].format(hard_ppl))
    return {
        "threshold": threshold,
        "examples": examples,
        "mean_confidence": mean,
        "hard_ppl": hard_ppl,
    }


def extend(model, threshold, experiment, draws):
    """The model of phase 2, its first layers and its head those of phase 1.

    Args:
        model: a `LegoLM`.
        threshold: float in [0, 1].
        experiment: a `LegacyExperiment`.
        draws: a `TorchDraws`, advanced if the weights are the original's.
    """
    config = experiment.ashem
    return model.extend(
        config.phase2_layers - config.phase1_layers,
        threshold,
        initialise=(
            (lambda deep: draw_as_published(deep, draws))
            if experiment.init == "torch"
            else None
        ),
    )


def train_phase2(model, mined, valid, experiment, draws, say=print):
    """The hard tokens one by one, until the routed valid gets worse.

    Args:
        model: a `LegoLM` as `extend` makes it.
        mined: what `mine` returns.
        valid: list of batches.
        experiment: a `LegacyExperiment`.
        draws: a `TorchDraws`, for the order of the tokens.
        say: function of a line.

    Returns:
        A dict: `history`; `final`, what `evaluate` says; `hard_ppl`; `time`,
        in seconds.
    """
    depth = model.exit_layer
    batches = create_hard_example_loader(
        mined["examples"],
        experiment.batch_size,
        draws if experiment.init == "torch" else experiment.seed,
    )
    trained = sum(math.prod(w.shape) for w in model.trainable_weights)
    total = model.num_parameters
    say(FORMATS["trainable"].format(trained, total, 100 * trained / total))
    say(FORMATS["hard_batches"].format(len(batches)))
    scores, hard = RoutedScores(model), UpperLayers(model, depth)

    def hard_ppl():
        return hard_perplexity(hard, mined["examples"], experiment.batch_size)

    def measure():
        found = scores.evaluate_batches(valid)
        return {
            "val_ppl": found["ppl"],
            "val_acc": found["acc"],
            "hard_ppl": hard_ppl(),
        }

    config = experiment.ashem
    history, _, seconds = _fit(
        UpperLayers(model, depth),
        hard_token_batches(batches),
        measure,
        "phase2",
        config.phase2_lr,
        config.phase2_patience,
        experiment,
        say,
    )
    return {
        "history": history,
        "final": scores.evaluate_batches(valid),
        "hard_ppl": hard_ppl(),
        "time": seconds,
    }


def _fit(
    model, batches, measure, phase, learning_rate, patience, experiment, say
):
    model.compile(
        published_optimizer(learning_rate), metrics=[BatchMeanPerplexity()]
    )
    return fit_until_worse(
        model,
        InOrder(batches),
        measure,
        phase,
        experiment.max_epochs,
        patience,
        say,
    )
