r"""Turn a run of `early_exit_lm.py --protocol legacy` into CSVs and a picture.

    python recipes/publish_ashem.py runs/early_exit_lm-legacy-wikitext2-jax-1 \
        ashem_legacy_wikitext2

Writes `results/<name>_figures.csv`, `<name>_epochs.csv` and the picture
`<name>_curves.png`, from which docs/early_exit_lm.md is generated. The model is
not kept.
"""

import argparse
import json
import os
import pathlib
import shutil

from _ashem_published import PHASE1, PHASE2, RESULTS, THRESHOLD, VOCABULARY
from _publishing import ROOT, short, software, write


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("run", type=pathlib.Path, help="folder of the run")
    flags.add_argument("name", help="of the tables")
    flags.add_argument("--hardware", default=f"{os.cpu_count()} CPU cores")
    arguments = flags.parse_args()
    path = arguments.run / "metrics.json"
    measured = json.loads(path.read_text("utf-8"))
    results = ROOT / "results"
    write(
        results / f"{arguments.name}_figures.csv",
        list(figures(measured, arguments.hardware)),
    )
    write(results / f"{arguments.name}_epochs.csv", list(epochs(measured)))
    if (picture := arguments.run / "curves.png").exists():
        shutil.copy(picture, results / f"{arguments.name}_curves.png")


def figures(measured, hardware):
    """Each figure of the run, and what was published of the raw files."""
    found, costs = measured["results"], measured["costs"]
    rows = [
        ("words", measured["vocabulary_size"], VOCABULARY),
        ("perplexity, phase 1", found["phase1_ppl"], RESULTS["phase1_ppl"]),
        ("threshold", measured["threshold"], THRESHOLD),
        ("hard tokens, %", 100 * measured["hard_share"], 50.0),
        (
            "hard perplexity without context, phase 1",
            found["phase1_hard_ppl"],
            RESULTS["phase1_hard_ppl"],
        ),
        (
            "the same after phase 2",
            found["phase2_hard_ppl"],
            RESULTS["phase2_hard_ppl"],
        ),
        (
            "falls by, %",
            100 * found["hard_ppl_improvement"] / found["phase1_hard_ppl"],
            75.8,
        ),
        (
            "routed perplexity, phase 2",
            found["two_stage_ppl"],
            RESULTS["two_stage_ppl"],
        ),
        (
            "leave at the exit, %",
            100 * found["shallow_ratio"],
            100 * RESULTS["shallow_ratio"],
        ),
        ("cost of layers alone, %", 100 * costs["layers_only"], 64.82),
        ("cost with heads, layers skipped, %", 100 * costs["skipped"], ""),
        ("cost as the original ran, %", 100 * costs["executed"], ""),
        ("the most that exits could gain", costs["ceiling"], ""),
    ]
    for what, here, published in rows:
        yield {
            "figure": what,
            "here": short(here, 4),
            "published": published,
            "seed": measured["seed"],
            "initial weights": measured["init"],
            "software": software(measured["versions"]),
            "hardware": hardware,
        }


def epochs(measured):
    for phase, published in (("phase1", PHASE1), ("phase2", PHASE2)):
        history = measured[phase]
        for epoch, valid in enumerate(history["val_ppl"]):
            row = {"phase": phase[-1], "epoch": epoch + 1}
            row["valid perplexity"] = short(valid)
            for name, key in (("train", "train_ppl"), ("hard", "hard_ppl")):
                values = history.get(key)
                row[f"{name} perplexity"] = (
                    short(values[epoch]) if values else ""
                )
            known = published["val_ppl"]
            row["published"] = known[epoch] if epoch < len(known) else ""
            yield row


if __name__ == "__main__":
    main()
