"""What the loss on energy is worth: the same model under several weights.

    python benchmarks/energy_weight.py                   an hour on two cores

One epoch and one seed for each lambda, held fixed, and for the base blocks. The
test split is not looked at: the weight at which training starts was chosen so.
Written anew after every run, and a run that it holds is not made again.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

WEIGHTS = (0, 10, 30, 100, 300, 1000)
SMOKE_WEIGHTS = (0, 100)


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("--dataset", default="wikitext2")
    flags.add_argument("--preset", default="hamiltonian_lm_small")
    flags.add_argument("--epochs", type=int, default=1)
    flags.add_argument("--learning-rate", type=float, default=3e-3)
    run(_command_line.parse(flags, argv))


def run(arguments):
    from _hamiltonian_arms import WATCHED, build, train_arm
    from _hamiltonian_experiment import settings_of
    from _hamiltonian_setup import prepare
    from _measure import finished_rows, write_csv

    data, blocks, architecture, root, path = prepare("energy_weight", arguments)
    del blocks["test"]
    shared = {
        name: getattr(arguments, name)
        for name in ("epochs", "learning_rate", "seed")
    }
    rows = finished_rows(path, shared)
    for weight in ("", *(SMOKE_WEIGHTS if arguments.smoke else WEIGHTS)):
        if str(weight) in {str(row["weight"]) for row in rows}:
            continue
        arm = "base" if weight == "" else "physics"
        print(f"=== {arm} {weight} ===", flush=True)
        settings = settings_of(arm, arguments, architecture, data)
        if arm == "physics":
            most = max(weight, 1)
            held = {**WATCHED, "initial": weight, "maximum": most}
            settings["multiplier"] = held
        measured = train_arm(
            arm,
            build(arm, arguments.seed, architecture),
            data,
            blocks,
            root / f"weight_{weight}",
            settings,
            resume=True,
        )
        rows.append({**row(arm, weight, measured), **shared})
        write_csv(path, rows)
    print(f"Wrote {path}")


def row(arm, weight, measured):
    from _hamiltonian_arms import least_spread_ratio

    blocks = measured.get("energies", {}).get("valid", [])
    drifts = [block["drift"] for block in blocks]
    flat = measured.get("without_potential")
    valid = measured["valid"]["perplexity"]
    return {
        "blocks": "Hamiltonian" if blocks else "attention, SwiGLU",
        "weight": weight,
        "valid_perplexity": round(valid, 3),
        "energy_of_loss": measured["contributions"].get("energy", ""),
        "drift": sum(drifts) / len(drifts) if drifts else "",
        "largest_drift": max(drifts, default=""),
        "smallest_spread_ratio": least_spread_ratio(blocks) if blocks else "",
        "potential_off_ratio": round(flat / valid, 3) if flat else "",
        "seconds_per_epoch": round(measured["seconds_per_epoch"], 1),
    }


if __name__ == "__main__":
    main()
