r"""Turn a finished run of `hamiltonian_lm.py` into a saved model and its CSVs.

    python recipes/publish_hamiltonian_lm.py \
        runs/hamiltonian_lm-wikitext2-jax-1 hamiltonian_lm_small

Writes `saved_models/<name>/` (checked on every installed backend) and, under
`results/`, the run's pictures and `<name>_arms.csv`, `<name>_energies.csv`,
`<name>_energies_by_epoch.csv` and `<name>_curve.csv`, from which the tables are
generated.
"""

import csv
import shutil

import _publishing
from _energy_history import MEASURES, read_energies
from _publishing import ROOT, short, software, write

PICTURES = (
    "curves",
    "drift",
    "energies_by_epoch",
    "energy_steps",
    "energy_depth",
)
ENERGY_COLUMNS = {
    "energy drift": "energy_drift",
    "multiplier": "energy_multiplier",
    "spread ratio": "energy_spread_ratio",
    "energy term": "energy_contribution",
}


def main():
    arguments, config, metrics = _publishing.arguments(__doc__.splitlines()[0])
    write_tables(arguments, config, metrics)
    for picture in PICTURES:
        path = arguments.run / f"{picture}.png"
        if path.exists():
            name = f"{arguments.name}_{picture}.png"
            shutil.copy(path, ROOT / "results" / name)
    _publishing.publish_language_model(
        arguments, metadata(arguments, config, metrics)
    )


def write_tables(arguments, config, metrics):
    """The arms, the energies of their blocks and the curves, a CSV each."""
    name, settings = arguments.name, config["arguments"]

    def table(what, rows):
        write(ROOT / "results" / f"{name}_{what}.csv", list(rows))

    table(
        "arms",
        (
            {
                "arm": arm,
                "seed": settings["seed"],
                "epochs": settings["epochs"],
                "trainable weights": result["parameters"],
                **{
                    f"{split} perplexity": short(result[split]["perplexity"])
                    for split in ("valid", "test")
                },
                "potential off": short(result["without_potential"])
                if "without_potential" in result
                else "",
                "energy term of loss": f"{term:.3g}"
                if (term := result["contributions"].get("energy")) is not None
                else "",
                "minutes": short(result["seconds"] / 60, 1),
                "software": software(config["versions"]),
                "hardware": arguments.hardware,
                "command": command(settings),
            }
            for arm, result in metrics.items()
        ),
    )
    table(
        "energies",
        (
            {
                "arm": arm,
                "split": split,
                "block": block,
                **{
                    key: short(value, 5)
                    for key, value in row.items()
                    if key != "collapsed"
                },
            }
            for arm, result in metrics.items()
            for split, rows in result.get("energies", {}).items()
            for block, row in enumerate(rows, 1)
        ),
    )
    table("curve", curve(arguments.run, metrics))
    by_epoch = list(energies_by_epoch(arguments.run, metrics))
    if by_epoch:
        table("energies_by_epoch", by_epoch)


def energies_by_epoch(run, arms):
    for arm in arms:
        path = run / arm / "energies.csv"
        for row in read_energies(path) if path.exists() else ():
            measures = {name: short(row[name], 5) for name in MEASURES}
            yield {"arm": arm, **row, **measures}


def curve(run, arms):
    for arm in arms:
        path = run / arm / "history.csv"
        with open(path, newline="", encoding="utf-8") as file:
            for epoch in csv.DictReader(file):
                yield {
                    "arm": arm,
                    "epoch": epoch["epoch"],
                    "training perplexity": short(epoch["perplexity"]),
                    "valid perplexity": short(epoch["val_perplexity"]),
                    **{
                        column: f"{float(epoch[key]):.4g}"
                        if key in epoch
                        else ""
                        for column, key in ENERGY_COLUMNS.items()
                    },
                    "seconds": round(float(epoch["seconds"])),
                }


def metadata(arguments, config, metrics):
    settings, arm = config["arguments"], metrics["physics"]
    rows = arm["energies"]["test"]
    return {
        "description": "A causal language model of words whose "
        f"{config['architecture']['num_layers']} blocks integrate Hamilton's "
        "equations of a learned energy, token by token, by leapfrog steps.",
        "data": _publishing.data_of(config),
        "training": {
            "command": command(settings),
            "seconds": round(arm["seconds"]),
            "hardware": arguments.hardware,
            "epochs": settings["epochs"],
        },
        "metrics": [
            *_publishing.perplexities(arm, settings["seed"]),
            *(
                _publishing.metric(
                    "perplexity of the same backbone with attention and "
                    "SwiGLU blocks",
                    split,
                    metrics["base"][split]["perplexity"],
                    settings["seed"],
                )
                for split in ("valid", "test")
                if "base" in metrics
            ),
            _publishing.metric(
                "energy drift within a block, over its spread",
                "test",
                sum(row["drift"] for row in rows) / len(rows),
                settings["seed"],
                digits=5,
            ),
        ],
        "architecture": config["architecture"],
        "intended_use": "Research on language models with symplectic blocks; "
        "tests and examples.",
    }


def command(settings):
    """The call that repeats the run, without paths of this machine."""
    names = ("dataset", "preset", "epochs", "batch_size", "learning_rate")
    values = [
        f"--{name.replace('_', '-')} {settings[name]}"
        for name in (*names, "seed", "backend")
    ]
    arms = " ".join(settings["arms"])
    return f"python recipes/hamiltonian_lm.py {' '.join(values)} --arms {arms}"


if __name__ == "__main__":
    main()
