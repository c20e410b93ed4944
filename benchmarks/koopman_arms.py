"""{base, +Koopman} over several seeds, paired: what the operators cost or give.

    python benchmarks/koopman_arms.py --dataset wikitext2 --epochs 2

Both arms of a seed start from the same weights and see the same batches. The
table gives each run and the paired difference of log-perplexity with its 95 %
t interval; an interval that holds zero is reported as no difference found. An
LSTM of as many weights is trained beside the first seed.
Runs are resumable: start the script again after an interruption.
"""

import math
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

# Two-sided 95 % points of Student's t for n - 1 degrees of freedom.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447}
ARMS = ("base", "koopman")
CONTROL = "lstm"


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("--dataset", default="wikitext2")
    flags.add_argument("--preset", default="koopman_lm_small")
    flags.add_argument("--epochs", type=int, default=2)
    flags.add_argument("--learning-rate", type=float, default=2e-3)
    flags.add_argument(
        "--seeds", type=int, default=3, help="2 to 7, from --seed on"
    )
    arguments = _command_line.parse(flags, argv)
    if arguments.seeds not in STUDENT:
        flags.error(f"--seeds must be 2 to 7; got {arguments.seeds}")
    from _koopman_setup import check_preset

    check_preset(arguments.preset)
    arguments.start_from = None
    arguments.operator_epochs = 0
    arguments.precision = "float32"
    arguments.resume = True
    text = pathlib.Path(arguments.dataset).stem
    root = arguments.out or pathlib.Path(
        f"runs/koopman_arms-{text}-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    from _measure import results_file, write_csv

    rows = run(arguments, root)
    path = results_file(
        f"koopman_arms_{arguments.preset}_{text}",
        ["keras", arguments.backend],
        smoke=arguments.smoke,
    )
    write_csv(path, rows)
    print(f"Wrote {path}")


def run(arguments, root):
    import _koopman_arms as arms
    from _koopman_setup import SMOKE_BLOCKS, describe, settings_of
    from orrery.datasets import load_text

    data = load_text(arguments.dataset, data_dir=arguments.data_dir)
    limit = SMOKE_BLOCKS if arguments.smoke else None
    blocks = {
        split: tuple(array[:limit] for array in data.blocks(split))
        for split in ("train", "valid", "test")
    }
    architecture = describe(arguments, None, data.vocabulary)
    rows, differences = [], []
    first = arguments.seed
    for seed in range(first, first + arguments.seeds):
        arguments.seed = seed
        arguments.out = root / f"seed_{seed}"
        measured = {}
        for arm in (*ARMS, CONTROL) if seed == first else ARMS:
            print(f"=== seed {seed}, {arm} ===", flush=True)
            settings = {arm: settings_of(arm, arguments, architecture, data)}
            model = arms.build(arm, arguments, architecture)
            measured[arm] = arms.train_arm(
                arm, model, data, blocks, arguments, settings
            )
            rows.append(row(arguments, arm, measured[arm]))
        base, koopman = (
            math.log(measured[arm]["valid"]["perplexity"]) for arm in ARMS
        )
        arms.check_fallback(measured["koopman"])
        differences.append(koopman - base)
    mean = statistics.mean(differences)
    half = (
        STUDENT[arguments.seeds]
        * statistics.stdev(differences)
        / math.sqrt(arguments.seeds)
    )
    rows.append(
        {
            **dict.fromkeys(rows[0], ""),
            "arm": "koopman - base, ln perplexity",
            "seed": f"{first}-{seed}",
            "epochs": arguments.epochs,
            "valid_perplexity": f"{mean:+.4f}",
            "interval_95": f"[{mean - half:+.4f}, {mean + half:+.4f}]",
            "verdict": "no difference found"
            if abs(mean) <= half
            else "koopman worse"
            if mean > 0
            else "koopman better",
        }
    )
    return rows


def row(arguments, arm, measured):
    return {
        "arm": arm,
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        "parameters": measured["parameters"],
        "operator_parameters": measured["operator_parameters"],
        "valid_perplexity": round(measured["valid"]["perplexity"], 3),
        "valid_without_unknown": round(
            measured["valid"]["perplexity_without_unknown"], 3
        ),
        "seconds": round(measured["seconds"]),
        "interval_95": "",
        "verdict": "",
    }


if __name__ == "__main__":
    main()
