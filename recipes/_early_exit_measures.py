"""What the exit of a trained model is worth: loss, cost, risk, time."""

import math
import time

import numpy as np
from _early_exit_arms import LENGTH
from _training import token_losses
from orrery.metrics import risk_resampling
from orrery.zoo.exit_decoding import ExitDecoder
from orrery.zoo.exit_fitting import calibrate, routed_losses
from orrery.zoo.exit_measures import measure_exits, measure_route
from orrery.zoo.generation import generate
from orrery.zoo.self_speculation import speculate
from orrery.zoo.step_scores import score_steps

# Of the calibration text: what leaves at the thresholds that are tried (every
# second one where that text is short, and a run meant to be).
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# What the threshold of choice may cost: one per cent of the perplexity.
ALLOWED = math.log(1.01)
ALPHAS, DELTA, THRESHOLDS = (0.01, 0.02, 0.05, 0.1), 0.02, 50
# Windows that calibrate, or show a curve; the chosen threshold has them all.
WINDOWS = 1_000  # Fewer: a short text.
BINS = 20
# Of the estimated cost of leaving, nats: what is drawn.
COSTS = (1e-4, 10.0)
# Stretches of calibration text that are redrawn whole.
PIECES = 20
# Rows at a time, and how often.
BATCHES, TIMED = {1: 10, 64: 5}, 256
SMOKE_BATCHES, SMOKE_TIMED = {1: 2, 4: 2}, 24
PROMPTS, PROMPT = 5, 64
PARAGRAPH = 480


def measure(models, blocks, arguments):
    """Pairs of names and JSON-plain results; the thresholds come first.

    They are chosen on calibration text, and test text says what they do.
    """
    model, size = models["exits"], arguments.batch_size
    calibration, test = (
        tuple(spread(part) for part in blocks[split])
        for split in ("calibration", "test")
    )
    short = len(calibration[0]) < WINDOWS
    rows, chosen = thresholds(
        model, calibration, size, SHARES[::2] if short else SHARES
    )
    yield "thresholds", {"rows": rows, "chosen": chosen}
    told = measure_exits(model, *test, size)
    yield "risks", risks(model, calibration, test, told, size)
    yield "exits", exits(told)
    yield "curve", curve(models, rows, test, told, size)
    yield "chosen", routed(model, chosen, blocks["test"], size)
    yield "paragraph", paragraph(model, chosen, test[0])
    yield "speeds", speeds(models, rows, chosen, test[0], arguments.smoke)
    yield "drafts", drafts(model, test[0], arguments.smoke)
    model.set_threshold(chosen)


def spread(windows):
    """At most `WINDOWS` of them, evenly from the first to the last."""
    count = min(WINDOWS, len(windows))
    return windows[np.linspace(0, len(windows) - 1, count).astype(int)]


def thresholds(model, block, batch_size, shares=SHARES):
    """The thresholds of `shares`, and the lowest within what is allowed."""
    measured = measure_exits(model, *block, batch_size)
    full = measured["loss"][..., -1].mean(dtype="float64")
    rows, chosen = [], None
    for share in shares:
        level = float(np.quantile(measured["confidence"][..., 0], 1 - share))
        model.set_threshold(level)
        nats = measure_route(model, *block, batch_size=batch_size)["loss"]
        more = float(nats.mean(dtype="float64") - full)
        rows.append({"share": share, "threshold": level, "nats_more": more})
        if more <= ALLOWED:
            chosen = level  # The lower, the more leave.
    model.set_threshold(None)
    return rows, chosen


def risks(model, calibration, test, told, batch_size):
    """Calibrate for several risks; what test text and redrawn halves say."""
    # Half of the windows without a loss, in a resample, could vouch for alpha.
    alphas = [
        alpha
        for alpha in ALPHAS
        if len(calibration[0])
        >= 2 * math.ceil(math.log(DELTA) / math.log(1 - alpha))
    ]
    if not alphas:
        return []
    losses = routed_losses(model, *calibration, batch_size=batch_size)
    table = calibrate(
        model,
        *calibration,
        alphas=alphas,
        delta=DELTA,
        thresholds=THRESHOLDS,
        losses=losses,
    )
    choice = told["choice"]
    rows = []
    for row in table:
        model.set_risk(row["alpha"])
        out = measure_route(model, *test, batch_size=batch_size)
        windows = len(losses[0])
        alone, pieces = (
            redrawn(losses, row["alpha"], groups)
            for groups in (None, np.arange(windows) * PIECES // windows)
        )
        rows.append(
            {
                **row,
                "test_risk": float((out["choice"] != choice[..., -1]).mean()),
                "test_exit_rate": float((out["exit"] == 0).mean()),
                "windows": alone,
                "pieces": pieces,
            }
        )
    model.set_threshold(None)
    return rows


def redrawn(losses, alpha, groups):
    """How often a limit is kept on the other half; 100 draws."""
    drawn = risk_resampling(
        *losses, alpha, groups=groups, delta=DELTA, thresholds=THRESHOLDS
    )
    return {
        "kept": int((drawn["risk"] <= alpha).sum()),
        "without": int(np.isnan(drawn["threshold"]).sum()),
        "exit_rate": float(drawn["exit_rate"].mean()),
    }


def exits(measured):
    """How good the exit is, how confident, and how right about that."""
    confidence = measured["confidence"].ravel()
    estimated = np.clip(-np.log(confidence.astype("float64")), *COSTS)
    edges = np.geomspace(*COSTS, BINS + 1)
    divergence = measured["divergence"].ravel()
    order = np.argsort(confidence, kind="stable")
    groups = np.array_split(order, BINS)
    losses = measured["loss"].astype("float64").mean(axis=(0, 1))
    differs = measured["choice"][..., 0] != measured["choice"][..., -1]
    return {
        "windows": len(confidence) // LENGTH,
        "shallow_perplexity": math.exp(losses[0]),
        "deep_perplexity": math.exp(losses[-1]),
        "disagree": float(differs.mean()),
        "edges": edges.tolist(),
        "histogram": np.histogram(estimated, edges)[0].tolist(),
        "estimated": [float(-np.log(confidence[g]).mean()) for g in groups],
        "divergence": [float(divergence[g].mean()) for g in groups],
    }


def curve(models, rows, block, measured, batch_size):
    """Loss and cost at each threshold, under both policies; the other arms."""
    model = models["exits"]
    full = float(measured["loss"][..., -1].mean(dtype="float64"))
    results = []
    for row in rows:
        # Filled in later, the deeper layers see what they would have seen.
        leaves = measured["confidence"][..., 0] >= row["threshold"]
        losses = np.where(
            leaves, measured["loss"][..., 0], measured["loss"][..., -1]
        )
        model.set_threshold(row["threshold"])
        out = measure_route(model, *block, batch_size=batch_size)
        results.append(
            {
                "threshold": row["threshold"],
                "defer": _summary(model, losses, leaves, full, "defer"),
                "propagate": _summary(
                    model, out["loss"], out["exit"] == 0, full, "propagate"
                ),
            }
        )
    model.set_threshold(None)
    return {
        "windows": len(block[0]),
        "full": full,
        "nobody_leaves": cost(model, 0.0)["macs_with_head"],
        "rows": results,
        "arms": {
            arm: math.exp(
                token_losses(other, *block, batch_size).mean(dtype="float64")
            )
            for arm, other in models.items()
            if arm != "exits"
        },
    }


def routed(model, level, block, batch_size):
    """The chosen threshold on all of the test text."""
    full = measure_exits(model, *block, batch_size)["loss"][..., -1]
    model.set_threshold(level)
    out = measure_route(model, *block, batch_size=batch_size)
    model.set_threshold(None)
    return {
        "threshold": level,
        **_summary(
            model,
            out["loss"],
            out["exit"] == 0,
            float(full.mean(dtype="float64")),
            "propagate",
        ),
    }


def _summary(model, losses, leaves, full, policy):
    nats, left = float(losses.mean(dtype="float64")), float(leaves.mean())
    return {
        "exit_rate": left,
        "nats_more": nats - full,
        "perplexity": math.exp(nats),
        **cost(model, left, policy),
    }


def cost(model, left, policy="propagate"):
    """Of the tokens of a window; each attends to those before it."""
    return model.compute_cost([left], policy, context=(LENGTH + 1) / 2)


def paragraph(model, level, windows):
    """Some bytes of test text, and at which exit what follows was told."""
    tokens = windows[:2, : PARAGRAPH // 2]
    model.set_threshold(level)
    out = measure_route(model, tokens, tokens)
    model.set_threshold(None)
    return {"tokens": tokens.tolist(), "exit": out["exit"].tolist()}


def speeds(models, rows, chosen, windows, smoke):
    """Time and loss of the same decoding steps, of all arms.

    The models take turns, so that a machine that slows down slows down all,
    each time with other text.
    """
    model = models["exits"]
    decoder, last = ExitDecoder(model), len(model.blocks) - 1

    def alone(other, tokens):
        return score_steps(other, tokens)[0], np.array(last)

    levels = [row["threshold"] for row in rows[1::2]]
    runs = [
        ("full depth", None, lambda tokens: score_steps(model, tokens)),
        ("exits, nobody leaves", None, lambda t: score_steps(decoder, t)),
        *(
            ("exits", level, lambda tokens: score_steps(decoder, tokens))
            for level in levels
        ),
    ]
    if chosen is not None:
        runs.append(
            ("exits, chosen", chosen, lambda t: score_steps(decoder, t))
        )
    runs += [
        (f"arm {arm}", None, lambda t, arm=arm: alone(models[arm], t))
        for arm in models
        if arm != "exits"
    ]
    measured = []
    length = SMOKE_TIMED if smoke else TIMED
    for batch, repeats in (SMOKE_BATCHES if smoke else BATCHES).items():
        batch = min(batch, len(windows))
        times, losses, exits = ([[] for _ in runs] for _ in range(3))
        # Each time other text, from all over it.
        order = np.random.default_rng(0).permutation(len(windows))
        for repeat in range(-1, repeats):  # The first compiles.
            first = max(repeat, 0) * batch % (len(windows) - batch + 1)
            tokens = windows[order[first : first + batch], :length]
            for place, (_, level, run) in enumerate(runs):
                model.set_threshold(level)
                start = time.perf_counter()
                loss, left = run(tokens)
                seconds = time.perf_counter() - start
                if repeat < 0:
                    continue
                times[place].append(seconds)
                losses[place].append(loss.mean(dtype="float64"))
                exits[place].append((left < last).mean())
        for place, (what, level, _) in enumerate(runs):
            ratios = np.array(times[0]) / np.array(times[place])
            measured.append(
                {
                    "batch": batch,
                    "what": what,
                    "threshold": level,
                    "repeats": repeats,
                    "exit_rate": float(np.mean(exits[place])),
                    "seconds_per_step": float(np.median(times[place]))
                    / (length - 1),
                    "speedup": float(np.median(ratios)),
                    "nats_more": float(
                        np.mean(losses[place]) - np.mean(losses[0])
                    ),
                }
            )
    model.set_threshold(None)
    return measured


def drafts(model, windows, smoke):
    """Greedy text with drafts and without, from natural prompts."""
    length = SMOKE_TIMED if smoke else TIMED
    rows = []
    some = np.linspace(0, len(windows) - 1, PROMPTS).astype(int)
    for prompt in windows[some, : min(PROMPT, length // 2)]:
        for _ in range(1 if rows else 2):  # The first compiles.
            start = time.perf_counter()
            text, stats = speculate(model, prompt, length, return_stats=True)
            drafted = time.perf_counter() - start
            start = time.perf_counter()
            same = generate(model, prompt, length, sampler="greedy")
            plain = time.perf_counter() - start
        rows.append((plain / drafted, stats["acceptance_rate"], text == same))
    speedup, accepted, same = zip(*rows, strict=True)
    return {
        "prompts": len(speedup),
        "speedup": float(np.median(speedup)),
        "acceptance_rate": float(np.mean(accepted)),
        "identical": int(sum(part.all() for part in same)),
    }
