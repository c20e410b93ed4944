"""What lets operators stand in for blocks: one part left out at a time.

    python benchmarks/koopman_ablation.py

Every variant of `koopman_lm_stdlib` is trained like the model itself: the same
seed, batches and epochs, then epochs of the operators alone. The table gives
the validation perplexity of the trained model, and its ratio to that with the
first 1 .. L blocks run by its own operators. Runs are resumable: start the
script again after an interruption.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

# What differs from the preset: the model, its operators, the Koopman loss.
VARIANTS = {
    "as published": {},
    "no Koopman loss": {"schedule": {"max_weight": 0.0}},
    "no replacement until the end": {"model": {"replacement": 0.0}},
    "no tanh observables": {"koopman": {"lift_dim": 0}},
    "no delays": {"koopman": {"delays": 0}},
    "K by EDMD in training": {
        "koopman": {"operator": "edmd"},
        "model": {"replacement": 0.0},
        "operator_epochs": 0,
    },
}


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("--dataset", default="stdlib")
    flags.add_argument("--preset", default="koopman_lm_stdlib")
    flags.add_argument("--epochs", type=int, default=15)
    flags.add_argument("--operator-epochs", type=int, default=3)
    flags.add_argument("--learning-rate", type=float, default=4e-3)
    arguments = _command_line.parse(flags, argv)
    from _koopman_setup import check_preset

    check_preset(arguments.preset)
    arguments.start_from = None
    arguments.precision = "float32"
    arguments.resume = True
    if arguments.smoke:
        arguments.epochs = 1
        arguments.operator_epochs = min(arguments.operator_epochs, 1)
    text = pathlib.Path(arguments.dataset).stem
    root = arguments.out or pathlib.Path(
        f"runs/koopman_ablation-{text}-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    from _measure import results_file, write_csv

    rows = run(arguments, root)
    path = results_file(
        f"koopman_ablation_{arguments.preset}_{text}",
        ["keras", arguments.backend],
        smoke=arguments.smoke,
    )
    write_csv(path, rows)
    print(f"Wrote {path}")


def run(arguments, root):
    import _koopman_arms as arms
    from _koopman_controls import replaced_curve
    from _koopman_report import training_seconds
    from _koopman_setup import SCHEDULE, SMOKE_BLOCKS, describe, settings_of
    from orrery.datasets import load_text

    data = load_text(arguments.dataset, data_dir=arguments.data_dir)
    limit = SMOKE_BLOCKS if arguments.smoke else None
    blocks = {
        split: tuple(array[:limit] for array in data.blocks(split))
        for split in ("train", "valid", "test")
    }
    preset = describe(arguments, None, data.vocabulary)
    operator_epochs = arguments.operator_epochs
    rows = []
    for variant, changes in VARIANTS.items():
        print(f"=== {variant} ===", flush=True)
        architecture = {
            **preset,
            **changes.get("model", {}),
            "koopman": {**preset["koopman"], **changes.get("koopman", {})},
        }
        arguments.operator_epochs = changes.get(
            "operator_epochs", operator_epochs
        )
        arguments.out = root / variant.replace(" ", "_")
        settings = {
            phase: {
                **settings_of(phase, arguments, architecture, data),
                "schedule": {**SCHEDULE, **changes.get("schedule", {})},
            }
            for phase in ("koopman", "operators_only")
        }
        model = arms.build("koopman", arguments, architecture)
        measured = arms.train_arm(
            "koopman", model, data, blocks, arguments, settings
        )
        standard, *curve = replaced_curve(
            model, *blocks["valid"], arguments.batch_size
        )
        rows.append(
            {
                "variant": variant,
                "seed": arguments.seed,
                "epochs": arguments.epochs,
                "operator_epochs": arguments.operator_epochs,
                "operator_parameters": measured["operator_parameters"],
                "valid_perplexity": round(standard, 2),
                **{
                    f"ratio_{count}": round(value / standard, 3)
                    for count, value in enumerate(curve, 1)
                },
                "seconds": round(training_seconds(measured)),
            }
        )
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
