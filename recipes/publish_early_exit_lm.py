r"""Turn a finished run of `early_exit_lm.py` into a saved model and its CSVs.

    python recipes/publish_early_exit_lm.py \
        runs/early_exit_lm-wikitext2-jax-1 early_exit_lm_small

Writes `saved_models/<name>/` (checked on every installed backend) and, under
`results/`, the run's pictures and `<name>_arms.csv`, `<name>_thresholds.csv`,
`<name>_speeds.csv` and `<name>_risks.csv`, from which the tables are generated.
"""

import math
import shutil

import _publishing
from _publishing import ROOT, short, software, write

PICTURES = ("pareto", "confidence", "paragraph")


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
    """What the run measured, a CSV for each table."""
    words = metrics["bytes_per_word"]

    def table(what, rows):
        write(ROOT / "results" / f"{arguments.name}_{what}.csv", list(rows))

    table("arms", arms(arguments, config, metrics))
    table("thresholds", thresholds(metrics, words))
    table("speeds", speeds(arguments, config, metrics, words))
    if metrics["risks"]:
        table("risks", risks(metrics["risks"]))


def arms(arguments, config, metrics):
    settings, words = config["arguments"], metrics["bytes_per_word"]
    for arm, result in metrics["arms"].items():
        yield {
            "arm": arm,
            "seed": settings["seed"],
            "epochs": settings["epochs"],
            "trainable weights": result["parameters"],
            **{
                f"{split} perplexity": short(result[split]["perplexity"], 4)
                for split in ("valid", "test")
            },
            "test perplexity per word": short(
                math.exp(result["test"]["nats"] * words), 1
            ),
            "minutes": short(result["seconds"] / 60, 1),
            "software": software(config["versions"]),
            "hardware": arguments.hardware,
            "command": command(settings),
        }


def thresholds(metrics, words):
    """A row for each threshold, and one for the chosen on all of the text."""
    rows = [(metrics["curve"]["windows"], r) for r in metrics["curve"]["rows"]]
    for windows, row in rows:
        one, other = row["propagate"], row["defer"]
        yield {
            "windows": windows,
            "threshold": short(row["threshold"], 5),
            "leave": short(one["exit_rate"], 4),
            **{
                f"{policy} {unit}, % more": percent(part["nats_more"] * per)
                for policy, part in (("propagate", one), ("defer", other))
                for unit, per in (("byte", 1), ("word", words))
            },
            "layers": short(one["layers_only"], 4),
            "propagate MACs": short(one["macs_with_head"], 4),
            "defer MACs": short(other["macs_with_head"], 4),
            "chosen": "",
        }
    chosen = metrics["chosen"]
    if chosen["threshold"] is None:
        return
    yield {
        "windows": "all",
        "threshold": short(chosen["threshold"], 5),
        "leave": short(chosen["exit_rate"], 4),
        "propagate byte, % more": percent(chosen["nats_more"]),
        "propagate word, % more": percent(chosen["nats_more"] * words),
        "defer byte, % more": "",
        "defer word, % more": "",
        "layers": short(chosen["layers_only"], 4),
        "propagate MACs": short(chosen["macs_with_head"], 4),
        "defer MACs": "",
        "chosen": "chosen",
    }


def speeds(arguments, config, metrics, words):
    for row in metrics["speeds"]:
        yield {
            "batch": row["batch"],
            "what": row["what"],
            "leave": short(row["exit_rate"], 3),
            "ms per step": short(1e3 * row["seconds_per_step"], 3),
            "speed": short(row["speedup"], 3),
            "byte, % more": percent(row["nats_more"]),
            "word, % more": percent(row["nats_more"] * words),
            "repeats": row["repeats"],
            "software": software(config["versions"]),
            "hardware": arguments.hardware,
        }


def risks(rows):
    for row in rows:
        yield {
            "limit": row["alpha"],
            "calibrated on": row["n"],
            "threshold": ""
            if row["threshold"] is None
            else short(row["threshold"], 5),
            "leave": short(row["exit_rate"], 4),
            "risk": short(row["empirical_risk"], 5),
            "leave, test": short(row["test_exit_rate"], 4),
            "risk, test": short(row["test_risk"], 5),
            **{
                f"{what}, {how}": value
                for how in ("windows", "pieces")
                for what, value in (
                    ("held of 100", row[how]["kept"]),
                    ("none found", row[how]["without"]),
                    ("leave of these", short(row[how]["exit_rate"], 4)),
                )
            },
        }


def percent(nats):
    return short(100 * math.expm1(nats), 3)


def metadata(arguments, config, metrics):
    settings, arm = config["arguments"], metrics["arms"]["exits"]
    blocks, chosen = config["architecture"]["blocks"], metrics["chosen"]

    def metric(name, value, split="test", digits=4):
        return _publishing.metric(name, split, value, settings["seed"], digits)

    rows = [
        metric("perplexity per byte", arm[split]["perplexity"], split)
        for split in ("valid", "test")
    ]
    for other, what in (
        ("full", "all layers, trained without an exit"),
        ("shallow", "the lower layers, trained alone"),
    ):
        if other in metrics["arms"]:
            perplexity = metrics["arms"][other]["test"]["perplexity"]
            rows.append(metric(f"perplexity per byte of {what}", perplexity))
    if chosen["threshold"] is not None:
        rows += [
            metric("share of bytes that leave early", chosen["exit_rate"]),
            metric(
                "perplexity per byte with early exits", chosen["perplexity"]
            ),
        ]
    return {
        "description": "A causal language model of bytes in blocks of "
        f"{' and '.join(map(str, blocks))} layers; at the exit between them a "
        "byte that is easy to foretell may leave. Its threshold is the lowest "
        "that costs at most 1 % of the perplexity on calibration text; "
        "`model.set_risk` takes one that was calibrated for a risk, "
        "`model.set_threshold(None)` lets nobody leave.",
        "data": _publishing.data_of(config),
        "training": {
            "command": command(settings),
            "seconds": round(arm["seconds"]),
            "hardware": arguments.hardware,
            "epochs": settings["epochs"],
        },
        "metrics": rows,
        "architecture": config["architecture"],
        "exits": {
            "threshold in the file": chosen["threshold"],
            "deeper layers see of who has left": "propagate, the state at the "
            "exit; the risks hold for that alone",
        },
        "calibrated_risks": {
            str(row["alpha"]): promise(row) for row in metrics["risks"]
        },
        "intended_use": "Research on adaptive depth; tests and examples.",
        "vocabulary": "the 256 bytes of UTF-8 text, id = byte",
        "limits": "A few million weights trained on one small corpus of "
        "English: it writes words that look like English, knows no facts, and "
        "repeats the biases of its text. Thresholds and risks hold for text "
        "like that which they were calibrated on.",
    }


def promise(row):
    """What `set_risk` chooses, and what came of it."""
    if row["threshold"] is None:
        return "no threshold keeps it: nobody leaves"
    return (
        f"(delta {row['delta']}, {row['n']} windows) threshold "
        f"{row['threshold']:.4f}, {row['exit_rate']:.1%} leave at a risk of "
        f"{row['empirical_risk']:.4f}; {row['test_exit_rate']:.1%} at "
        f"{row['test_risk']:.4f} on test text"
    )


def command(settings):
    """The call that repeats the run, without paths of this machine."""
    names = ("dataset", "preset", "epochs", "batch_size", "learning_rate")
    values = [
        f"--{name.replace('_', '-')} {settings[name]}"
        for name in (*names, "seed", "backend")
    ]
    arms = " ".join(settings["arms"])
    return f"python recipes/early_exit_lm.py {' '.join(values)} --arms {arms}"


if __name__ == "__main__":
    main()
