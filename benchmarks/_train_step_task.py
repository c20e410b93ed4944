"""One process of `train_step.py`: one model on one backend.

python benchmarks/_train_step_task.py --task JSON
"""

import json
import os
import sys
import time

import numpy as np
from _measure import device, device_memory, peak_memory, reply

WARMUP = 3
PARITY_STEPS = 3


def text(sizes, batches):
    """Token ids of a Zipf law and the next ones, `(batches * B, N)`."""
    vocabulary_size = sizes["model"]["vocabulary_size"]
    length = sizes["length"]
    law = 1.0 / np.arange(2, vocabulary_size + 2)
    rows = np.random.default_rng(0).choice(
        vocabulary_size,
        (batches * sizes["batch"], length + 1),
        p=law / law.sum(),
    )
    return rows[:, :-1].astype("int32"), rows[:, 1:].astype("int32")


def peer(task, dropout):
    """The plain PyTorch model with the weights of the Keras one."""
    # A cache of its own: the first step pays for the whole compilation.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = (
        f"{task['folder']}/inductor-{os.getpid()}"
    )
    import peers
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes, variant = task["sizes"], task["variant"]
    model = peers.LanguageModel(
        **sizes["model"],
        length=sizes["length"],
        dropout=dropout,
        head=variant["head"],
    )
    with np.load(f"{task['folder']}/weights-koopman.npz") as weights:
        for path, array in peers.keras_weights(model):
            array.copy_(torch.from_numpy(weights[path]))
    model.to(place)
    optimizer = peers.optimizer(model)
    run = model
    if variant["compiled"] == "compile":
        run = torch.compile(model, dynamic=False)

    def train_step(step, tokens, targets):
        return peers.train_step(
            run,
            optimizer,
            step,
            torch.from_numpy(tokens).long().to(place),
            torch.from_numpy(targets).long().to(place),
        )

    return model, train_step


def peer_parity(task):
    import peers

    model, train_step = peer(task, dropout=0.0)
    x, y = text(task["sizes"], 1)
    losses = [train_step(step + 1, x, y) for step in range(PARITY_STEPS)]
    weights = {
        path: array.cpu().numpy() for path, array in peers.keras_weights(model)
    }
    return losses, weights


def peer_timing(task):
    model, train_step = peer(task, task["sizes"]["dropout"])
    steps, batch = 1 + WARMUP + task["steps"], task["sizes"]["batch"]
    x, y = text(task["sizes"], steps)
    memory = peak_memory()
    marks = [time.perf_counter()]
    for step in range(steps):
        rows = slice(step * batch, (step + 1) * batch)
        # Reading the loss waits for the device, as in Keras' `fit`.
        loss = train_step(step + 1, x[rows], y[rows])
        marks.append(time.perf_counter())
    return measured(
        marks, loss, sum(p.numel() for p in model.parameters()), memory
    )


def measured(marks, loss, parameters, memory):
    """The result of a timing from the ends of its steps."""
    if not np.isfinite(loss):
        raise FloatingPointError(f"the loss after the last step is {loss}")
    durations = np.diff(marks).tolist()
    return {
        "first": durations[0],
        "steps": durations[1 + WARMUP :],
        "parameters": parameters,
        "peak_memory": peak_memory(),
        "step_memory": peak_memory() - memory,
    }


def main():
    task = json.loads(sys.argv[sys.argv.index("--task") + 1])
    kind, backend = task["kind"], task["variant"]["backend"]
    if task["variant"]["model"] == "peer":
        result = {"parity": peer_parity, "timing": peer_timing}[kind](task)
    else:
        import _train_step_keras

        result = getattr(_train_step_keras, kind)(task)
    if kind == "parity":
        losses, weights = result
        np.savez(f"{task['folder']}/parity-{task['name']}.npz", **weights)
        result = {"losses": losses}
    result["device"] = device(backend)
    result["device_memory"] = device_memory(backend)
    reply(result)


if __name__ == "__main__":
    main()
