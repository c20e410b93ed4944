"""The original's physics run beside its published figures and a control.

    python benchmarks/legacy_physics.py

`physics` is the preset of that name; `base` is the same network whose energies
are measured and never in the loss, which makes it the base network. Before the
fifth epoch the energies are in no loss, so the physics run *is* the base run:
a base run begins with the state in which the physics run of its seed enters
that epoch, if that was trained first, and four epochs of a physics run are a
further seed of both.

The first CSV has a row per run and epoch beside the published figure, the
second says how far each run strays from the published perplexity, and how far
the mean of the physics seeds does over the epochs that all of them have; two
pictures show the curves. All are written anew after every run. Runs are
resumable: start the script again after an interruption.
"""

import argparse
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

PRESET = "resnet_bk_legacy_physics"
ARMS = ("physics", "base")
RUNS = ("physics:0:10", "physics:1:4", "physics:2:4", "base:0:10")
SMOKE_RUNS = ("physics:0:2", "physics:1:1", "base:0:2")
START, SMOKE_START = 4, 1
TOLERANCE = 15


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.set_defaults(resume=True, preset=PRESET)
    flags.add_argument("--dataset", default="wikitext2")
    flags.add_argument(
        "--runs",
        nargs="+",
        type=parse_run,
        metavar="ARM:SEED:EPOCHS",
        help=f"what to train, in this order; {' '.join(RUNS)} if not given",
    )
    arguments = _command_line.parse(flags, argv)
    if arguments.seed:
        flags.error("--seed has no effect: --runs names the seeds")
    default = SMOKE_RUNS if arguments.smoke else RUNS
    run_all(arguments, arguments.runs or [parse_run(run) for run in default])


def parse_run(text):
    try:
        arm, seed, epochs = text.split(":")
        run = arm, int(seed), int(epochs)
    except ValueError:
        run = "", -1, 0
    if run[0] not in ARMS or run[1] < 0 or run[2] < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be ARM:SEED:EPOCHS, ARM one of {', '.join(ARMS)}, "
            f"as {RUNS[0]}"
        )
    return run


def run_all(arguments, runs):
    from _legacy_experiment import comparable
    from _legacy_pictures import draw_curve, draw_energies
    from _measure import results_file, write_csv
    from orrery.datasets import load_text

    text = pathlib.Path(arguments.dataset).stem
    root = arguments.out or pathlib.Path(
        f"runs/legacy_physics-{text}-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    data = load_text(arguments.dataset, data_dir=arguments.data_dir)
    curves, verdicts = (
        results_file(
            f"{what}_{text}",
            ["keras", arguments.backend],
            smoke=arguments.smoke,
        )
        for what in ("legacy_physics", "legacy_verdict")
    )
    rows = []
    for arm, seed, epochs in runs:
        print(f"=== {arm}, seed {seed}, {epochs} epochs ===", flush=True)
        arguments.seed, arguments.epochs = seed, epochs
        history = train_run(arguments, arm, data, root)
        rows += curve(arm, seed, history, comparable(arguments))
        write_csv(curves, rows)
        start = SMOKE_START if arguments.smoke else START
        write_csv(verdicts, judge(rows, start))
        drawn = {
            f"{name}, seed {number}": list(run.values())
            for (name, number), run in by_run(rows).items()
        }
        for what, draw in (("curve", draw_curve), ("energies", draw_energies)):
            draw(curves.with_name(f"legacy_physics_{text}_{what}.png"), drawn)
    print(f"Wrote {curves}\nWrote {verdicts}")


def train_run(arguments, arm, data, root):
    import _legacy_experiment as experiment
    import keras
    from orrery.zoo.legacy.resnet_bk_physics_training import EnergyMultipliers

    class Fork(keras.callbacks.Callback):
        """Hands the state at the start of physics to the control."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == start and not (control / "state.npz").exists():
                control.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / "state.npz", control / "state.npz")

    start = SMOKE_START if arguments.smoke else START
    folder, control = (
        root / f"{name}_{arguments.seed}_{arguments.epochs}"
        for name in (arm, "base")
    )
    if arm == "physics":
        callbacks = [EnergyMultipliers(start=start), Fork()]
    else:
        callbacks = [EnergyMultipliers(start=arguments.epochs)]
    config = experiment.describe(arguments, data)
    model = experiment.build(config, data)
    return experiment.fit(
        model, data, folder, config, resume=True, callbacks=callbacks
    )


def curve(arm, seed, history, compare):
    """The rows of a run: those of the recipe, the difference, the time."""
    from _legacy_published import beside_published

    rows = []
    for row in beside_published(PRESET, seed, history, compare):
        del row["preset"]
        own, published = row["batch-mean perplexity"], row["published"]
        difference = "" if published == "" else round(own - published, 2)
        seconds = round(history["seconds"][row["epoch"] - 1])
        rows.append(
            {"arm": arm, **row, "difference": difference, "seconds": seconds}
        )
    return rows


def by_run(rows):
    """The rows by (arm, seed), then by epoch."""
    runs = {}
    for row in rows:
        key = row["arm"], row["seed"]
        runs.setdefault(key, {})[row["epoch"]] = row
    return runs


def judge(rows, start=START):
    """How far each run, and the mean of the physics seeds, is from whom.

    The mean is over the epochs that all of these seeds have; what a longer run
    has beyond them stands by itself.
    """
    runs = by_run(rows)
    verdicts = []

    def beside_published(arm, seed, differences):
        # Until then it is the base run.
        if arm == "physics" and max(differences) <= start:
            arm = "physics before its start"
        verdicts.append(verdict(f"{arm} - published", seed, differences))

    away = {
        key: {epoch: row["difference"] for epoch, row in run.items()}
        for key, run in runs.items()
    }
    for (arm, seed), differences in away.items():
        beside_published(arm, seed, differences)
    physics = {s: run for (arm, s), run in away.items() if arm == "physics"}
    if len(physics) > 1:
        common = set.intersection(*map(set, physics.values()))
        mean = {}
        for epoch in sorted(common):
            found = [run[epoch] for run in physics.values()]
            mean[epoch] = "" if "" in found else sum(found) / len(found)
        beside_published("physics", f"mean of {len(physics)}", mean)
        for seed, run in physics.items():
            alone = {e: value for e, value in run.items() if e not in common}
            if alone:
                beside_published("physics", seed, alone)
    for (arm, seed), run in runs.items():
        other = runs.get(("base", seed))
        if arm != "physics" or other is None:
            continue
        differences = {
            epoch: row["batch-mean perplexity"]
            - other[epoch]["batch-mean perplexity"]
            for epoch, row in run.items()
            if epoch in other
        }
        paired = verdict("physics - base", seed, differences)
        verdicts.append({**paired, f"within_{TOLERANCE}": ""})
    return verdicts


def verdict(compared, seed, differences):
    """The largest difference of perplexity, and the last."""
    if "" in differences.values():
        differences = {}
    largest = max(differences, key=lambda e: abs(differences[e]), default="")
    size = differences.get(largest, "")
    within = "" if size == "" else "yes" if abs(size) <= TOLERANCE else "no"
    last = max(differences, default="")
    return {
        "compared": compared,
        "seed": seed,
        "epochs": f"{min(differences)} to {last}" if differences else "",
        "largest_difference": size,
        "at_epoch": largest,
        f"within_{TOLERANCE}": within,
        "last_difference": differences.get(last, ""),
    }


if __name__ == "__main__":
    main()
