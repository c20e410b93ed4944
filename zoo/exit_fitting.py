"""What is fitted to a language model's exits after it was trained."""

import keras
import numpy as np
from keras import ops

from .._checks import check_integer, check_real
from ..datasets.epoch_order import EpochOrder
from ..metrics.risk_control import calibrate_threshold
from .exit_measures import divergence, measure_exits, measure_route
from .exit_routing import fingerprint


def fit_exit_heads(
    model, tokens, epochs=4, batch_size=32, learning_rate=2e-3, seed=0
):
    """Fit the learned confidences: what would leaving cost a token?

    Of every token the state at an exit and `KL(p_L || p_e)` are taken, the
    network as it is; the exit heads are fitted to that divergence by the
    Poisson loss `k - KL log k`, whose best estimate is the mean. Any later
    training of the network invalidates them, and they invalidate thresholds
    that were calibrated before: the model's `risks` are gone.

    Args:
        model: a built `EarlyExitLM` with `confidence="learned"`; its routers
            are changed, nothing else.
        tokens: int array `(n, N)`, of text that the network was not trained
            on. They must fit into memory as n N states of width d.
        epochs: int, passes. Defaults to `4`.
        batch_size: int, rows of tokens at a time. Defaults to `32`.
        learning_rate: float, of AdamW. Defaults to `2e-3`.
        seed: int, of the order. Defaults to `0`.

    Returns:
        The mean loss of every exit's last epoch, a list of floats.

    Raises:
        ValueError: if the confidence is not learned, or there is no exit.
    """
    if model.confidence != "learned" or not model.routers:
        raise ValueError(
            "`model` must have an exit before the last and "
            f"confidence='learned'. Received: blocks={model.blocks}, "
            f"confidence={model.confidence!r}"
        )
    check_integer("epochs", epochs, 1)
    check_real("learning_rate", learning_rate, "above 0", lambda r: r > 0)
    costs, model.risks = [], None
    for exit, router in enumerate(model.routers):
        states, cost = _examples(model, tokens, exit, batch_size)
        rows = batch_size * tokens.shape[1]
        batches = _Examples(states, cost, rows, seed)
        head = keras.Sequential(
            [keras.Input((model.dim,)), *router.exit_head], name="exit_head"
        )
        router.trainable = True
        head.compile(keras.optimizers.AdamW(learning_rate), loss="poisson")
        history = head.fit(batches, epochs=epochs, shuffle=False, verbose=0)
        router.trainable = False
        costs.append(history.history["loss"][-1])
    return costs


def calibrate(
    model,
    tokens,
    targets,
    alphas=(0.01, 0.02, 0.05, 0.1),
    delta=0.02,
    kind="disagree",
    policy="propagate",
    thresholds=50,
    batch_size=32,
    losses=None,
    **options,
):
    """Thresholds for several risks, kept in the model for `set_risk`.

    Risk is that of the routed network against itself at full depth, window by
    window, under the policy it will run by: what the deeper layers see of
    those who have left is part of it. One exit before the last.

    Args:
        model: a built `EarlyExitLM` of two blocks; its `risks` are replaced
            and its threshold is left as it was.
        tokens: int array `(n, N)`: n windows that nothing was fitted to.
        targets: int array `(n, N)`.
        alphas: floats, the risks. Defaults to `(0.01, 0.02, 0.05, 0.1)`.
        delta: float, see `calibrate_threshold`. Defaults to `0.02`.
        kind: `"disagree"` or `"excess_nll"`. Defaults to `"disagree"`.
        policy: `"propagate"`, or `"both"` for the decoder's `"defer"`; the
            latter with `method="crc"`, and then `kind="disagree"`, for it
            needs losses that only grow as more leave.
        thresholds: see `calibrate_threshold`. Defaults to `50`.
        batch_size: int. Defaults to `32`.
        losses: what `routed_losses` returns for the same arguments, if that
            is there.
        **options: further arguments of `calibrate_threshold`.

    Returns:
        The table, a list of dicts as `calibrate_threshold` returns them.

    Raises:
        ValueError: if the model has not two blocks, for a method without a
            promise, and where `calibrate_threshold` raises one: too few
            windows, say.
    """
    if len(model.blocks) != 2:
        raise ValueError(
            "`model` must have two blocks, for one threshold. Received: "
            f"blocks={model.blocks}"
        )
    if policy not in ("propagate", "both"):
        raise ValueError(
            "`policy` must be 'propagate' or 'both', which is what 'defer' "
            f"amounts to. Received: {policy!r}"
        )
    method = options.get("method", "ltt")
    if method == "quantile":
        raise ValueError(
            "`method='quantile'` promises no risk for `set_risk` to keep: use "
            "`calibrate_threshold` and `set_threshold`."
        )
    if method == "crc" and (policy, kind) != ("both", "disagree"):
        raise ValueError(
            "`method='crc'` needs policy='both' and kind='disagree': else the "
            "losses may fall as more leave. Received: "
            f"policy={policy!r}, kind={kind!r}"
        )
    confidence, under = losses or routed_losses(
        model, tokens, targets, kind, policy, batch_size
    )
    table = [
        calibrate_threshold(
            confidence,
            under,
            alpha,
            delta,
            kind=kind,
            thresholds=thresholds,
            **options,
        )
        for alpha in alphas
    ]
    model.risks = {
        "kind": kind,
        "policy": policy,
        "tokens_per_window": int(tokens.shape[1]),
        "weights": fingerprint(model),
        "table": table,
    }
    return table


def routed_losses(
    model, tokens, targets, kind="disagree", policy="propagate", batch_size=32
):
    """What leaving costs every token, for any threshold.

    Args:
        model: see `calibrate`, as the other arguments.
        tokens: int array `(n, N)`.
        targets: int array `(n, N)`.
        kind: `"disagree"` or `"excess_nll"`.
        policy: `"propagate"` or `"both"`.
        batch_size: int.

    Returns:
        The confidences `(n, N)`, and a function from a threshold to the losses
        `(n, N)`: arguments of `calibrate_threshold` and `risk_resampling`. The
        network runs once for each set of tokens that leave.
    """
    measured = measure_exits(model, tokens, targets, batch_size)
    confidence = measured["confidence"][..., 0]
    full, choice = (measured[key][..., -1] for key in ("loss", "choice"))
    known = {0: np.zeros(full.shape, "float32")}

    def under(level):
        leaving = int((confidence >= level).sum())
        if leaving not in known:
            before = model.thresholds
            model.set_threshold(min(float(level), 1.0))
            try:
                routed = measure_route(
                    model, tokens, targets, policy, batch_size=batch_size
                )
            finally:
                model.set_threshold(before)
            known[leaving] = (
                (routed["choice"] != choice).astype("float32")
                if kind == "disagree"
                else routed["loss"] - full
            )
        return known[leaving]

    return confidence, under


class _Examples(EpochOrder):
    """States and what leaving costs, in an order of (seed, epoch) alone."""

    def __init__(self, states, cost, batch_size, seed):
        self.states, self.cost = states, cost
        super().__init__(len(states), batch_size, True, seed, 0)

    def __getitem__(self, index):
        rows, genuine = self.rows(index)
        weight = np.zeros(len(rows), "float32")
        weight[:genuine] = 1.0
        return self.states[rows], self.cost[rows], weight


def _examples(model, tokens, exit, batch_size):
    examples = _States(model, exit)
    out = examples.predict(tokens, batch_size=batch_size, verbose=0)
    states, cost = out[..., :-1], out[..., -1:]
    return states.reshape(-1, model.dim), cost.reshape(-1, 1)


class _States(keras.Model):
    """What an exit head sees of every token, and what it should say."""

    def __init__(self, model, exit):
        super().__init__(name="states")
        self.model = model
        self.exit = exit

    def call(self, tokens):
        states = self.model.exit_states(tokens)
        h = states[self.exit][0]
        cost = divergence(
            self.model.exit_logits(states[-1][0], -1),
            self.model.exit_logits(h, self.exit),
        )
        seen = ops.cast(self.model.exit_norms[self.exit](h), "float32")
        return ops.concatenate([seen, cost[..., None]], axis=-1)
