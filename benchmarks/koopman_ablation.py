"""What lets operators stand in for blocks: parts left out.

    python benchmarks/koopman_ablation.py

Every variant of `koopman_lm_stdlib` is trained like the model itself: the same
seed, batches and epochs, then epochs of the operators alone. All leave out one
part, but for EDMD in training, which needs `replacement=0` and has no operators
to train afterwards. The table gives the validation perplexity of the trained
model, and its ratio to that with the first 1 .. L blocks run by its own
operators. Runs are resumable: start the script again after an interruption.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402
import _koopman_runs  # noqa: E402

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
    flags = _koopman_runs.parser(
        __doc__.splitlines()[0], "stdlib", "koopman_lm_stdlib", 15, 4e-3
    )
    flags.add_argument("--operator-epochs", type=int, default=3)
    arguments = _command_line.parse(flags, argv)
    if arguments.smoke:
        arguments.epochs = 1
        arguments.operator_epochs = min(arguments.operator_epochs, 1)
    _koopman_runs.run_and_write("koopman_ablation", arguments, run)


def run(arguments, data, blocks, preset, root):
    import _koopman_arms as arms
    from _koopman_controls import replaced_curve
    from _koopman_report import training_seconds
    from _koopman_setup import SCHEDULE, settings_of

    operator_epochs = arguments.operator_epochs
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
        row = {
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
            "fallback_fraction": measured["fallback_fraction"],
            "seconds": round(training_seconds(measured)),
        }
        print(row, flush=True)
        yield row


if __name__ == "__main__":
    main()
