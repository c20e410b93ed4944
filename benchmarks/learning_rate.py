"""Whether the order of the arms is that of one learning rate.

    python benchmarks/learning_rate.py          an hour

An arm compared at a rate that suits another is not compared. Here the base
blocks, the Hamiltonian blocks and those without their loss on energy are
trained under each of several highest rates and warm-ups, for few epochs and for
more, one seed; each arm is then judged at its own best, by validation
perplexity. The test split is not looked at. Written anew after every run, and a
run that it holds is not made again.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

ARMS = ("base", "physics", "unpenalised")
# (epochs, highest rate, warm-up as a fraction of the steps)
SCHEDULES = (
    *((2, rate, 0.05) for rate in (1e-3, 2e-3, 4e-3, 8e-3)),
    *((2, rate, 0.3) for rate in (1e-3, 2e-3, 4e-3, 8e-3)),
    *((8, rate, 0.05) for rate in (1e-3, 2e-3, 4e-3)),
)
SMOKE_SCHEDULES = ((1, 1e-3, 0.05), (1, 4e-3, 0.05))


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("--dataset", default="stdlib")
    flags.add_argument("--preset", default="hamiltonian_lm_stdlib")
    run(_command_line.parse(flags, argv))


def run(arguments):
    from _hamiltonian_setup import prepare
    from _measure import finished_rows, write_csv

    data, blocks, architecture, root, path = prepare("learning_rate", arguments)
    del blocks["test"]
    rows = finished_rows(path, {"seed": arguments.seed})
    done = {(row["arm"], *schedule_of(row)) for row in rows}
    for schedule in SMOKE_SCHEDULES if arguments.smoke else SCHEDULES:
        for arm in ARMS:
            epochs, rate, warmup = schedule
            if (arm, epochs, warmup, rate) in done:
                continue
            run_name = f"{arm}_{epochs}_{rate}_{warmup}"
            print(f"=== {run_name} ===", flush=True)
            arguments.epochs, arguments.learning_rate = epochs, rate
            measured = train_and_measure(
                arm,
                warmup,
                arguments,
                architecture,
                data,
                blocks,
                root / run_name,
            )
            rows.append(
                {
                    "arm": arm,
                    "epochs": epochs,
                    "learning_rate": rate,
                    "warmup": warmup,
                    "seed": arguments.seed,
                    "valid_perplexity": measured["valid"]["perplexity"],
                    "seconds_per_epoch": measured["seconds_per_epoch"],
                }
            )
            write_csv(path, marked(rows))
    print(f"Wrote {path}")


def schedule_of(row):
    """Its key, in the order of the table."""
    return int(row["epochs"]), float(row["warmup"]), float(row["learning_rate"])


def marked(rows):
    """In order, and each says whether it is the best of its arm and length."""
    best = {}
    for row in rows:
        key = row["arm"], int(row["epochs"])
        value = float(row["valid_perplexity"])
        best[key] = min(value, best.get(key, value))
    return [
        {
            **row,
            "best": "best"
            if float(row["valid_perplexity"])
            == best[row["arm"], int(row["epochs"])]
            else "",
        }
        for row in sorted(rows, key=schedule_of)
    ]


def train_and_measure(arm, warmup, arguments, architecture, data, blocks, root):
    from _hamiltonian_arms import build, train_arm
    from _hamiltonian_experiment import settings_of

    settings = settings_of(arm, arguments, architecture, data)
    return train_arm(
        arm,
        build(arm, arguments.seed, architecture),
        data,
        blocks,
        root,
        {**settings, "warmup": warmup},
        resume=True,
    )


if __name__ == "__main__":
    main()
