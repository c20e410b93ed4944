"""What made the original's 829.78 a 1076.02: the leak, or the context?

    python benchmarks/leak_or_context.py                 hours on two cores

Its second phase was trained on tokens of the validation text, one by one; a
later version took them from the training text, in whole windows, and four more
things changed at once. Here two change, one at a time: where 2,048 windows are
mined (`valid`; `train`, which the first phase has seen; `unseen`, training text
behind that), and whether their tokens are trained `alone` or in `context`. All
else is held: of a seed one first phase, one start of the second, one threshold
(the median on validation text), the 32,768 least confident tokens of the mined
windows, 512 steps of 64 of them, ten epochs, AdamW 1e-4, no early stop.

Judged by ln perplexity with early exits: on validation text, as the original
did, and on the first 66,000 tokens of test text, targets without a word of
their own left out; after epoch 7, where the original stopped, and where
validation text is best. The effects are those of a 2 x 2 table,

    leak = ((train - valid) alone + (train - valid) in context) / 2,
    context = ((context - alone) on valid + (context - alone) on train) / 2,

their sum is the change of both at once; means over seeds with 95 % t intervals,
and where that of the sum leaves out 0, the leak's share of it. As a check on
the leak, `half` mines the first half of the validation text alone, for half as
many steps: by how much more that half gains than the other, which nothing was
mined of, over the same in a network that mined neither. `nothing` mined is the
first phase by itself. `--dataset` may be a folder of raw files, wiki.train.raw,
wiki.valid.raw and wiki.test.raw, of which the published figures are.
Written anew after every cell, and one that it holds is not made again.
"""

import math
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

CELLS = [
    (m, t) for m in ("valid", "train", "unseen") for t in ("alone", "context")
]
CELLS.append(("half", "alone"))
FIRST = ("nothing", "")
EPOCHS, JUDGED, LEARNING_RATE = 10, 7, 1e-4
TEST_TOKENS = 66_000
SMOKE_EPOCHS, SMOKE_JUDGED = 2, 1
SCORES = ("valid", "test", "valid_best", "test_best")
COLUMNS = ("threshold", "steps", "leave", "valid", "first_half", "second_half")
COLUMNS += ("test", "best_epoch", "valid_best", "test_best", "unknown_of_test")
COLUMNS += ("valid_perplexity", "test_perplexity")


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("--dataset", default="wikitext2")
    flags.add_argument("--seeds", type=int, default=5, help="2 or more, from 0")
    arguments = _command_line.parse(flags, argv)
    if arguments.seed:
        flags.error("--seed has no effect: seeds count from 0; see --seeds")
    if arguments.seeds < 2:
        flags.error(f"--seeds must be at least 2; got {arguments.seeds}")
    if arguments.smoke:
        arguments.seeds = 2
    run(arguments)


def run(arguments):
    from _ashem_experiment import SMOKE, read
    from _measure import finished_rows, results_file, write_csv
    from orrery.zoo.legacy.ashem_protocol import LegacyExperiment

    name = pathlib.Path(arguments.dataset).stem
    root = arguments.out or pathlib.Path(f"runs/leak_or_context-{name}")
    root /= "smoke" if arguments.smoke else "full"
    path = results_file(
        f"leak_or_context_{name}",
        ["keras", arguments.backend],
        smoke=arguments.smoke,
    )
    rows = [r for r in finished_rows(path, {}) if not r["interval_95"]]
    parts, words = texts(
        read(arguments)[0],
        LegacyExperiment(**(SMOKE if arguments.smoke else {})),
    )
    for seed in range(arguments.seeds):
        experiment = LegacyExperiment(
            seed=seed, **(SMOKE if arguments.smoke else {})
        )
        done = {
            (r["mined"], r["trained"]) for r in rows if r["seed"] == str(seed)
        }
        missing = [cell for cell in (FIRST, *CELLS) if cell not in done]
        if not missing:
            continue
        lower = first_phase(parts, words, experiment, root)
        for mined, trained in missing:
            print(f"=== seed {seed}: {mined}, {trained} ===", flush=True)
            scores = (
                by_itself(lower, parts)
                if (mined, trained) == FIRST
                else cell(lower, mined, trained, parts, experiment)
            )
            row = {
                "seed": str(seed),
                "mined": mined,
                "trained": trained,
                **dict.fromkeys(COLUMNS, ""),
                **scores,
                "interval_95": "",
            }
            rows.append(row)
            rows.sort(
                key=lambda r: (
                    int(r["seed"]),
                    (FIRST, *CELLS).index((r["mined"], r["trained"])),
                )
            )
            print(row, flush=True)
            write_csv(path, rows + effects(rows))
    print(f"Wrote {path}")


def texts(texts, experiment):
    """Windows `(n, length)` of every part, and the number of words."""
    import numpy as np
    from orrery.zoo.legacy.ashem_data import (
        published_batches,
        published_vocabulary,
        split_tokens,
    )

    if "test" not in texts:
        raise SystemExit("--dataset must have a text to test on, wiki.test.raw")
    vocabulary = published_vocabulary(texts)

    def ids(split):
        known = (vocabulary.get(w, 0) for w in split_tokens(texts[split]))
        return np.fromiter(known, "int32")

    span, size = experiment.length + 1, experiment.batch_size
    used, fifth = (int(experiment.samples * f) * span for f in (1, 0.2))
    train, valid = ids("train"), ids("valid")
    pieces = {
        "train": train[:used],
        "unseen": train[used:],
        "valid": valid[:fifth],
        "test": ids("test")[: min(TEST_TOKENS, fifth)],
    }
    return {
        name: published_batches(piece, size, experiment.length)
        for name, piece in pieces.items()
    }, len(vocabulary)


def first_phase(parts, words, experiment, root):
    """Two layers, trained by early stopping: a file for each seed."""
    import keras
    from orrery.zoo.legacy.ashem_protocol import train_phase1
    from orrery.zoo.legacy.lego_lm import LegoLM
    from orrery.zoo.legacy.torch_draws import TorchDraws, draw_as_published

    path = root / f"seed_{experiment.seed}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    model = LegoLM(
        words,
        experiment.dim,
        experiment.ashem.phase1_layers,
        None,
        experiment.num_heads,
        experiment.hidden_dim,
    )
    draw_as_published(model, TorchDraws(experiment.seed))
    train_phase1(model, parts["train"], parts["valid"], experiment)
    root.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.keras")
    model.save(partial)
    partial.replace(path)
    return model


def cell(lower, mined, trained, parts, experiment):
    """Mine, train the second phase, judge after every epoch."""
    import keras
    from orrery.zoo.legacy.ashem import (
        InOrder,
        RoutedScores,
        compute_confidence_threshold,
        published_optimizer,
    )
    from orrery.zoo.legacy.torch_draws import TorchDraws, draw_as_published
    from orrery.zoo.staged_training import UpperLayers

    threshold = compute_confidence_threshold(lower, parts["valid"], 0.5)
    draws = TorchDraws(experiment.seed + 1_000)
    model = lower.extend(
        experiment.ashem.phase2_layers - experiment.ashem.phase1_layers,
        threshold,
        initialise=lambda deep: draw_as_published(deep, draws),
    )
    examples = mine(lower, mined, parts, experiment)
    batches = (alone if trained == "alone" else in_context)(
        examples, experiment
    )
    upper, scores = UpperLayers(model), RoutedScores(model)
    upper.compile(published_optimizer(LEARNING_RATE))
    history = []

    class Judge(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            # On JAX this attaches the weights, which the scores read.
            assert self.model is not None
            history.append(
                {
                    split: judge(scores, parts[split], every)
                    for split, every in (("valid", True), ("test", False))
                }
            )
            print(f"epoch {epoch + 1}: {history[-1]}", flush=True)

    smoke = experiment.max_epochs < EPOCHS
    epochs = SMOKE_EPOCHS if smoke else EPOCHS
    upper.fit(
        InOrder(batches),
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[Judge()],
    )
    judged = history[(SMOKE_JUDGED if smoke else JUDGED) - 1]
    best = min(range(epochs), key=lambda e: history[e]["valid"]["nats"])
    return {
        "threshold": threshold,
        "steps": len(batches),
        "leave": judged["valid"]["leave"],
        "valid": judged["valid"]["nats"],
        "first_half": judged["valid"]["halves"][0],
        "second_half": judged["valid"]["halves"][1],
        "test": judged["test"]["nats"],
        "best_epoch": best + 1,
        "valid_best": history[best]["valid"]["nats"],
        "test_best": history[best]["test"]["nats"],
        "unknown_of_test": judged["test"]["unknown"],
        "valid_perplexity": math.exp(judged["valid"]["nats"]),
        "test_perplexity": math.exp(judged["test"]["nats"]),
    }


def by_itself(lower, parts):
    """The two layers of the first phase, which nobody leaves."""
    from orrery.zoo.legacy.ashem import RoutedScores

    scores = RoutedScores(lower)
    valid = judge(scores, parts["valid"], True)
    test = judge(scores, parts["test"], False)
    return {
        "leave": 0.0,
        "valid": valid["nats"],
        "first_half": valid["halves"][0],
        "second_half": valid["halves"][1],
        "test": test["nats"],
        "valid_best": valid["nats"],
        "test_best": test["nats"],
        "unknown_of_test": test["unknown"],
        "valid_perplexity": math.exp(valid["nats"]),
        "test_perplexity": math.exp(test["nats"]),
    }


def mine(lower, mined, parts, experiment):
    """States of as many windows as valid has, or half, and the hard tokens."""
    import numpy as np
    from orrery.zoo.ashem import collect_hard_examples, windows

    count = len(windows(parts["valid"])[0])
    x, y = windows(parts["valid" if mined == "half" else mined])
    if mined == "half":
        count //= 2
        x, y = x[:count], y[:count]
    drawn = np.random.default_rng(experiment.seed).permutation(len(x))[:count]
    drawn.sort()
    found = collect_hard_examples(lower, [(x[drawn], y[drawn])], 1.0)
    order = np.argsort(found["confidences"], kind="stable")
    hard = np.zeros(x[drawn].size, "float32")
    # A confidence of exactly 1 would be missing, and shift all behind it.
    assert len(order) == hard.size, (len(order), hard.size)
    hard[order[: hard.size // 2]] = 1.0
    return {
        "states": found["window_states"],
        "targets": found["window_targets"],
        "weights": hard.reshape(y[drawn].shape),
    }


def alone(examples, experiment):
    """Hard tokens one by one, in one order for all epochs."""
    import numpy as np

    hard = examples["weights"] > 0
    states, targets = examples["states"][hard], examples["targets"][hard]
    order = np.random.default_rng(experiment.seed).permutation(len(targets))
    return [
        (
            {
                "states": states[rows][:, None],
                "targets": targets[rows][:, None],
            },
            targets[rows][:, None],
        )
        for rows in np.array_split(order, len(order) // experiment.batch_size)
    ]


def in_context(examples, experiment):
    """Whole windows, as many steps, the loss on the hard tokens."""
    import numpy as np

    rows = len(examples["targets"])
    order = np.random.default_rng(experiment.seed).permutation(rows)
    hard = int((examples["weights"] > 0).sum())
    steps = hard // experiment.batch_size
    return [
        (
            {
                "states": examples["states"][part],
                "targets": examples["targets"][part],
                "sample_weight": examples["weights"][part],
            },
            examples["targets"][part],
            examples["weights"][part],
        )
        for part in np.array_split(order, steps)
    ]


def judge(scores, batches, every):
    """Nats per token as routed, of every one or of those that have a word."""
    from orrery.zoo.ashem import windows

    tokens, targets = windows(batches)
    found = scores.predict(
        {"tokens": tokens, "targets": targets},
        batch_size=len(batches[0][0]),
        verbose=0,
    )
    known = (targets != 0) | every

    def mean(part):
        return float(found["loss"][part][known[part]].mean(dtype="float64"))

    half = len(tokens) // 2
    return {
        "nats": mean(slice(None)),
        "halves": [mean(slice(half)), mean(slice(half, None))],
        "leave": float((found["exit"] == 0).mean()),
        "unknown": float(1 - known.mean()),
    }


def effects(rows):
    """Leak, context and the rest, over the seeds that have all cells."""
    from _measure import half_width

    found = {(r["seed"], r["mined"], r["trained"]): r for r in rows}
    seeds = [
        seed
        for seed in sorted({r["seed"] for r in rows})
        if all((seed, *cell) in found for cell in CELLS)
    ]
    if len(seeds) < 2:
        return []

    def of(seed, score):
        def m(mined, trained):
            return float(found[seed, mined, trained][score])

        first = m("train", "alone") - m("valid", "alone")
        second = m("train", "context") - m("valid", "context")
        return {
            "leak": (first + second) / 2,
            "context": (
                m("valid", "context")
                - m("valid", "alone")
                + m("train", "context")
                - m("train", "alone")
            )
            / 2,
            "interaction": second - first,
            "leak + context": m("train", "context") - m("valid", "alone"),
            "unseen - train, alone": m("unseen", "alone") - m("train", "alone"),
            "unseen - train, in context": m("unseen", "context")
            - m("train", "context"),
        }

    def row(effect, scores):
        """Means over seeds, and intervals, of what each score has."""
        result = dict.fromkeys(rows[0], "")
        result |= {"seed": f"{seeds[0]}-{seeds[-1]}", "mined": effect}
        intervals = []
        for score, values in scores.items():
            mean, half = statistics.mean(values), half_width(values)
            result[score] = round(mean, 5)
            intervals.append(
                f"{score} [{mean - half:+.4f}, {mean + half:+.4f}]"
            )
        result["interval_95"] = "; ".join(intervals)
        return result

    def of_seeds(effect, score):
        return [of(seed, score)[effect] for seed in seeds]

    results = [
        row(effect, {score: of_seeds(effect, score) for score in SCORES})
        for effect in of(seeds[0], "valid")
    ]
    shares = {}
    for score in SCORES:
        total = of_seeds("leak + context", score)
        if abs(statistics.mean(total)) > half_width(total):
            leak = of_seeds("leak", score)
            shares[score] = [a / b for a, b in zip(leak, total, strict=True)]
    if shares:
        results.append(row("leak / (leak + context)", shares))

    def lag(seed, mined):
        cell = found[seed, mined, "alone"]
        return float(cell["second_half"]) - float(cell["first_half"])

    gained = [lag(seed, "half") - lag(seed, "unseen") for seed in seeds]
    results.append(row("what half gains by being mined", {"valid": gained}))
    return results


if __name__ == "__main__":
    main()
