"""What the original published, and a run of ours laid beside it.

All figures are of WikiText-2, from the repository
neko-jpg/Project-ResNet-BK-An-O-N-Language-Model-Architecture. Its only fresh
run is the one with the physics term; its Koopman run was started from a trained
model, which is where the Koopman-forward figure comes from.
"""

# Validation perplexity, a mean of batch means, of epochs 1 to 10.
PERPLEXITY = (
    [578.16, 512.19, 501.65, 490.69, 488.19]
    + [486.48, 483.09, 482.69, 479.89, 476.57]
)  # fmt: skip
KOOPMAN_FORWARD = 8560.36
# What the physics run logged of its energies, of epochs 5 to 10.
PHYSICS_EPOCH = 5
PHYSICS = {
    "energy loss": [3.1889, 1.0017, 0.2770, 0.0990, 0.0557, 0.0471],
    "lambda": [4.2747, 5.4686, 5.7788, 5.7410, 5.5885, 5.4064],
    "drift": [0.9677, 0.3507, 0.1709, 0.0999, 0.0766, 0.0710],
}
LOGGED = {
    "energy loss": "energy_loss",
    "lambda": "energy_multiplier",
    "drift": "energy_drift",
}


def beside_published(preset, seed, history, compare):
    """A row per epoch, of a run with energies those as well.

    Args:
        preset: str.
        seed: int.
        history: dict of lists, what `train` returned.
        compare: bool, whether the published figures are of the same data.

    Returns:
        List of dicts; "" where nothing was published.
    """
    rows = []
    for epoch, own in enumerate(history["val_batch_mean_perplexity"], 1):
        row = {
            "preset": preset,
            "seed": seed,
            "epoch": epoch,
            "batch-mean perplexity": round(own, 2),
            "token-weighted": round(history["val_perplexity"][epoch - 1], 2),
            "published": at(PERPLEXITY, epoch, 1, compare),
        }
        if "energy_spread" in history:
            for column, key in LOGGED.items():
                row[column] = round(history[key][epoch - 1], 4)
                row[f"published {column}"] = at(
                    PHYSICS[column], epoch, PHYSICS_EPOCH, compare
                )
            spread = history["energy_spread"][epoch - 1]
            row["energy spread"] = round(spread, 4)
        rows.append(row)
    return rows


def at(figures, epoch, first, compare):
    """The figure of an epoch where `figures` begin with epoch `first`."""
    index = epoch - first
    return figures[index] if compare and 0 <= index < len(figures) else ""
