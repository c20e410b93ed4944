"""What exits save of the time of a trained model: steps, drafts, capacity.

    python benchmarks/early_exit.py                       an hour on two cores

Every backend in a process of its own, the same file, test text it was not
trained on:

- `steps`: decoding with the threshold that the file holds against full depth,
  loss and time of the same steps, at several batch sizes;
- `drafts`: greedy text by self-speculation against `generate`, from natural
  prompts; drafts kept, texts identical, and the share of 4-grams that repeat,
  for a text that goes in circles is easy to draft;
- `peer`: the same weights as the Llama of transformers, if that is installed
  (`pip install transformers`), its logits equal to ours; its own greedy text
  with drafts by the exit (`assistant_early_exit`) against without;
- `capacity`: whole texts, of each of which so many tokens go on.

What is compared takes turns, after a call that compiles. `ratio` is the median
of paired ratios, with quartiles.
"""

import argparse
import importlib.util
import json
import math
import sys
import time

from _measure import (
    device,
    reply,
    results_file,
    run_task,
    spread,
    write_csv,
)

BATCHES = (1, 8, 64)
CAPACITIES = (1.0, 0.75, 0.5, 0.25)
DRAFT_BATCHES = (1, 8)
COLUMNS = ("what", "backend", "batch", "setting", "seconds", "ratio")
COLUMNS += ("ratio_q1", "ratio_q3", "exit_rate", "percent_more")
COLUMNS += ("acceptance_rate", "identical", "repeated_4_grams", "repeats")
COLUMNS += ("load",)
FULL = {"length": 256, "prompts": 100, "prompt": 64, "new": 128}
SMOKE = {"length": 16, "prompts": 2, "prompt": 8, "new": 8}


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = flags.add_argument
    add("model", nargs="?", default="early_exit_lm_small")
    add("--task", help=argparse.SUPPRESS)
    add("--dataset", default="wikitext2")
    add("--data-dir", help="folder of downloaded data files")
    add("--backend", nargs="+", help="default: all installed")
    add("--repeats", type=int, default=30, help="of steps and capacity")
    add("--draft-length", type=int, default=4)
    add("--out", help="folder of the CSV, not results/")
    add("--smoke", action="store_true", help="short texts, few of them")
    arguments = flags.parse_args()
    if arguments.task:
        reply(measure(**json.loads(arguments.task)))
        return
    from orrery.testing import installed_backends

    rows, path = [], None
    for backend in arguments.backend or installed_backends():
        parts = ["steps", "drafts", "capacity"]
        if backend == "torch" and importlib.util.find_spec("transformers"):
            parts.append("peer")
        for what in parts:
            task = {
                "what": what,
                "backend": backend,
                "model": arguments.model,
                "dataset": arguments.dataset,
                "data_dir": arguments.data_dir,
                "repeats": 2 if arguments.smoke else arguments.repeats,
                "draft_length": arguments.draft_length,
                "smoke": arguments.smoke,
            }
            found = run_task(__file__, task, backend, timeout=6 * 3600)
            path = path or results_file(
                "early_exit",
                ["keras", "jax", "torch", "tensorflow"],
                arguments.out,
                accelerator=found["device"],
                smoke=arguments.smoke,
            )
            for row in found["rows"]:
                row |= {"what": what, "backend": backend}
                row |= {"load": found["load"]}
                rows.append({name: row.get(name, "") for name in COLUMNS})
                print(rows[-1], flush=True)
            write_csv(path, rows)
    print(f"Wrote {path}")


def measure(
    what, backend, model, dataset, data_dir, repeats, draft_length, smoke
):
    import orrery
    from orrery.datasets import load_text

    model, sizes = orrery.load(model), SMOKE if smoke else FULL
    data = load_text(
        dataset, "byte", sequence_length=sizes["length"], data_dir=data_dir
    )
    windows = data.blocks("test")[0]
    # Spread over the text: neighbours speak of the same.
    windows = windows[:: max(1, len(windows) // 2_000)]
    if what == "steps":
        rows = steps(model, windows, repeats, smoke)
    elif what == "drafts":
        rows = drafts(model, windows, draft_length, sizes)
    elif what == "peer":
        rows = peer(model, windows, draft_length, sizes)
    else:
        rows = capacities(model, windows, repeats, smoke)
    return {"rows": rows, "device": device(backend)}


def steps(model, windows, repeats, smoke):
    from orrery.zoo.exit_decoding import ExitDecoder
    from orrery.zoo.step_scores import score_steps

    if model.thresholds[0] is None:
        raise SystemExit("the model holds no threshold: nobody would leave")
    decoder, rows = ExitDecoder(model), []
    for batch in BATCHES[:2] if smoke else BATCHES:
        times, losses = ([], []), ([], [])
        exits = []
        for repeat in range(repeats + 1):
            # Other text each time, so that one easy page decides nothing.
            first = (repeat * batch) % (len(windows) - batch + 1)
            tokens = windows[first : first + batch]
            for place, run in enumerate((model, decoder)):
                start = time.perf_counter()
                loss, left = score_steps(run, tokens)
                seconds = time.perf_counter() - start
                if repeat:  # The first compiles.
                    times[place].append(seconds)
                    losses[place].append(loss.mean(dtype="float64"))
            if repeat:
                exits.append(float((left == 0).mean()))
        more = sum(losses[1]) / repeats - sum(losses[0]) / repeats
        rows.append(
            {
                "batch": batch,
                "setting": f"threshold {model.thresholds[0]:.4f}",
                **compared(*times),
                "exit_rate": sum(exits) / len(exits),
                "percent_more": 100 * math.expm1(more),
            }
        )
    return rows


def compared(before, after):
    """Seconds of `after`, and how many times as long `before` took."""
    ratios = [a / b for a, b in zip(before, after, strict=True)]
    ratio, low, high = spread(ratios)
    return {
        "seconds": spread(after)[0],
        "ratio": ratio,
        "ratio_q1": low,
        "ratio_q3": high,
        "repeats": len(ratios),
    }


def drafts(model, windows, draft_length, sizes):
    from orrery.zoo.generation import generate
    from orrery.zoo.self_speculation import speculate

    rows, length = [], sizes["prompt"] + sizes["new"]
    prompts = windows[: sizes["prompts"] + 8, : sizes["prompt"]]
    for batch in DRAFT_BATCHES:
        batch = min(batch, sizes["prompts"])
        times, kept, same, repeated = ([], []), [], [], []
        for first in range(0, sizes["prompts"] - batch + 1, batch):
            given = prompts[first : first + batch]
            for _ in range(1 if first else 2):  # The first compiles.
                start = time.perf_counter()
                plain = generate(model, given, length, sampler="greedy")
                middle = time.perf_counter()
                text, stats = speculate(
                    model, given, length, draft_length, return_stats=True
                )
                end = time.perf_counter()
            times[0].append(middle - start)
            times[1].append(end - middle)
            kept.append(stats["acceptance_rate"])
            for one, two in zip(plain, text, strict=True):
                same.append(bool((one == two).all()))
                repeated.append(repetition(two[sizes["prompt"] :]))
        rows.append(
            {
                "batch": batch,
                "setting": f"{draft_length} drafts",
                **compared(*times),
                "acceptance_rate": sum(kept) / len(kept),
                "identical": f"{sum(same)} of {len(same)}",
                "repeated_4_grams": sum(repeated) / len(repeated),
            }
        )
    return rows


def peer(model, windows, draft_length, sizes):
    """Batch 1, the prompts of `drafts`."""
    import torch
    import transformers
    from _llama_peer import llama, tensor
    from keras import ops

    network = llama(model)
    with torch.no_grad():
        tokens = tensor(windows[:2]).long()
        theirs = network(tokens).logits.numpy()
    ours = ops.convert_to_numpy(model(windows[:2]))
    difference = float(abs(theirs - ours).max())
    assert difference < 1e-4, difference
    drafts = {
        "assistant_early_exit": model.exit_depths[0],
        "num_assistant_tokens": draft_length,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }
    times, same, repeated = ([], []), [], []
    for place, prompt in enumerate(windows[: sizes["prompts"]]):
        given = tensor(prompt[None, : sizes["prompt"]]).long()
        texts = []
        for k, options in enumerate(({}, drafts)):
            for _ in range(1 if place else 2):  # The first warms up.
                start = time.perf_counter()
                text = network.generate(
                    given,
                    attention_mask=torch.ones_like(given),
                    do_sample=False,
                    max_new_tokens=sizes["new"],
                    suppress_tokens=[0, 1],
                    **options,
                )
                seconds = time.perf_counter() - start
            times[k].append(seconds)
            texts.append(text[0].numpy())
        same.append(bool((texts[0] == texts[1]).all()))
        repeated.append(repetition(texts[1][sizes["prompt"] :]))
    return [
        {
            "batch": 1,
            "setting": f"transformers {transformers.__version__}, "
            f"{draft_length} drafts",
            **compared(*times),
            "identical": f"{sum(same)} of {len(same)}",
            "repeated_4_grams": sum(repeated) / len(repeated),
        }
    ]


def repetition(tokens):
    """The share of 4-grams that were there before."""
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(grams)) / len(grams)


def capacities(model, windows, repeats, smoke):
    from keras import ops
    from orrery._backend import compile_function

    rows, times = [], {capacity: [] for capacity in CAPACITIES}
    routes = {
        capacity: compile_function(
            lambda tokens, c=capacity: model.route(tokens, "capacity", c)[
                "logits"
            ],
            model.variables,
        )
        for capacity in CAPACITIES
    }
    batch = 2 if smoke else 8
    for repeat in range(repeats + 1):
        first = (repeat * batch) % (len(windows) - batch + 1)
        tokens = ops.convert_to_tensor(windows[first : first + batch])
        for capacity, route in routes.items():
            start = time.perf_counter()
            ops.convert_to_numpy(route(tokens))
            if repeat:
                times[capacity].append(time.perf_counter() - start)
    for capacity in CAPACITIES:
        rows.append(
            {
                "batch": batch,
                "setting": f"capacity {capacity}",
                **compared(times[1.0], times[capacity]),
                "exit_rate": 1 - capacity,
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
