"""What exits save of the time of a trained model: steps, drafts, capacity.

    python benchmarks/early_exit.py                 some hours on two cores
    python benchmarks/early_exit.py --backend jax   twenty minutes

Every backend in three processes of its own, the same file, test text it was
not trained on; rows of other backends and parts that the CSV holds are kept:

- `steps`: decoding with the threshold that the file holds against full depth,
  loss and time of the same steps, at several batch sizes, and, so that no
  decoder is taken for a saving, with a threshold at which nobody leaves; in
  the largest batch also with a fixed share of rows going on at every step;
- `drafts`: greedy text by self-speculation against `generate`, from natural
  prompts; drafts kept, texts identical, and the share of 4-grams that repeat,
  for a text that goes in circles is easy to draft;
- `peer`: the same weights as the Llama of transformers, if that is installed
  (`pip install transformers`), its logits equal to ours; its own greedy text
  with drafts by the exit (`assistant_early_exit`) against without;
- `capacity`: whole texts, of each of which so many tokens go on, against the
  model at full depth.

What is compared takes turns, in random order, after three calls that are not
counted. `ratio` is the median of paired ratios over all processes, with
quartiles; `percent_more`, the perplexity above that of full depth, is of a text
long enough to tell, by the steps of the largest batch, with a 95 % t interval
over its windows.
"""

import argparse
import csv
import importlib.util
import json
import math
import os
import random
import statistics
import sys
import time

from _measure import (
    device,
    half_width,
    reply,
    results_file,
    run_task,
    spread,
    write_csv,
)

PARTS = ("steps", "drafts", "capacity", "peer")
BATCHES = (1, 8, 64)
CAPACITIES = (1.0, 0.75, 0.5, 0.25)
DRAFT_BATCHES = (1, 8)
# Shares of a batch's rows that go on at every step, the least confident.
ROWS = (1 / 2, 3 / 8)
WARM_UPS = 3
COLUMNS = ("what", "backend", "batch", "setting", "seconds_before", "seconds")
COLUMNS += ("ratio",)
COLUMNS += ("ratio_q1", "ratio_q3", "exit_rate", "percent_more")
COLUMNS += ("percent_more_low", "percent_more_high", "windows")
COLUMNS += ("acceptance_rate", "identical", "repeated_4_grams", "repeats")
COLUMNS += ("processes", "threads", "load")
FULL = {"length": 256, "prompt": 64, "new": 128}
SMOKE = {"length": 16, "windows": 32, "prompts": 2, "prompt": 8, "new": 8}


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = flags.add_argument
    add("model", nargs="?", default="early_exit_lm_small")
    add("--task", help=argparse.SUPPRESS)
    add("--dataset", default="wikitext2")
    add("--data-dir", help="folder of downloaded data files")
    add("--backend", nargs="+", help="default: all installed")
    add("--parts", nargs="+", default=PARTS, choices=PARTS)
    add("--processes", type=int, default=3)
    add(
        "--repeats",
        type=int,
        default=10,
        help="of steps and capacity, in each process",
    )
    add("--windows", type=int, default=1_920, help="of text, for steps")
    add("--prompts", type=int, default=100, help="for drafts")
    add("--draft-length", type=int, default=4)
    add("--out", help="folder of the CSV, not results/")
    add("--smoke", action="store_true", help="short texts, few of them")
    arguments = flags.parse_args()
    if arguments.task:
        reply(measure(**json.loads(arguments.task)))
        return
    if arguments.backend is None:
        from orrery.testing import installed_backends

        arguments.backend = installed_backends()
    processes = 2 if arguments.smoke else arguments.processes
    rows, path = [], None
    for backend in arguments.backend:
        for what in arguments.parts:
            if what == "peer" and not (
                backend == "torch" and importlib.util.find_spec("transformers")
            ):
                continue
            replies = [
                run_task(
                    __file__,
                    {
                        "what": what,
                        "backend": backend,
                        "model": arguments.model,
                        "dataset": arguments.dataset,
                        "data_dir": arguments.data_dir,
                        "repeats": 2 if arguments.smoke else arguments.repeats,
                        "windows": arguments.windows,
                        "prompts": arguments.prompts,
                        "draft_length": arguments.draft_length,
                        "process": (process, processes),
                        "smoke": arguments.smoke,
                    },
                    backend,
                    timeout=6 * 3600,
                )
                for process in range(processes)
            ]
            if path is None:
                path = results_file(
                    "early_exit",
                    ["keras", "jax", "torch", "tensorflow"],
                    arguments.out,
                    accelerator=replies[0]["device"],
                    smoke=arguments.smoke,
                )
                kept = others(path, arguments)
            for groups in zip(*(r["groups"] for r in replies), strict=True):
                row = {
                    **pooled(groups),
                    "what": what,
                    "backend": backend,
                    "processes": processes,
                    "threads": os.cpu_count(),
                    "load": max(found["load"] for found in replies),
                }
                rows.append({name: row.get(name, "") for name in COLUMNS})
                print(rows[-1], flush=True)
            write_csv(path, [*kept, *rows])
    print(f"Wrote {path}")


def others(path, arguments):
    """Rows of the CSV that this run does not measure again."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: row.get(name, "") for name in COLUMNS}
        for row in rows
        if row["what"] not in arguments.parts
        or row["backend"] not in arguments.backend
    ]


def pooled(groups):
    """A row of the CSV from what each process has found."""
    lists = {
        name: [value for group in groups for value in group[name]]
        for name, first in groups[0].items()
        if isinstance(first, list)
    }
    before, after = lists.pop("before"), lists.pop("after")
    ratio, low, high = spread(a / b for a, b in zip(before, after, strict=True))
    row = {
        "batch": groups[0]["batch"],
        "setting": groups[0]["setting"],
        "seconds_before": statistics.median(before),
        "seconds": statistics.median(after),
        "ratio": ratio,
        "ratio_q1": low,
        "ratio_q3": high,
        "repeats": len(after),
    }
    if "same" in lists:
        same = lists.pop("same")
        row["identical"] = f"{sum(same)} of {len(same)}"
    if "nats_more" in lists:
        nats = lists.pop("nats_more")
        mean, half = statistics.fmean(nats), half_width(nats)
        row["windows"] = len(nats)
        for name, edge in (("", 0), ("_low", -half), ("_high", half)):
            row[f"percent_more{name}"] = 100 * math.expm1(mean + edge)
    return row | {name: statistics.fmean(v) for name, v in lists.items()}


def measure(
    what,
    backend,
    model,
    dataset,
    data_dir,
    repeats,
    windows,
    prompts,
    draft_length,
    process,
    smoke,
):
    import numpy as np
    import orrery
    from orrery.datasets import load_text

    sizes = {**FULL, "windows": windows, "prompts": prompts}
    model, sizes = orrery.load(model), SMOKE if smoke else sizes
    data = load_text(
        dataset, "byte", sequence_length=sizes["length"], data_dir=data_dir
    )
    windows = data.blocks("test")[0]

    def some(count):
        """From all over the text; each process has its own, shuffled."""
        count = min(count, len(windows))
        chosen = np.linspace(0, len(windows) - 1, count).astype(int)
        mine = windows[chosen[process[0] :: process[1]]]
        return np.random.default_rng(0).permutation(mine)

    prompts = some(sizes["prompts"])[:, : sizes["prompt"]]
    windows = some(sizes["windows"])
    order = random.Random(process[0])
    if what == "steps":
        groups = steps(model, windows, repeats, order, smoke)
    elif what == "drafts":
        groups = drafts(
            model, prompts, repeats, draft_length, sizes["new"], order
        )
    elif what == "peer":
        groups = peer(model, prompts, draft_length, sizes["new"], order)
    else:
        groups = capacities(model, windows, repeats, order, smoke)
    return {"groups": groups, "device": device(backend)}


def taking_turns(runs, inputs, order):
    """Of each input, the seconds and the results of all runs."""
    for place, given in enumerate([*inputs[:1] * WARM_UPS, *inputs]):
        seconds, found = [0.0] * len(runs), [None] * len(runs)
        for index in order.sample(range(len(runs)), len(runs)):
            start = time.perf_counter()
            found[index] = runs[index](given)
            seconds[index] = time.perf_counter() - start
        if place >= WARM_UPS:
            yield seconds, found


def batches_of(windows, batch, count):
    """So many batches, each of other windows as long as there are any."""
    last = len(windows) - batch + 1
    if last < 1:
        raise SystemExit(f"the test text is too short for batches of {batch}")
    starts = (place * batch % last for place in range(count))
    return [windows[start : start + batch] for start in starts]


def steps(model, windows, repeats, order, smoke):
    from orrery.zoo.exit_decoding import ExitDecoder
    from orrery.zoo.step_scores import score_steps

    level = model.thresholds[0]
    if level is None:
        raise SystemExit("the model holds no threshold: nobody would leave")
    decoder, groups = ExitDecoder(model), []

    def decode(decoder, threshold):
        def run(tokens):
            model.set_threshold(threshold)
            return score_steps(decoder, tokens)

        return run

    runs = {
        "full depth": lambda tokens: score_steps(model, tokens),
        "nobody leaves": decode(decoder, None),
        f"threshold {level:.4f}": decode(decoder, level),
    }
    of_rows = {
        f"{share:.4g} of rows go on": decode(
            ExitDecoder(model, capacity=share), level
        )
        for share in ROWS
    }
    batches = BATCHES[:2] if smoke else BATCHES
    more = {name: [] for name in [*list(runs)[2:], *of_rows]}
    for tokens in batches_of(windows, batches[-1], len(windows) // batches[-1]):
        full = runs["full depth"](tokens)[0]
        for name, nats in more.items():
            loss = {**runs, **of_rows}[name](tokens)[0]
            nats += (loss - full).mean(axis=1, dtype="float64").tolist()
    for batch in batches:
        timed = {**runs, **of_rows} if batch == batches[-1] else runs
        found = {
            name: {"batch": batch, "setting": name, "before": [], "after": []}
            for name in list(timed)[1:]
        }
        for name, group in found.items():
            if name in more:
                group |= {"exit_rate": [], "nats_more": more[name]}
        given = batches_of(windows, batch, repeats)
        for seconds, results in taking_turns(
            list(timed.values()), given, order
        ):
            for group, after, result in zip(
                found.values(), seconds[1:], results[1:], strict=True
            ):
                group["before"].append(seconds[0])
                group["after"].append(after)
                if "exit_rate" in group:
                    group["exit_rate"].append(float((result[1] == 0).mean()))
        groups += found.values()
    return groups


def drafts(model, prompts, repeats, draft_length, new, order):
    from orrery.zoo.generation import generate
    from orrery.zoo.self_speculation import speculate

    groups, length = [], prompts.shape[1] + new
    runs = [
        lambda given: generate(model, given, length, sampler="greedy"),
        lambda given: speculate(
            model, given, length, draft_length, return_stats=True
        ),
    ]
    for batch in DRAFT_BATCHES:
        batch = min(batch, len(prompts))
        group = {"batch": batch, "setting": f"{draft_length} drafts"}
        group |= {"before": [], "after": [], "acceptance_rate": [], "same": []}
        group["repeated_4_grams"] = []
        count = max(repeats, len(prompts) // batch)
        given = batches_of(prompts, batch, count)
        for seconds, found in taking_turns(runs, given, order):
            plain, (texts, stats) = found
            group["before"].append(seconds[0])
            group["after"].append(seconds[1])
            group["acceptance_rate"].append(stats["acceptance_rate"])
            for one, two in zip(plain, texts, strict=True):
                group["same"].append(bool((one == two).all()))
                group["repeated_4_grams"].append(repetition(two[-new:]))
        groups.append(group)
    return groups


def peer(model, prompts, draft_length, new, order):
    """Batch 1, the prompts of `drafts`."""
    import torch
    import transformers
    from _llama_peer import llama, tensor
    from keras import ops

    network = llama(model)
    with torch.no_grad():
        theirs = network(tensor(prompts[:2]).long()).logits.numpy()
    ours = ops.convert_to_numpy(model(prompts[:2]))
    difference = float(abs(theirs - ours).max())
    assert difference < 1e-4, difference
    by_exit = {
        "assistant_early_exit": model.exit_depths[0],
        "num_assistant_tokens": draft_length,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }

    def write(given, **options):
        given = tensor(given).long()
        text = network.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=new,
            suppress_tokens=[0, 1],
            **options,
        )
        return text[0].numpy()

    group = {
        "batch": 1,
        "setting": f"transformers {transformers.__version__}, "
        f"{draft_length} drafts",
        "before": [],
        "after": [],
        "same": [],
        "repeated_4_grams": [],
    }
    for seconds, (plain, text) in taking_turns(
        [write, lambda given: write(given, **by_exit)],
        batches_of(prompts, 1, len(prompts)),
        order,
    ):
        group["before"].append(seconds[0])
        group["after"].append(seconds[1])
        group["same"].append(bool((plain == text).all()))
        group["repeated_4_grams"].append(repetition(text[-new:]))
    return [group]


def repetition(tokens):
    """The share of 4-grams that were there before."""
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(grams)) / len(grams)


def capacities(model, windows, repeats, order, smoke):
    from keras import ops
    from orrery._backend import compile_function

    def compiled(function):
        run = compile_function(function, model.variables)
        return lambda tokens: ops.convert_to_numpy(run(tokens))

    runs = [compiled(model)] + [
        compiled(
            lambda tokens, c=c: model.route(tokens, "capacity", c)["logits"]
        )
        for c in CAPACITIES
    ]
    batch = 2 if smoke else 8
    given = [
        ops.convert_to_tensor(part)
        for part in batches_of(windows, batch, repeats)
    ]
    times = [seconds for seconds, _ in taking_turns(runs, given, order)]
    before, *others = zip(*times, strict=True)
    return [
        {
            "batch": batch,
            "setting": f"capacity {capacity}",
            "before": list(before),
            "after": list(after),
            "exit_rate": [1 - capacity],
        }
        for capacity, after in zip(CAPACITIES, others, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
