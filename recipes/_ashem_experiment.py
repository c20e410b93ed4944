"""The original early-exit run, faults included, beside what was published."""

import importlib.util
import pathlib

from _ashem_published import PHASE1, PHASE2, RESULTS, THRESHOLD, VOCABULARY
from _command_line import default_folder, open_folder, versions, write_json
from orrery.datasets.stdlib import read_stdlib
from orrery.datasets.wikitext2 import read_wikitext2
from orrery.zoo.ashem_configs import ASHEMConfig
from orrery.zoo.legacy.ashem_protocol import (
    LegacyExperiment,
    run_legacy_protocol,
)

SMOKE = {
    "dim": 16,
    "num_heads": 2,
    "hidden_dim": 32,
    "length": 8,
    "samples": 400,
    "batch_size": 8,
    "max_epochs": 2,
}


def run(arguments):
    """Both phases as published; `metrics.json`, `report.md`, a picture."""
    if arguments.out is None:
        name = pathlib.Path(str(arguments.dataset)).stem
        arguments.out = default_folder(
            f"early_exit_lm-legacy-{name}-{arguments.backend}",
            arguments.resume,
        )
    folder = arguments.out
    if (folder / "metrics.json").exists():
        raise SystemExit(f"--out {folder} holds a run; choose another folder")
    kept = folder / "phase1.npz"
    if kept.exists() and not arguments.resume:
        raise SystemExit(
            f"{kept} is there already: continue with --resume, or choose "
            "another --out"
        )
    open_folder(folder)
    texts, source = read(arguments)
    experiment = LegacyExperiment(
        seed=arguments.seed,
        init=arguments.init,
        **(SMOKE if arguments.smoke else {}),
        ashem=ASHEMConfig(),
    )
    print(
        f"The original early-exit run on {source}, initial weights of "
        f"{arguments.init}, seed {arguments.seed}, backend "
        f"{arguments.backend}. Results go to {folder}.",
        flush=True,
    )
    results, details = run_legacy_protocol(
        texts, experiment, lambda line: print(line, flush=True), kept
    )
    model = details["phase2"]
    measured = {
        "source": source,
        "seed": arguments.seed,
        "init": arguments.init,
        "results": results,
        "threshold": details["threshold"],
        "mean_confidence": details["mean_confidence"],
        "vocabulary_size": details["vocabulary_size"],
        "phase1": details["phase1_history"],
        "phase2": details["phase2_history"],
        "hard_share": results["num_hard_examples"] / valid_tokens(experiment),
        "costs": model.published_costs(results["shallow_ratio"]),
        "versions": versions(),
    }
    write_json(folder / "metrics.json", measured)
    model.save(folder / "model.keras")
    pictures = draw(folder, measured)
    text = report(measured, pictures)
    (folder / "report.md").write_text(text, encoding="utf-8")
    print(f"\nWrote {folder}/report.md, and what it shows beside it")


def read(arguments):
    """The texts of train, valid and, if it is there, test; what they are."""
    if arguments.dataset == "stdlib":
        return read_stdlib().texts, "the docstrings of the standard library"
    if arguments.dataset == "wikitext2":
        corpus = read_wikitext2(data_dir=arguments.data_dir)
        return corpus.texts, "WikiText-2, tokenised version 1"
    folder = pathlib.Path(arguments.dataset)
    files = {
        split: folder / f"wiki.{split}.raw"
        for split in ("train", "valid", "test")
    }
    if not files["test"].is_file():  # The original reads none.
        del files["test"]
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise SystemExit(
            "--dataset must be stdlib, wikitext2 or, with --protocol legacy, a "
            "folder that holds wiki.train.raw and wiki.valid.raw; there is no "
            f"{' and no '.join(missing)}"
        )
    texts = {split: file.read_text("utf-8") for split, file in files.items()}
    return texts, "raw files of WikiText-2"


def valid_tokens(experiment):
    """How many tokens of valid are evaluated: whole batches of windows."""
    of_a_batch = experiment.batch_size * experiment.length
    count = int(experiment.samples * 0.2) * (experiment.length + 1) - 1
    return count // of_a_batch * of_a_batch


def draw(folder, measured):
    """The perplexities of both phases, and the published ones."""
    if importlib.util.find_spec("matplotlib") is None:
        print("No pictures: pip install 'orrery[plot]' draws them.")
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, name, published in zip(
        figure.subplots(1, 2),
        ("phase1", "phase2"),
        (PHASE1, PHASE2),
        strict=True,
    ):
        for color, (key, label) in enumerate(
            (
                ("val_ppl", "valid"),
                ("hard_ppl", "hard tokens, without context"),
            )
        ):
            if key not in measured[name]:
                continue
            for values, style, whose in (
                (measured[name][key], "-", "here"),
                (published[key], ":", "published, raw files"),
            ):
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    linestyle=style,
                    marker=".",
                    color=f"C{color}",
                    label=f"{label}, {whose}",
                )
        axes.set(xlabel="epoch", ylabel="perplexity", yscale="log", title=name)
        axes.legend()
    figure.savefig(folder / "curves.png", dpi=150)
    return ["curves.png"]


def report(measured, pictures):
    results, costs = measured["results"], measured["costs"]
    lines = [
        "# The original early-exit run, reproduced",
        "",
        f"{measured['source']}, initial weights of {measured['init']}, seed "
        f"{measured['seed']}. The second phase trains on the hard half of the "
        "very tokens that it is then scored on, and without context: its "
        "perplexities are no language model's. Published: the raw files, "
        f"{VOCABULARY:,} words; here {measured['vocabulary_size']:,}.",
        "",
        f"    python {measured['versions']['command']}",
        "",
        "| | here | published |",
        "|---|---|---|",
    ]
    for key, published in {**RESULTS, "threshold": THRESHOLD}.items():
        value = measured.get(key, results.get(key))
        lines.append(f"| {key} | {value:,.6g} | {published:,.6g} |")
    fall = results["hard_ppl_improvement"] / results["phase1_hard_ppl"]
    lines += [
        f"| hard_ppl falls by | {fall:.1%} | 75.8% |",
        f"| tokens that are hard | {measured['hard_share']:.2%} | 50.00% |",
        "",
        "Cost over full depth: layers only, as published, "
        f"{costs['layers_only']:.1%}; with heads, if layers were skipped, "
        f"{costs['skipped']:.1%}; as the original ran, all layers and three "
        f"heads, {costs['executed']:.1%}. If every token left at the exit and "
        "its confidence were free, the network would be "
        f"{costs['ceiling']:.3f} times as fast.",
        "",
        "| phase | epoch | train | valid | hard | published valid |",
        "|---|---|---|---|---|---|",
    ]
    for phase, published in (("phase1", PHASE1), ("phase2", PHASE2)):
        history = measured[phase]
        hard = history.get("hard_ppl", [])
        for epoch, (train, valid) in enumerate(
            zip(history["train_ppl"], history["val_ppl"], strict=True)
        ):
            known = published["val_ppl"]
            cells = [
                phase[-1],
                str(epoch + 1),
                f"{train:.2f}",
                f"{valid:.2f}",
                f"{hard[epoch]:.2f}" if hard else "",
                f"{known[epoch]:.2f}" if epoch < len(known) else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"![{name}]({name})" for name in pictures)]
    return "\n".join(lines) + "\n"
