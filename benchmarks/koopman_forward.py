"""Koopman-forward perplexity of a trained model over delays and lifts.

    python benchmarks/koopman_forward.py saved_models/koopman_lm_small

The language model's weights stay as they are. For every number of delays and
every lift a fresh set of operators is solved by exact EDMD on training blocks
(no gradient), and the validation perplexity is taken with half of the blocks
and with all of them replaced. The lifts are random: `--seed` draws them.
Controls: the operators the model was trained with, leaving the blocks out, and
the affine map (lift 0). A row is written as soon as it is measured; a second
call goes on where the first one stopped, unless the model is another by then.
"""

import csv
import hashlib
import itertools
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

DELAYS = (0, 1, 2, 4, 8)
LIFTS = (0, 64, 128, 256)
KEY = ("delays", "lift_dim", "fit_blocks", "seed", "weights_sha256")


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("model", help="saved model, run folder or .keras file")
    flags.add_argument("--dataset", default="wikitext2")
    flags.add_argument(
        "--fit-blocks",
        type=int,
        default=4096,
        help="training blocks that the operators are solved on",
    )
    arguments = _command_line.parse(flags, argv)
    import keras
    import orrery
    from _measure import results_file
    from _scoring import locate
    from orrery.datasets import load_text

    path, folder = locate(arguments.model)
    path = pathlib.Path(path)
    model = orrery.load(path)
    data = load_text(
        arguments.dataset, vocabulary=folder, data_dir=arguments.data_dir
    )
    limit = 64 if arguments.smoke else None
    count = limit or arguments.fit_blocks
    fit = data.blocks("train")[0][:count]
    valid = tuple(array[:limit] for array in data.blocks("valid"))
    result = results_file(
        f"koopman_forward_{pathlib.Path(arguments.model).stem}_{data.name}",
        ["keras", arguments.backend],
        arguments.out,
        smoke=arguments.smoke,
    )
    standard = replaced_perplexity(model, 0, valid, arguments.batch_size)
    done = finished(result)
    smallest = 2 if arguments.smoke else None
    grid = itertools.product(DELAYS[:smallest], LIFTS[:smallest])
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    digest = hashlib.sha256(weights).hexdigest()[:16]
    for delays, lift in [("own", "own"), ("skip", "skip"), *grid]:
        key = {
            "delays": delays,
            "lift_dim": lift,
            "fit_blocks": "" if delays in ("own", "skip") else count,
            "seed": arguments.seed,
            "weights_sha256": digest,
        }
        if tuple(map(str, key.values())) in done:
            continue
        keras.utils.set_random_seed(arguments.seed)
        probe = operators(model, delays, lift, fit, arguments.batch_size)
        measured = measure(probe, standard, valid, arguments.batch_size)
        append(result, {**key, **measured})
    print(f"Wrote {result}")


def operators(model, delays, lift, fit, batch_size):
    if delays == "own":
        return model
    if delays == "skip":  # A fresh operator is the identity map.
        return model.with_operators({"lift_dim": 0})
    probe = model.with_operators({"delays": delays, "lift_dim": lift})
    probe.fit_operators(fit, batch_size)
    return probe


def measure(model, standard, valid, batch_size):
    half, everything = (
        replaced_perplexity(model, count, valid, batch_size)
        for count in (math.ceil(model.num_layers / 2), model.num_layers)
    )
    return {
        "blocks": model.num_layers,
        "standard": round(standard, 2),
        "half": round(half, 2),
        "all": round(everything, 2),
        "half_ratio": round(half / standard, 4),
        "all_ratio": round(everything / standard, 4),
    }


def replaced_perplexity(model, replaced, valid, batch_size):
    """Of the validation text, the first `replaced` blocks run by operators."""
    from _training import perplexity

    model.set_replaced(range(replaced))
    found = perplexity(model, *valid, batch_size)
    model.set_replaced(())
    return found


def finished(path):
    """The keys of the rows that were measured before."""
    if not path.exists():
        return set()
    with open(path, newline="", encoding="utf-8") as file:
        return {
            tuple(row[name] for name in KEY) for row in csv.DictReader(file)
        }


def append(path, row):
    print(row, flush=True)
    fresh = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
