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
import _koopman_runs  # noqa: E402

ARMS = ("base", "koopman")
CONTROL = "lstm"


@_command_line.plain_errors
def main(argv=None):
    flags = _koopman_runs.parser(
        __doc__.splitlines()[0], "wikitext2", "koopman_lm_small", 2, 2e-3
    )
    flags.add_argument(
        "--seeds", type=int, default=3, help="2 or more, from --seed on"
    )
    arguments = _command_line.parse(flags, argv)
    if arguments.seeds < 2:
        flags.error(f"--seeds must be at least 2; got {arguments.seeds}")
    arguments.operator_epochs = 0
    _koopman_runs.run_and_write("koopman_arms", arguments, run)


def run(arguments, data, blocks, architecture, root):
    import _koopman_arms as arms
    from _koopman_setup import settings_of
    from _measure import half_width

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
        differences.append(koopman - base)
    mean, half = statistics.mean(differences), half_width(differences)
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
    from _koopman_arms import fallback_complaint

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
        "verdict": fallback_complaint(measured),
    }


if __name__ == "__main__":
    main()
