"""One process of `mixers.py`: mixers on one backend.

python benchmarks/_mixers_task.py --task JSON
"""

import json
import os
import sys
import time
from pathlib import Path

import keras
import numpy as np
from _measure import device, device_memory, reply
from orrery.layers.causal_attention import CausalSelfAttention
from orrery.layers.linear_recurrence import LinearRecurrence
from orrery.layers.resolvent_mixer import ResolventMixer

WIDTH, HEADS, WARMUP = 64, 4, 3
PEER = "attention-peer"


class FusedAttention(CausalSelfAttention):
    """The layer on Keras' fused operation, whatever the backend."""

    def attend(self, q, k, v):
        return keras.ops.dot_product_attention(q, k, v, is_causal=True)


def keras_layer(name, length):
    keras.utils.set_random_seed(0)
    layer = {
        "attention": lambda: CausalSelfAttention(HEADS),
        "attention-fused": lambda: FusedAttention(HEADS),
        "recurrence": LinearRecurrence,
        "resolvent": lambda: ResolventMixer(gradient="adjoint"),
        "resolvent-autodiff": lambda: ResolventMixer(gradient="autodiff"),
    }[name]()
    layer.build((1, length, WIDTH))
    return layer


def peer(length):
    """Attention in plain PyTorch with the weights of the Keras layer."""
    import torch
    from peers import Attention

    layer = keras_layer("attention", length)
    module = Attention(WIDTH, HEADS, length)
    with torch.no_grad():
        for ours, theirs in (
            (layer.query_key_value, module.query_key_value),
            (layer.output_projection, module.output),
        ):
            theirs.weight.copy_(ours.kernel.value.T)
    return module.to("cuda" if torch.cuda.is_available() else "cpu")


def gradient_step(name, length):
    """A function that does one forward and backward pass and waits for it.

    It returns the gradients of the mean square of the output with respect to
    the input `(1, N, d)` and each weight.
    """
    x = np.random.default_rng(0).normal(size=(1, length, WIDTH))
    x = x.astype("float32")
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(os.cpu_count())
        module = peer(length) if name == PEER else keras_layer(name, length)
        weights = list(module.parameters())
        x = torch.from_numpy(x).to(weights[0].device).requires_grad_()

        def step():
            loss = module(x).square().mean()
            gradients = torch.autograd.grad(loss, [x, *weights])
            if x.is_cuda:
                torch.cuda.synchronize()
            return gradients

        return step
    layer = keras_layer(name, length)
    weights = [weight.value for weight in layer.weights]
    if backend == "jax":
        import jax

        def loss(arguments):
            x, *weights = arguments
            y, _ = layer.stateless_call(weights, [], x)
            return jax.numpy.square(y).mean()

        compiled, arguments = jax.jit(jax.grad(loss)), [x, *weights]
        arguments = jax.device_put(arguments)

        def step():
            return jax.block_until_ready(compiled(arguments))

        step.plan = lambda: compiled.lower(arguments).compile()
        return step
    import tensorflow as tf

    x = tf.constant(x)

    @tf.function(jit_compile=True)
    def compiled():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_mean(tf.square(layer(x)))
        return tape.gradient(loss, [x, *weights])

    def step():
        gradients = compiled()
        gradients[-1].numpy()
        return gradients

    return step


def parity(first, second, length):
    """Largest difference of two mixers' gradients, relative per array."""
    one, two = (
        list(map(keras.ops.convert_to_numpy, gradient_step(name, length)()))
        for name in (first, second)
    )
    if second == PEER:
        two[1:] = [kernel.T for kernel in two[1:]]
    return {
        "difference": max(
            float(np.abs(a - b).max() / np.abs(a).max())
            for a, b in zip(one, two, strict=True)
        )
    }


def timing(cells, steps):
    """Seconds of the first call, and of steps after the warm-up."""
    results = []
    for name, length in cells:
        step, seconds = gradient_step(name, length), []
        for _ in range(1 + WARMUP + steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        results.append({"first": seconds[0], "steps": seconds[1 + WARMUP :]})
    return {"cells": results, "device": device(keras.backend.backend())}


def memory(name, length):
    """Megabytes of a step at its peak, beyond its input and the weights.

    JAX's compiler says what it has planned; elsewhere it is what the process
    takes over what an earlier step left behind.
    """
    step = gradient_step(name, length)
    if hasattr(step, "plan"):
        plan = step.plan().memory_analysis()
        planned = plan.temp_size_in_bytes + plan.output_size_in_bytes
        return {"megabytes": planned / 1e6}
    step()
    peak = device_memory(keras.backend.backend())
    reset = Path("/proc/self/clear_refs")
    if peak is None and reset.exists():
        before = resident("VmRSS")
        reset.write_text("5")
        step()
        peak = resident("VmHWM") - before
    return {"megabytes": peak}


def resident(field):
    """Resident memory now (`VmRSS`) or at most (`VmHWM`) in MB, on Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    task = json.loads(sys.argv[sys.argv.index("--task") + 1])
    kinds = {"parity": parity, "timing": timing, "memory": memory}
    reply(kinds[task.pop("kind")](**task))
