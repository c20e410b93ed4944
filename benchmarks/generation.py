"""Tokens per second of generation, by mixer and batch size.

    python benchmarks/generation.py

Greedy continuation of a 16-token prompt to 256 tokens by `KoopmanLM` (width
112, 5 blocks of one mixer, vocabulary 30,000, random weights), compiled on JAX
and TensorFlow. `streaming` carries a KV cache or a recurrent state; the peer,
`recomputed`, runs the blocks over the whole prefix for every token and the head
on its last one, compiled once for texts padded to the full length. The first
call is left out; medians of five.
"""

import argparse
import json
import statistics
import sys
import time

from _measure import device, reply, results_file, run_task, write_csv

MIXERS = ("attention", "koopman", "resolvent")
BATCHES = (1, 16)
MODEL = {"dim": 112, "num_layers": 5, "hidden_dim": 304}
PROMPT, LENGTH, REPEATS, RECOMPUTED = 16, 256, 5, 24


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--task", help=argparse.SUPPRESS)
    flags.add_argument("--backend", nargs="+", help="default: all installed")
    flags.add_argument("--out", help="folder of the CSV, not results/")
    flags.add_argument(
        "--smoke", action="store_true", help="a small model, a short text"
    )
    arguments = flags.parse_args()
    if arguments.task:
        reply(measure(**json.loads(arguments.task)))
        return
    from orrery.testing import installed_backends

    rows, accelerator = [], None
    for backend in arguments.backend or installed_backends():
        for mixer in MIXERS:
            for batch in BATCHES:
                task = {"backend": backend, "mixer": mixer, "batch": batch}
                task |= {"smoke": arguments.smoke}
                found = run_task(__file__, task, backend)
                accelerator = accelerator or found.pop("device")
                found.pop("device", None)
                del task["smoke"]
                rows.append({**task, **found})
                print(rows[-1], flush=True)
    packages = ["keras", "jax", "torch", "tensorflow"]
    path = results_file(
        "generation",
        packages,
        arguments.out,
        accelerator=accelerator,
        smoke=arguments.smoke,
    )
    write_csv(path, rows)
    print(f"Wrote {path}")


def measure(backend, mixer, batch, smoke):
    import keras
    import numpy as np
    from keras import ops
    from orrery._backend import compile_function
    from orrery.zoo import KoopmanLM

    keras.utils.set_random_seed(0)
    size = {"vocabulary_size": 100} if smoke else MODEL
    length = 2 * PROMPT if smoke else LENGTH
    recomputed_tokens = 2 if smoke else RECOMPUTED
    model = KoopmanLM(**size, mixer=mixer, dropout=0.0)
    model.build()
    generator = np.random.default_rng(0)
    prompt = generator.integers(2, model.vocabulary_size, (batch, PROMPT))
    prompt = prompt.astype("int32")
    streamed = median_seconds(
        lambda: model.generate(prompt, max_length=length, sampler="greedy")
    )
    padded = np.zeros((batch, length), "int32")
    padded[:, :PROMPT] = prompt

    def next_token(tokens, position):
        h = ops.take(model.trajectory(tokens)[-1], position, axis=1)
        return ops.argmax(model.head(model.final_norm(h))[:, 0], axis=-1)

    compiled = compile_function(next_token, model.variables)

    def recompute():
        for position in range(PROMPT, PROMPT + recomputed_tokens):
            last = np.array([position - 1], "int32")
            found = compiled(*map(ops.convert_to_tensor, (padded, last)))
            padded[:, position] = ops.convert_to_numpy(found)

    recomputed = median_seconds(recompute)
    streaming = batch * (length - PROMPT) / streamed
    full = batch * recomputed_tokens / recomputed
    return {
        "streaming_tokens_per_s": streaming,
        "recomputed_tokens_per_s": full,
        "ratio": streaming / full,
        "device": device(backend),
    }


def median_seconds(function):
    function()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
