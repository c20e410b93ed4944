"""The training step of KoVAE and of the report's model, beside PyTorch by hand.

    python benchmarks/kovae_step.py                 ten minutes on two cores
    python benchmarks/kovae_step.py --smoke

The recipe's sizes: eleven sensors, two controls and the flow, 20 rows seen and
20 told, 256 windows a step; `KoVAE` is the preset `new`, `effective` the
report's model as it ran. Random rows, for they take as long. `peer` is the same
mathematics and optimizer by hand in PyTorch, equal in loss and forecast
(`tests/benchmarks/test_kovae_peer.py`). Every measurement is a process of its
own; processes of all ways take turns in random order. A step is all that `fit`
does from one batch to the next, or the whole loop of the peer; the first epoch,
in which steps are compiled, is told apart. `epochs_401`: hours of 401 epochs of
42 steps at that pace.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

from _measure import reply, results_file, run_task, spread, write_csv

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

MODELS = ("KoVAE", "effective")
SIZES, ROWS, BATCH = (11, 2, 1), 20, 256
EPOCH, RUN = 42, 401
CLIP_NORM = {"KoVAE": 2.0, "effective": 5.0}


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = flags.add_argument
    add("--task", help=argparse.SUPPRESS)
    add("--processes", type=int, default=3, help="of each way")
    add("--out", type=Path, help="folder of the CSV, not results/")
    add("--smoke", action="store_true", help="three steps of each")
    arguments = flags.parse_args()
    if arguments.task:
        reply(measure(**json.loads(arguments.task)))
        return
    from orrery.testing import installed_backends

    ways = [
        (model, way)
        for model in MODELS
        for way in (*installed_backends(), "peer")
    ]
    steps = 3 if arguments.smoke else EPOCH
    found = {way: [] for way in ways}
    for _ in range(1 if arguments.smoke else arguments.processes):
        for model, way in random.sample(ways, len(ways)):
            backend = "torch" if way == "peer" else way
            task = {"model": model, "way": way, "steps": steps}
            found[model, way].append(run_task(__file__, task, backend))
            print(model, way, found[model, way][-1], flush=True)
    path = results_file(
        "kovae_step",
        ["keras", *installed_backends()],
        arguments.out,
        smoke=arguments.smoke,
    )
    rows = [row(found, model, way) for model, way in ways]
    write_csv(path, rows)
    for one in rows:
        print(one)
    print(f"Wrote {path}")


def row(found, model, way):
    """One line: medians, and pairs of a round over the peer's."""
    mine, peer = found[model, way], found[model, "peer"]
    middle, low, high = spread(
        a["step"] / b["step"] for a, b in zip(mine, peer, strict=True)
    )
    step = spread(one["step"] for one in mine)[0]
    return {
        "model": model,
        "way": "PyTorch by hand" if way == "peer" else f"Keras, {way}",
        "step_ms": 1e3 * step,
        "over_peer": middle,
        "over_peer_q1": low,
        "over_peer_q3": high,
        "first_epoch_s": spread(one["first"] for one in mine)[0],
        "epochs_401_h": step * EPOCH * RUN / 3600,
        "processes": len(mine),
        "load": max(one["load"] for one in mine),
    }


def measure(model, way, steps):
    """Seconds of a step, and of the first epoch."""
    step_all = by_hand(model) if way == "peer" else by_keras(model)
    batches = [windows(index) for index in range(steps)]
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        step_all(batches)
        seconds.append(time.perf_counter() - begin)
    return {"first": seconds[0], "step": min(seconds[1:]) / steps}


def windows(seed):
    """A batch of random windows."""
    import numpy as np

    generator = np.random.default_rng(seed)

    def normal(rows, width):
        return generator.normal(size=(BATCH, rows, width)).astype("float32")

    return {
        "past": normal(ROWS, SIZES[0]),
        "controls": normal(2 * ROWS - 1, SIZES[1]),
        "disturbances": normal(2 * ROWS - 1, SIZES[2]),
        "future": normal(ROWS, SIZES[0]),
    }


def keras_model(name, **more):
    """The Keras model of a name, built."""
    import keras
    from _kovae_presets import MODELS as presets
    from orrery.zoo import KoVAE
    from orrery.zoo.legacy.kovae import EffectiveKoVAE

    keras.utils.set_random_seed(0)
    if name == "KoVAE":
        model = KoVAE(*SIZES, ROWS, ROWS, **{**presets["new"], **more})
    else:
        model = EffectiveKoVAE(*SIZES, ROWS, ROWS)
    model.build()
    return model


def by_keras(name):
    """A function that trains on batches by `fit`."""
    import keras

    model = keras_model(name)
    model.compile(keras.optimizers.AdamW(1e-3, global_clipnorm=CLIP_NORM[name]))

    class Batches(keras.utils.PyDataset):
        def __init__(self, batches):
            super().__init__()
            self.batches = batches

        def __len__(self):
            return len(self.batches)

        def __getitem__(self, index):
            return self.batches[index]

    def step_all(batches):
        model.fit(Batches(batches), shuffle=False, verbose=0)

    return step_all


def peer_of(model):
    """The model by hand, with the same weights."""
    import _kovae_peer
    from keras import ops

    options, weights = model.options, model.term_weights()
    if "margin" in options:
        peer = _kovae_peer.KoVAE(
            SIZES,
            options["latent_dim"],
            options["hidden_dim"],
            weights,
            options["margin"],
            options["dropout"],
        )
    else:
        peer = _kovae_peer.Effective(
            SIZES, options["latent_dim"], options["hidden_dim"], weights, 0.1
        )
    arrays = {
        weight.path.partition("/")[2]: ops.convert_to_numpy(weight)
        for weight in model.trainable_weights
    }
    _kovae_peer.take(peer, arrays)
    return peer


def by_hand(name):
    """A function that trains on batches in a loop."""
    import torch

    peer = peer_of(keras_model(name)).train()
    optimizer = torch.optim.AdamW(
        peer.parameters(), 1e-3, eps=1e-7, weight_decay=0.004
    )
    latent = peer.encoder.mean.out_features

    def step_all(batches):
        for batch in batches:
            parts = [torch.from_numpy(part) for part in batch.values()]
            past, controls, disturbances, future = parts
            if name == "KoVAE":
                acting = torch.cat([controls, disturbances], dim=-1)
                loss, _ = peer(
                    past, acting, future, torch.randn(BATCH, 2 * ROWS, latent)
                )
            else:
                acting = torch.cat([controls, disturbances], dim=-1)[:, :ROWS]
                noise = torch.randn(2, BATCH, ROWS, latent)
                loss = peer(torch.cat([past, acting], dim=-1), *noise)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), CLIP_NORM[name])
            optimizer.step()

    return step_all


if __name__ == "__main__":
    main()
