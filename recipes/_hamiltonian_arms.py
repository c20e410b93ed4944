"""One arm of the Hamiltonian experiments: build it, train it, measure it."""

import math

import keras
import numpy as np
from _energy_history import EnergyHistory
from _training import count_weights, perplexity, score, train
from orrery.callbacks import (
    KoopmanSchedule,
    LagrangeMultiplier,
    NonFiniteGuard,
)
from orrery.zoo import HamiltonianLM, KoopmanLM
from orrery.zoo.energy_measures import (
    energy_tracer,
    energy_traces,
    evaluate_energies,
)

# The Koopman term alone, as the original meant it: an auxiliary loss.
KOOPMAN = {"operator": "gradient", "lift_dim": 128, "delays": 2}
SCHEDULE = {"warmup": 0, "ramp": 1, "max_weight": 0.05}
# Lambda starts far above what the constraint asks for, where short trials found
# it best for perplexity (`benchmarks/energy_weight.py` is their script); the
# ascent is slow beside it.
MULTIPLIER = {
    "target": 0.01,
    "rate": 1.0,
    "initial": 300.0,
    "maximum": 1000.0,
}
# The energy is measured and not penalised. The control without structure is to
# show what it does by itself.
WATCHED = {"target": 0.01, "rate": 0.0, "initial": 0.0}
UNPENALISED = ("unpenalised", "euler")
LEAST_SPREAD = 0.5
LEAST_COST = 1.03
# Text to measure energies on, in blocks, and tokens whose energy is drawn.
ENERGY_BLOCKS, DRAWN_TOKENS = 256, 12


def build(arm, seed, architecture, base_hidden_dim=None):
    """A fresh model; arms of one seed start from the weights they share.

    Args:
        arm: one of the recipe's `ARMS`.
        seed: int.
        architecture: dict, the arguments of `HamiltonianLM`.
        base_hidden_dim: int, hidden width of the base arms' feed-forward
            network, or `None` for twice the width.
    """
    base = _base(seed, architecture, base_hidden_dim, arm == "koopman")
    if arm in ("base", "koopman"):
        return base
    changes = {}
    if arm == "both":
        changes = {"koopman": KOOPMAN}
    elif arm == "euler":
        changes = {"integrator": "forward_euler"}
    elif arm == "attention_energy":
        changes = {
            "coupling": "attention_energy",
            "hidden_dim": width_without_mixer(
                architecture["dim"], base.blocks[0].count_params()
            ),
        }
    elif arm == "autonomous":
        steps = architecture["num_layers"] * architecture["num_steps"]
        changes = {"num_layers": 1, "num_steps": steps}
    keras.utils.set_random_seed(seed)
    model = HamiltonianLM(**{**architecture, **changes})
    model.build()
    copy_shared(base, model)
    if arm == "frozen":
        for block in model.blocks:
            block.potential.trainable = False
    return model


def width_without_mixer(dim, weights):
    """Hidden width at which an attention potential's block has as many weights.

    It has a norm and masses (3/2 d), keys and a null key (d/2 (d + 1)), and of
    its well k (d/2), W (d/2 x m) and two biases (2 m).
    """
    return round((weights - dim * (dim + 5) / 2) / (dim / 2 + 2))


def _base(seed, architecture, hidden_dim, has_operators):
    shared = (
        "vocabulary_size",
        "dim",
        "num_layers",
        "num_heads",
        "mixer",
        "dropout",
    )
    keras.utils.set_random_seed(seed)
    model = KoopmanLM(
        **{name: architecture[name] for name in shared if name in architecture},
        hidden_dim=hidden_dim,
        normalize_embedding=True,
        koopman=KOOPMAN if has_operators else None,
    )
    model.build()
    return model


def copy_shared(source, target):
    """Give `target` every weight that `source` has under the same name."""
    weights = {_name(weight): weight for weight in source.trainable_weights}
    for weight in target.trainable_weights:
        found = weights.get(_name(weight))
        if found is not None and found.shape == weight.shape:
            weight.assign(found)


def _name(weight):
    """The path below the model, whose own name counts up."""
    return weight.path.split("/", 1)[1]


def multiplier_of(arm):
    """The arguments of an arm's `LagrangeMultiplier`."""
    return WATCHED if arm in UNPENALISED else MULTIPLIER


def train_arm(arm, model, data, blocks, folder, settings, resume):
    """Train one arm; what was measured, a JSON-plain dict.

    Of `settings` are used what `train` uses, and `multiplier`.
    """
    has_energy = isinstance(model, HamiltonianLM)
    callbacks = [NonFiniteGuard("disable")]
    if arm in ("koopman", "both"):
        callbacks = [KoopmanSchedule(**SCHEDULE), *callbacks]
    batch_size = settings["batch_size"]
    text = {
        split: tokens[:ENERGY_BLOCKS]
        for split, (tokens, _) in blocks.items()
        if split != "train"
    }
    first = {}
    if has_energy:
        tracer = energy_tracer(model)
        callbacks = [
            LagrangeMultiplier(**settings["multiplier"]),
            *callbacks,
            # One batch, of the shape that is compiled anyway.
            EnergyHistory(
                folder / "energies.csv",
                tracer,
                text["valid"][:batch_size],
                batch_size,
            ),
        ]
        first = {
            split: evaluate_energies(tracer, tokens, batch_size)
            for split, tokens in text.items()
        }
    history = train(model, data, folder, settings, callbacks, resume)
    measured = {
        **count_weights(model),
        "seconds": sum(history["seconds"]),
        "seconds_per_epoch": float(np.median(history["seconds"])),
        "contributions": contributions(history),
        **score(model, data, blocks, batch_size),
    }
    if has_energy:
        measured["energies"] = {
            split: evaluate_energies(tracer, tokens, batch_size, first[split])
            for split, tokens in text.items()
        }
        measured["energies_at_start"] = first
        measured["without_potential"] = without_potential(
            model, *blocks["valid"], batch_size
        )
        measured["traces"] = drawn_traces(tracer, text["valid"], batch_size)
    return measured


def contributions(history):
    """What each auxiliary term was of the total loss, at the last epoch."""
    loss = history["loss"][-1]
    return {
        name: history[f"{name}_contribution"][-1] / loss
        for name in ("koopman", "energy")
        if f"{name}_contribution" in history
    }


def without_potential(model, x, y, batch_size):
    """Validation perplexity of a copy whose potentials are flat."""
    copy = type(model).from_config(model.get_config())
    copy.build()
    copy.set_weights(model.get_weights())
    for block in copy.blocks:
        for weight in block.potential.weights:
            # softplus(-50) is zero in float32 sums of order one.
            flat = -50.0 if weight.name == "curvature" else 0.0
            weight.assign(np.full(weight.shape, flat, "float32"))
    return perplexity(copy, x, y, batch_size)


def drawn_traces(tracer, tokens, batch_size):
    """Energies of a few tokens along the steps, and their spread, per block."""
    kinetic, potential, *_ = energy_traces(tracer, tokens, batch_size)
    energies = (kinetic + potential).astype("float64")
    n, layers, length, steps = energies.shape
    flat = energies.transpose(1, 0, 2, 3).reshape(layers, n * length, steps)
    chosen = np.linspace(0, n * length - 1, DRAWN_TOKENS).astype(int)
    return {
        "tokens": flat[:, chosen].tolist(),
        "spread": flat[..., 0].std(axis=1).tolist(),
        "drift": np.abs(flat - flat[..., :1]).mean(axis=1).tolist(),
    }


def least_spread_ratio(rows):
    """The smallest of the blocks, or NaN where one is not finite."""
    ratios = [row["spread_ratio"] for row in rows]
    return min(ratios) if np.all(np.isfinite(ratios)) else math.nan


def collapse_complaint(spread_ratio, potential_off_ratio):
    """Why a run does not count, or `""`.

    Args:
        spread_ratio: float, see `least_spread_ratio`: the spread of energy
            over inputs, over its value before training.
        potential_off_ratio: float, perplexity without potentials over the
            perplexity with them.
    """
    if not math.isfinite(spread_ratio):
        return (
            "The spread of the energy over inputs is not finite in some "
            "block, and its drift says nothing"
        )
    if not spread_ratio >= LEAST_SPREAD:
        return (
            f"The spread of the energy over inputs fell to {spread_ratio:.2f} "
            f"of its initial value, below {LEAST_SPREAD}: energy collapsed, "
            "and its drift says nothing"
        )
    # Also where either perplexity is NaN.
    if not potential_off_ratio >= LEAST_COST:
        return (
            "Without its potentials the model's perplexity is "
            f"{potential_off_ratio:.3f} times its own, not {LEAST_COST} or "
            "more: they are flat, and their drift says nothing"
        )
    return ""
