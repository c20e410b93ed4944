"""Multiply-accumulates per token of a network with exits, heads counted."""

import itertools

from .._checks import check_integer, check_real

POLICIES = ("both", "propagate", "defer", "selected")
CONFIDENCES = ("learned", "max_prob", "margin", "state_similarity")


def exit_compute_cost(
    vocabulary_size,
    dim,
    hidden_dim,
    blocks,
    exit_fractions,
    confidence="learned",
    policy="propagate",
    units=64,
    key_value_dim=None,
    context=None,
    every_head=False,
):
    """What exits save, counted three ways, as fractions of full depth.

    A layer of attention and SwiGLU costs `c = 4 d^2 + 3 d f` per token, and
    `2 d n` more where it attends to n tokens; a head costs `V d`. Full depth is
    `L c + V d`. Norms, softmax, rotations and look-ups are not counted.

    Args:
        vocabulary_size: int, V.
        dim: int, width d.
        hidden_dim: int, width f of SwiGLU.
        blocks: sequence of int, layers of every block, L in all.
        exit_fractions: sequence of float, the share of all tokens that leaves
            at each exit but the last.
        confidence: as in `EarlyExitRouter`. `"max_prob"` and `"margin"` need
            the head of an exit for all who reach it, `"state_similarity"`
            3 d, `"learned"` `(d + 1) u`.
        policy: what becomes of the deeper keys and values of who has left.
            `"propagate"`: made of the state at the exit, `2 d^2` per layer
            (less with narrower keys);
            `"defer"`: the layers are run later, in company; `"selected"`: there
            are none; `"both"`: nothing is skipped, the output is chosen.
        units: int u, hidden units of a learned confidence. Defaults to `64`.
        key_value_dim: int, the width of keys and of values, all heads; `None`
            is d. With another, c has `2 d (d + it)` in the place of `4 d^2`.
        context: float n, the mean number of tokens attended to, or `None` to
            leave attention's own products out. For `"selected"` deeper layers
            attend to that part of them which got there.
        every_head: bool, whether an exit's head runs for all who reach it, as
            it does in a batch, of which some rows leave; else for those who
            leave alone, or for all if the confidence is made of it. Defaults
            to `False`.

    Returns:
        A dict: `layers_only`, the mean depth over L, which leaves heads out;
        `macs_with_head`, what a network that skips computes; `macs_executed`,
        what is computed where all layers and heads run.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
    >>> cost = exit_compute_cost(256, 192, 768, (3, 7), [0.5])
    >>> round(cost["layers_only"], 2), round(cost["macs_with_head"], 2)
    (0.65, 0.7)
    """
    for name, value in (
        ("vocabulary_size", vocabulary_size),
        ("dim", dim),
        ("hidden_dim", hidden_dim),
        ("units", units),
        ("key_value_dim", dim if key_value_dim is None else key_value_dim),
        *(("blocks", size) for size in blocks),
    ):
        check_integer(name, value, 1)
    if not blocks:
        raise ValueError("`blocks` must have at least one number of layers.")
    if context is not None:
        check_real("context", context, "at least 0", lambda n: n >= 0)
    if policy not in POLICIES:
        raise ValueError(
            f"`policy` must be one of {POLICIES}. Received: {policy!r}"
        )
    if confidence not in CONFIDENCES:
        raise ValueError(
            f"`confidence` must be one of {CONFIDENCES}. "
            f"Received: {confidence!r}"
        )
    fractions = exit_fractions
    if not isinstance(fractions, (list, tuple)) or len(fractions) != (
        len(blocks) - 1
    ):
        raise ValueError(
            "`exit_fractions` must have an entry per exit but the last, "
            f"{len(blocks) - 1}. Received: {exit_fractions}"
        )
    for share in (*fractions, sum(fractions)):
        check_real(
            "exit_fractions",
            share,
            "in [0, 1], in sum too",
            lambda value: 0 <= value <= 1 + 1e-6,
        )
    keys_and_values = (
        2 * dim * (dim if key_value_dim is None else key_value_dim)
    )
    layer = 2 * dim**2 + keys_and_values + 3 * dim * hidden_dim
    attention = 2 * dim * (context or 0)
    # What a layer still costs for a token that has left.
    still = {"propagate": keys_and_values, "defer": layer + attention}
    still = still.get(policy, 0)
    head = vocabulary_size * dim
    measure = {"learned": (dim + 1) * units, "state_similarity": 3 * dim}
    every_head = every_head or confidence not in measure
    measure = measure.get(confidence, 0)
    depths = list(itertools.accumulate(blocks))
    full = depths[-1] * (layer + attention) + head

    reaching, skipping, layers, macs = 1.0, 0.0, 0.0, 0.0
    for index, size in enumerate(blocks):
        layers += reaching * size
        visible = reaching if policy == "selected" else 1.0
        macs += reaching * size * (layer + visible * attention)
        macs += skipping * size * still
        if index == len(blocks) - 1:
            macs += reaching * head
            break
        leaving = fractions[index]
        macs += reaching * measure
        macs += (reaching if every_head else leaving) * head
        reaching, skipping = reaching - leaving, skipping + leaving
    executed = full + (len(blocks) - 1) * head
    executed += (len(blocks) - 1) * measure
    return {
        "layers_only": layers / depths[-1],
        "macs_with_head": (executed if policy == "both" else macs) / full,
        "macs_executed": executed / full,
    }
