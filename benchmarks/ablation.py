"""{base, +Koopman, +physics, +both} over several seeds, paired.

    python benchmarks/ablation.py                        hours on two cores

All arms of a seed start from the same values of the weights they share, see
the same batches in the same order and have as many weights in their blocks, to
2 %. The table gives each run, and the paired differences of log-perplexity with
their 95 % t intervals. "no worse" is non-inferiority: the upper end of the
interval is at most +1 %. The test split is scored once, at the end of each run.
Runs are resumable: start the script again after an interruption. `--seed` and
`--seeds` may share the work among processes; a last call with all the seeds
writes the table.
"""

import json
import math
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

# Two-sided 95 % points of Student's t for n - 1 degrees of freedom.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447}
ARMS = ("base", "koopman", "physics", "both")
PAIRS = (
    ("koopman", "base"),
    ("physics", "base"),
    ("both", "base"),
    ("both", "koopman"),
    ("both", "physics"),
)
MARGIN = math.log(1.01)
SMOKE_SIZES = {"num_layers": 1, "dim": 32, "num_steps": 2}


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("--dataset", default="wikitext2")
    flags.add_argument("--preset", default="hamiltonian_lm_small")
    flags.add_argument("--epochs", type=int, default=2)
    flags.add_argument("--learning-rate", type=float, default=3e-3)
    flags.add_argument(
        "--seeds", type=int, default=5, help="2 to 7, from --seed on"
    )
    arguments = _command_line.parse(flags, argv)
    if arguments.seeds not in STUDENT:
        flags.error(f"--seeds must be 2 to 7; got {arguments.seeds}")
    arguments.resume = True
    run(arguments)


def run(arguments):
    from _measure import results_file, write_csv
    from _training import cut_blocks
    from orrery.datasets import load_text
    from orrery.zoo import HamiltonianLM

    text = pathlib.Path(arguments.dataset).stem
    root = arguments.out or pathlib.Path(
        f"runs/ablation-{text}-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    data = load_text(arguments.dataset, data_dir=arguments.data_dir)
    blocks = cut_blocks(data, arguments.smoke)
    architecture = {
        **HamiltonianLM.presets[arguments.preset],
        **(SMOKE_SIZES if arguments.smoke else {}),
        "vocabulary_size": len(data.vocabulary),
    }
    path = results_file(
        f"ablation_{arguments.preset}_{text}",
        ["keras", arguments.backend],
        smoke=arguments.smoke,
    )
    runs = {}
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        for arm in ARMS:
            print(f"=== seed {seed}, {arm} ===", flush=True)
            arguments.seed = seed
            runs[seed, arm] = measured_once(
                arm, arguments, architecture, data, blocks, root
            )
    rows = [row(arm, seed, arguments, m) for (seed, arm), m in runs.items()]
    for better, worse in PAIRS:
        rows.append(
            {
                **dict.fromkeys(rows[0], ""),
                "arm": f"{better} - {worse}, ln perplexity",
                "epochs": arguments.epochs,
                **difference(runs, better, worse),
            }
        )
    write_csv(path, rows)
    print(f"Wrote {path}")


def measured_once(arm, arguments, architecture, data, blocks, root):
    """Train and measure a run, or read what was measured before."""
    from _hamiltonian_arms import build, train_arm
    from _hamiltonian_experiment import settings_of

    folder = root / f"seed_{arguments.seed}" / arm
    settings = settings_of(arm, arguments, architecture, data)
    path = folder / "measured.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["settings"] != json.loads(json.dumps(settings)):
            raise ValueError(
                f"{path} was measured with other settings; choose another --out"
            )
        return stored["measured"]
    model = build(arm, arguments.seed, architecture)
    measured = train_arm(
        arm, model, data, blocks, folder, settings, resume=True
    )
    _command_line.write_json(path, {"settings": settings, "measured": measured})
    return measured


def row(arm, seed, arguments, measured):
    energies = measured.get("energies", {}).get("test", [])

    def mean(name):
        values = [block[name] for block in energies]
        return round(statistics.mean(values), 5) if values else ""

    valid = measured["valid"]["perplexity"]
    flat = measured.get("without_potential")
    return {
        "arm": arm,
        "seed": seed,
        "epochs": arguments.epochs,
        "parameters": measured["parameters"],
        "operator_parameters": measured["operator_parameters"],
        "valid_perplexity": round(valid, 3),
        "test_perplexity": round(measured["test"]["perplexity"], 3),
        "seconds_per_epoch": round(measured["seconds_per_epoch"], 1),
        "koopman_of_loss": measured["contributions"].get("koopman", ""),
        "energy_of_loss": measured["contributions"].get("energy", ""),
        "drift": mean("drift"),
        "largest_drift": round(max(b["drift"] for b in energies), 5)
        if energies
        else "",
        "smallest_spread_ratio": round(
            min(b["spread_ratio"] for b in energies), 3
        )
        if energies
        else "",
        "shuffled_ratio": mean("shuffled_ratio"),
        "potential_share": mean("potential_share"),
        "kick": mean("kick"),
        "potential_off_ratio": round(flat / valid, 3) if flat else "",
        "difference": "",
        "interval_95": "",
        "verdict": "",
    }


def difference(runs, arm, other):
    """The paired difference of log-perplexity, and what it says."""
    seeds = sorted({seed for seed, _ in runs})
    values = [
        math.log(
            runs[seed, arm]["valid"]["perplexity"]
            / runs[seed, other]["valid"]["perplexity"]
        )
        for seed in seeds
    ]
    mean = statistics.mean(values)
    half = (
        STUDENT[len(seeds)] * statistics.stdev(values) / math.sqrt(len(seeds))
    )
    low, high = mean - half, mean + half
    if high < 0:
        verdict = "better"
    elif low > 0:
        verdict = "worse" + (", by less than 1 %" if high <= MARGIN else "")
    else:
        verdict = "no worse" if high <= MARGIN else "undecided"
    return {
        "seed": f"{seeds[0]}-{seeds[-1]}",
        "difference": round(mean, 5),
        "interval_95": f"[{low:+.4f}, {high:+.4f}]",
        "verdict": verdict,
    }


if __name__ == "__main__":
    main()
