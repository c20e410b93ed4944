"""What makes an exit worth leaving by: the terms of training, one at a time.

    python benchmarks/exit_training.py                   an hour on a core

The arm `exits` of `early_exit_lm.py`, as its preset has it and with one thing
changed; one seed. Of each the perplexity at full depth and of all tokens
leaving, then, with the exit head fitted as there, the largest of some shares of
tokens that leave for at most 1 % of perplexity, and what half of them leaving
costs: with `propagate`, where deeper layers see states at the exit, and with
`defer`, where they see what they would have seen. All on validation text; test
text is not looked at. Written anew after every run, and a run that the file
holds is not made again.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

CHANGES = {
    "preset": {},
    "no random exits": {"random_exits": 0.0},
    "half as many": {"random_exits": 0.5},
    "weight 0.25": {"exit_weight": 0.25},
    "weight 4": {"exit_weight": 4.0},
    "distilled": {"distillation": 0.5},
}
SMOKE_CHANGES = "preset", "no random exits"
TERMS = "exit_weight", "distillation", "random_exits"
SHARES = tuple(round(0.05 * k, 2) for k in range(1, 20))
ALLOWED = 0.01
WINDOWS = 500


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("--dataset", default="stdlib")
    flags.add_argument("--preset", default="early_exit_lm_stdlib")
    flags.add_argument("--epochs", type=int, default=2)
    flags.add_argument("--learning-rate", type=float, default=2e-3)
    arguments = _command_line.parse(flags, argv)
    arguments.saves_per_epoch = 1
    run(arguments)


def run(arguments):
    from _early_exit_arms import build, train_arm
    from _early_exit_experiment import preset_of, read, settings_of, windows
    from _measure import finished_rows, results_file, write_csv
    from orrery.zoo.exit_fitting import fit_exit_heads

    architecture = preset_of(arguments)
    name = f"{arguments.preset}_{pathlib.Path(arguments.dataset).stem}"
    root = arguments.out or pathlib.Path(f"runs/exit_training-{name}")
    root /= "smoke" if arguments.smoke else "full"
    path = results_file(
        f"exit_training_{name}",
        ["keras", arguments.backend],
        smoke=arguments.smoke,
    )
    data = read(arguments)
    blocks = windows(data, arguments.smoke)
    del blocks["test"]  # `train_arm` would score it.
    shared = {
        name: getattr(arguments, name)
        for name in ("epochs", "learning_rate", "seed")
    }
    rows = finished_rows(path, shared)
    for arm in SMOKE_CHANGES if arguments.smoke else CHANGES:
        if arm in {row["arm"] for row in rows}:
            continue
        print(f"=== {arm} ===", flush=True)
        changed = {**architecture, **CHANGES[arm]}
        model = build("exits", arguments.seed, changed)
        measured = train_arm(
            model,
            data,
            blocks,
            root / arm.replace(" ", "_"),
            settings_of("exits", arguments, changed, data),
            resume=True,
        )
        fit_exit_heads(model, blocks["heads"][0], seed=arguments.seed)
        rows.append(
            {
                "arm": arm,
                **{term: getattr(model, term) for term in TERMS},
                **worth(model, blocks["valid"], arguments.batch_size),
                "seconds_per_epoch": round(measured["seconds_per_epoch"], 1),
                **shared,
            }
        )
        write_csv(path, rows)
    print(f"Wrote {path}")


def worth(model, block, batch_size):
    """Perplexities, and what leaving costs; see above."""
    import numpy as np
    from orrery.zoo.exit_measures import measure_exits, measure_route

    x, y = (part[:: max(1, len(part) // WINDOWS)] for part in block)
    measured = measure_exits(model, x, y, batch_size)
    confidence = measured["confidence"][..., 0]
    shallow, deep = (measured["loss"][..., e].astype("float64") for e in (0, 1))

    def propagate(level):
        model.set_threshold(level)
        out = measure_route(model, x, y, batch_size=batch_size)
        return out["loss"].mean(dtype="float64")

    def defer(level):
        return np.where(confidence >= level, shallow, deep).mean()

    levels = {s: float(np.quantile(confidence, 1 - s)) for s in SHARES}
    found = {
        "perplexity": round(float(np.exp(deep.mean())), 4),
        "exit_perplexity": round(float(np.exp(shallow.mean())), 4),
    }
    for policy, nats in (("propagate", propagate), ("defer", defer)):
        more = {
            share: float(np.expm1(nats(level) - deep.mean()))
            for share, level in levels.items()
        }
        free = [share for share in SHARES if more[share] <= ALLOWED]
        found[f"leave_for_1_percent_{policy}"] = max(free, default=0.0)
        found[f"half_leave_{policy}"] = round(more[0.5], 5)
    model.set_threshold(None)
    return found


if __name__ == "__main__":
    main()
