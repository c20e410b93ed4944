"""The optimizer the recipes train with, unless told otherwise."""

import keras

from .guarded_optimizer import GuardedOptimizer


def adamw_cosine(
    total_steps,
    learning_rate=1e-3,
    warmup=0.05,
    final=0.1,
    weight_decay=0.01,
    clip_norm=0.5,
    separate=("koopman_operator",),
):
    """AdamW under a warm-up and cosine schedule, guarded and clipped by group.

    The rate rises linearly from `learning_rate / warmup_steps`, so that the
    first batch counts, to `learning_rate` over the first `warmup` of the steps
    and falls along half a cosine to `final * learning_rate` at
    the last. Weight decay acts on matrices, embeddings among them (a tied
    table is also the output kernel), and not on biases and norm scales.

    Args:
        total_steps: Integer, optimizer steps of the whole run.
        learning_rate: Float, the highest rate. Defaults to `1e-3`.
        warmup: Float in [0, 1), fraction of steps. Defaults to `0.05`.
        final: Float in [0, 1], last rate as a fraction of the highest.
            Defaults to `0.1`.
        weight_decay: Float, decoupled decay per unit of rate. Defaults to
            `0.01`.
        clip_norm: Float or None, see `GuardedOptimizer`. Defaults to `0.5`.
        separate: Sequence of strings, see `GuardedOptimizer`. Defaults to
            `("koopman_operator",)`.

    Returns:
        A `GuardedOptimizer` around a `keras.optimizers.AdamW`.

    Raises:
        ValueError: If `total_steps < 1` or a fraction is out of range.

    Example:
    >>> optimizer = adamw_cosine(total_steps=1000, learning_rate=2e-3)
    >>> schedule = optimizer.inner_optimizer.get_config()["learning_rate"]
    >>> schedule["config"]["warmup_steps"]
    50

    Reference:
        [Loshchilov & Hutter, 2017](https://arxiv.org/abs/1711.05101) (AdamW).
    """
    if total_steps < 1:
        raise ValueError(
            f"`total_steps` must be at least 1. Received: {total_steps}"
        )
    if not 0 <= warmup < 1:
        raise ValueError(
            f"`warmup` must be at least 0 and below 1. Received: {warmup}"
        )
    if not 0 <= final <= 1:
        raise ValueError(f"`final` must be from 0 to 1. Received: {final}")
    warmup_steps = round(warmup * total_steps)
    decay_steps = max(1, total_steps - warmup_steps)
    if warmup_steps:
        schedule = keras.optimizers.schedules.CosineDecay(
            learning_rate / warmup_steps,
            decay_steps,
            alpha=final,
            warmup_target=learning_rate,
            warmup_steps=warmup_steps,
        )
    else:
        schedule = keras.optimizers.schedules.CosineDecay(
            learning_rate, decay_steps, alpha=final
        )
    inner = keras.optimizers.AdamW(
        schedule, weight_decay=weight_decay, beta_1=0.9, beta_2=0.999
    )
    return GuardedOptimizer(inner, clip_norm=clip_norm, separate=separate)
