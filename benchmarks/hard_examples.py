"""Is a second phase on hard tokens worth its steps? Arms of equal length.

    python benchmarks/hard_examples.py                   hours on two cores

The original's width and depth (64, two layers and two more) over words, with
its faults out: no arm sees validation or test text, contexts are whole, the
exit keeps a head of its own, thresholds are set last. Of the first `--tokens`
tokens of the training text 70 % are to fit, 20 % to mine, 10 % to set the
threshold at which half of the tokens leave. Every arm makes as many steps of 64
windows, to the nearest epoch:

- `two_layers`, `four_layers` and `joint` (four layers with a loss at the exit)
  are trained in one phase, on what is there to fit and to mine;
- the others begin with the same two layers, trained on what is there to fit
  (`first_phase`, which makes fewer steps, is these alone), and train two more,
  frozen below, on what is there to mine: `hard` for its hard tokens, `random`
  for as many drawn by lot, `all` for all of them; `hard_seen` for the hard
  tokens of the text that was fitted; `head_only` trains no layer, only a norm
  and a head beside the exit's, for the hard ones. The highest rate of a second
  phase is `--second-rate`: of 3e-5, 1e-4, 5e-4 and 2e-3 the best for `hard` on
  validation text (204.9 against 216.8, 237.5, 353.2; seed 0).

Test text is scored once, all tokens at full depth and half of them leaving at
the exit of their own network, where deeper layers see them as they were there.
`easy` and `hard` are halves of it at full depth, the same for all arms of a
seed: by the confidence of the first phase's two layers. Costs are over those of
four layers. The table has each run, and paired differences of the logarithm of
test perplexity, to four layers and of `hard` to `random`, with their 95 % t
intervals. Written anew after every run, and a run that it holds is not made
again.
"""

import math
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

ONE_PHASE = ("two_layers", "four_layers", "joint")
TWO_PHASES = ("hard", "random", "all", "hard_seen", "head_only")
ARMS = (*ONE_PHASE, "first_phase", *TWO_PHASES)
ARCHITECTURE = {
    "dim": 64,
    "num_heads": 4,
    "hidden_dim": 256,
    "head": "separate",
    "confidence": "max_prob",
    "dropout": 0.1,
}
LENGTH, WINDOWS, VOCABULARY = 32, 64, 10_000
FIT, MINE = 0.7, 0.2
SMOKE = {"dim": 16, "num_heads": 2, "hidden_dim": 32}
SMOKE_TOKENS, SMOKE_VOCABULARY = 12_000, 200
# What all runs of a table share.
SETTINGS = ("epochs", "first_epochs", "learning_rate", "tokens")
SETTINGS += ("second_rate",)


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    add = flags.add_argument
    add("--dataset", default="wikitext2")
    add("--tokens", type=int, default=330_000, help="of the training text")
    add("--epochs", type=int, default=10, help="of an arm of one phase")
    add("--first-epochs", type=int, default=9, help="of the first of two")
    add("--learning-rate", type=float, default=2e-3, help="the highest")
    add("--second-rate", type=float, default=1e-4, help="of a second phase")
    add("--seeds", type=int, default=3, help="2 or more, from 0")
    add("--arms", nargs="+", choices=ARMS, default=ARMS)
    arguments = _command_line.parse(flags, argv)
    if arguments.batch_size != flags.get_default("batch_size"):
        flags.error(f"--batch-size has no effect: a step has {WINDOWS} windows")
    if arguments.seed:
        flags.error("--seed has no effect: seeds count from 0; see --seeds")
    if arguments.seeds < 2:
        flags.error(f"--seeds must be at least 2; got {arguments.seeds}")
    if "four_layers" not in arguments.arms:
        flags.error("--arms must have four_layers, which all are compared with")
    if arguments.smoke:
        arguments.tokens, arguments.seeds = SMOKE_TOKENS, 2
        arguments.epochs, arguments.first_epochs = 2, 1
    run(arguments)


def run(arguments):
    from _measure import finished_rows, results_file, write_csv

    text = pathlib.Path(arguments.dataset).stem
    root = arguments.out or pathlib.Path(f"runs/hard_examples-{text}")
    # What a first phase depends on: no other run may take it for its own.
    root /= "_".join(str(getattr(arguments, name)) for name in SETTINGS[:-1])
    root = root.with_name(root.name + ("-smoke" if arguments.smoke else ""))
    path = results_file(
        f"hard_examples_{text}_{arguments.tokens}",
        ["keras", arguments.backend],
        smoke=arguments.smoke,
    )
    parts, size = texts(arguments)
    architecture = {
        **ARCHITECTURE,
        **(SMOKE if arguments.smoke else {}),
        "vocabulary_size": size,
    }
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    rows = [r for r in finished_rows(path, settings) if not r["interval_95"]]
    for seed in range(arguments.seeds):
        easy = None
        for arm in arguments.arms:
            if (arm, str(seed)) in {(r["arm"], str(r["seed"])) for r in rows}:
                continue
            print(f"=== seed {seed}, {arm} ===", flush=True)
            lower = first_phase(seed, parts, architecture, arguments, root)
            if easy is None:
                easy = easier_half(extended(lower, seed), parts)
            if arm in ONE_PHASE:
                model, steps = one_phase(
                    arm, seed, parts, architecture, arguments
                )
            elif arm == "first_phase":
                model = lower
                steps = steps_of(arguments.first_epochs, parts["fit"])
            else:
                model, steps = two_phases(arm, lower, seed, parts, arguments)
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    **settings,
                    "steps": steps,
                    **measure(arm, model, parts, easy),
                    "difference": "",
                    "interval_95": "",
                }
            )
            print(rows[-1], flush=True)
            write_csv(path, rows + differences(rows, arguments.arms))
    print(f"Wrote {path}")


def texts(arguments):
    """Windows to fit, mine, set the threshold and test; the vocabulary."""
    from orrery.datasets import load_text
    from orrery.datasets.blocks import blocks

    data = load_text(
        arguments.dataset,
        sequence_length=LENGTH,
        data_dir=arguments.data_dir,
        vocabulary_size=SMOKE_VOCABULARY if arguments.smoke else VOCABULARY,
    )
    ids, size = data.splits["train"][: arguments.tokens], len(data.vocabulary)
    first, last = (int(len(ids) * share) for share in (FIT, FIT + MINE))
    parts = {
        "fit": ids[:first],
        "mine": ids[first:last],
        "both": ids[:last],
        "threshold": ids[last:],
        "valid": data.splits["valid"],
        "test": data.splits["test"],
    }
    parts = {name: blocks(part, LENGTH, size) for name, part in parts.items()}
    if arguments.smoke:
        for split in ("valid", "test"):
            parts[split] = tuple(part[:64] for part in parts[split])
    parts["unknown_id"] = data.vocabulary.unknown_id
    return parts, size


def one_phase(arm, seed, parts, architecture, arguments):
    import keras
    from orrery.zoo import EarlyExitLM

    keras.utils.set_random_seed(seed)
    blocks = {"two_layers": (2,), "four_layers": (4,), "joint": (2, 2)}[arm]
    model = EarlyExitLM(**architecture, blocks=blocks)
    model.build()
    return model, fit(model, parts["both"], arguments.epochs, seed, arguments)


def steps_of(epochs, part):
    return epochs * -(-len(part[0]) // WINDOWS)


def fit(model, part, epochs, seed, arguments):
    """Train on all tokens of a part; the number of steps."""
    from orrery.datasets import LanguageBatches
    from orrery.optimizers import adamw_cosine

    batches = LanguageBatches(*part, WINDOWS, seed=seed)
    steps = epochs * len(batches)
    model.compile(adamw_cosine(steps, arguments.learning_rate))
    model.fit(batches, epochs=epochs, shuffle=False, verbose=2)
    return steps


def two_phases(arm, lower, seed, parts, arguments):
    from orrery.optimizers import adamw_cosine
    from orrery.zoo.ashem import create_hard_example_loader, train_upper_layers

    model = extended(lower, seed)
    examples = examples_of(arm, model, parts, seed)
    hard = float(examples["weights"].sum(axis=1).mean())
    loader = create_hard_example_loader(examples, round(WINDOWS * hard), seed)
    before = steps_of(arguments.first_epochs, parts["fit"])
    whole = steps_of(arguments.epochs, parts["both"])
    epochs = max(1, round((whole - before) / len(loader)))
    steps = epochs * len(loader)
    freeze = arm != "head_only"
    if not freeze:
        head_alone(model)
    train_upper_layers(
        model,
        loader,
        adamw_cosine(steps, arguments.second_rate),
        epochs=epochs,
        freeze=freeze,
        verbose=2,
    )
    return model, before + steps


def first_phase(seed, parts, architecture, arguments, root):
    """Two layers trained on what is there to fit: one file for each seed."""
    import keras
    from orrery.zoo import EarlyExitLM

    path = root / f"seed_{seed}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(seed)
    model = EarlyExitLM(**architecture, blocks=(2,))
    model.build()
    fit(model, parts["fit"], arguments.first_epochs, seed, arguments)
    root.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.keras")
    model.save(partial)
    partial.replace(path)
    return model


def extended(lower, seed):
    """Two layers more on top, with a head that starts as the exit's."""
    import keras

    keras.utils.set_random_seed(1_000 + seed)
    return lower.extend(2, freeze=False)


def examples_of(arm, model, parts, seed):
    """The states of an arm's windows, and the weights of their tokens."""
    import numpy as np
    from orrery.zoo.ashem import (
        collect_hard_examples,
        compute_confidence_threshold,
    )

    x, y = parts["fit" if arm == "hard_seen" else "mine"]
    level = 1.0
    if arm in ("hard", "hard_seen", "head_only"):
        level = compute_confidence_threshold(model, [(x, y)], 0.5)
    examples = collect_hard_examples(model, [(x, y)], level)
    if arm == "random":
        drawn = np.random.default_rng(seed).random(x.shape) < 0.5
        examples["weights"] = drawn.astype("float32")
    return examples


def head_alone(model):
    """Upper layers that do nothing, and only the last exit to be trained."""
    import numpy as np

    for layer in model.decoder_layers[2:]:
        for part in (layer.mixer, layer.feedforward):
            kernel = part.output_projection.kernel
            kernel.assign(np.zeros(kernel.shape))
    for layer in (
        model.token_embedding,
        *model.decoder_layers,
        model.exit_norms[0],
        model.heads[0],
    ):
        layer.trainable = False


def easier_half(model, parts):
    """Of the test tokens, by the confidence of the exit, bool `(n, N)`."""
    import numpy as np
    from orrery.zoo.exit_measures import measure_exits

    known = measure_exits(model, *parts["threshold"], WINDOWS)["confidence"]
    found = measure_exits(model, *parts["test"], WINDOWS)["confidence"]
    return found[..., 0] >= np.median(known)


def measure(arm, model, parts, easy):
    """Validation and test text, at full depth and with half leaving."""
    import numpy as np
    from orrery.zoo.exit_measures import measure_exits, measure_route

    def losses(split):
        """Of every exit, `(n, N, E)`, and the first one's confidence."""
        x, y = parts[split]
        if model.routers:
            found = measure_exits(model, x, y, WINDOWS)
            return found["loss"].astype("float64"), found["confidence"][..., 0]
        inputs = {"tokens": x, "targets": y}
        full = model.predict(inputs, batch_size=WINDOWS, verbose=0)
        return full[..., None].astype("float64"), np.zeros(x.shape)

    def perplexity(part):
        return math.exp(part.mean())

    full = losses("test")[0][..., -1]
    routed, leave = full, 0.0
    if model.routers:
        model.set_threshold(float(np.median(losses("threshold")[1])))
        found = measure_route(model, *parts["test"], batch_size=WINDOWS)
        routed = found["loss"].astype("float64")
        leave = float((found["exit"] == 0).mean())
    return {
        "parameters": sum(math.prod(w.shape) for w in of_the_model(model)),
        "valid_perplexity": perplexity(losses("valid")[0][..., -1]),
        "test_perplexity": perplexity(full),
        "test_without_unknown": perplexity(
            full[parts["test"][1] != parts["unknown_id"]]
        ),
        "easy_perplexity": perplexity(full[easy]),
        "hard_perplexity": perplexity(full[~easy]),
        "leave": leave,
        "routed_perplexity": perplexity(routed),
        "macs_with_head": cost(arm, model, leave),
    }


def cost(arm, model, leave):
    """Multiply-accumulates with heads, over those of four layers."""
    layer = 4 * model.dim**2 + 3 * model.dim * model.hidden_dim
    head = model.vocabulary_size * model.dim
    full = 4 * layer + head
    if not model.routers:
        return (model.num_layers * layer + head) / full
    if arm == "head_only":  # The layers above add nothing: none need run.
        return (2 * layer + head + (1 - leave) * head) / full
    return model.compute_cost([leave], "propagate")["macs_with_head"]


def of_the_model(model):
    """Its weights but for counters and thresholds, frozen or not."""
    return [weight for weight in model.weights if len(weight.shape)]


def differences(rows, arms):
    """Over the seeds that have every arm."""
    from _measure import half_width

    found = {(row["arm"], int(row["seed"])): row for row in rows}
    seeds = [
        seed
        for seed in sorted({seed for _, seed in found})
        if all((arm, seed) in found for arm in arms)
    ]
    if len(seeds) < 2:
        return []
    full, routed = "test_perplexity", "routed_perplexity"
    pairs = [
        ((arm, column), ("four_layers", full))
        for arm in arms
        for column in (full, routed)
        if arm != "four_layers"
        and (column == full or arm not in ("two_layers", "first_phase"))
    ]
    if {"hard", "random"} <= set(arms):
        pairs += [
            (("hard", column), ("random", column)) for column in (full, routed)
        ]
    results = []
    for one, other in pairs:
        values = [
            math.log(
                float(found[one[0], seed][one[1]])
                / float(found[other[0], seed][other[1]])
            )
            for seed in seeds
        ]
        mean, half = statistics.mean(values), half_width(values)
        name = one[0] + (", half leave" if one[1] == routed else "")
        results.append(
            {
                **dict.fromkeys(rows[0], ""),
                "arm": f"{name} - {other[0]}, ln perplexity",
                "seed": f"{seeds[0]}-{seeds[-1]}",
                "difference": round(mean, 5),
                "interval_95": f"[{mean - half:+.4f}, {mean + half:+.4f}]",
            }
        )
    return results


if __name__ == "__main__":
    main()
