"""The published experiment of Hamiltonian networks, on their data, by seeds.

    python benchmarks/hnn_protocol.py

Mass-spring and ideal pendulum of Greydanus et al. (arXiv 1906.01563): 25
trajectories with noise of 0.1, as many to test; the loss is the square error
of the derivatives, all points at once, 2,001 steps of Adam at 1e-3, 1e-4 of
weight decay, tanh, two hidden layers of 200. Then roll-outs over a time of 20
from 15 starts, and the mean square difference of energies along them. Three
fields: any (their baseline), that of any H(q, p) (their HNN), and that of a
separable H (`HamiltonianNet`), each integrated in steps of 0.01, by which all
integrators agree.

Their program takes q^2 + p^2 for the energy of both systems, which for the
pendulum it is not; and it starts where the pendulum was hardly seen in
training. So three columns: theirs, the true energy from their starts, and the
true energy from starts as in training.
"""

import argparse
import json
import statistics
import sys

from _measure import reply, results_file, run_task, write_csv

STEPS, WEIGHT_DECAY, HIDDEN = 2_001, 1e-4, 200
POINTS, SUBSTEPS, STARTS = 100, 20, 15
STEP_SIZE = 20 / (POINTS - 1) / SUBSTEPS
FIELDS = ("baseline", "hnn", "separable")
MEASURES = (
    "train_loss",
    "test_loss",
    "energy_as_published",
    "energy",
    "energy_trained_starts",
)
# The authors' repository, greydanus/hamiltonian-nn; one seed each.
PUBLISHED = {
    ("spring", "baseline"): (3.7134e-2, 3.6656e-2, 1.7077e-1),
    ("spring", "hnn"): (3.6933e-2, 3.5928e-2, 3.8416e-4),
    ("pendulum", "baseline"): (3.2606e-2, 3.5273e-2, 4.1519e-2),
    ("pendulum", "hnn"): (3.2787e-2, 3.5586e-2, 2.4852e-2),
}


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--task", help=argparse.SUPPRESS)
    flags.add_argument("--backend", default="jax")
    flags.add_argument("--seeds", type=int, default=3, help="2 or more")
    flags.add_argument("--out", help="folder of the CSV, not results/")
    flags.add_argument("--smoke", action="store_true", help="20 steps of Adam")
    arguments = flags.parse_args()
    if arguments.task:
        reply(run(**json.loads(arguments.task)))
        return
    if arguments.seeds < 2:
        flags.error(f"--seeds must be at least 2; got {arguments.seeds}")
    path = results_file(
        "hnn_protocol",
        ["keras", arguments.backend],
        arguments.out,
        smoke=arguments.smoke,
    )
    rows = []
    for system in ("pendulum", "spring"):
        for seed in range(arguments.seeds):
            for field in FIELDS:
                task = {"system": system, "field": field, "seed": seed}
                task["steps"] = 20 if arguments.smoke else STEPS
                found = run_task(__file__, task, arguments.backend, threads=1)
                found.pop("load")
                rows.append({**task, **found})
                print(rows[-1], flush=True)
        write_csv(path, [*rows, *summary(rows)])
        print(f"Wrote {path}", flush=True)


def summary(rows):
    """Mean and standard deviation over the seeds, and what was published."""
    for case in dict.fromkeys((row["system"], row["field"]) for row in rows):
        group = [row for row in rows if (row["system"], row["field"]) == case]
        for name, of in (("mean", statistics.mean), ("sd", statistics.stdev)):
            measured = {key: of(row[key] for row in group) for key in MEASURES}
            yield {**group[0], "seed": name, **measured}
        if case in PUBLISHED:
            known = dict(zip(MEASURES, PUBLISHED[case], strict=False))
            blank = {**dict.fromkeys(MEASURES, ""), "weights": ""}
            yield {**group[0], **blank, "seed": "published", **known}


def run(system, field, seed, steps):
    """Train one field and roll it out."""
    import keras
    import numpy as np
    from orrery.datasets import (
        mass_spring_system,
        pendulum_system,
        simulate,
    )

    keras.utils.set_random_seed(seed)
    make, points = {
        "pendulum": (pendulum_system, 45),
        "spring": (mass_spring_system, 30),
    }[system]
    system = make("hnn")
    data = simulate(
        system, 50, points, step_size=3 / (points - 1), noise=0.1, seed=seed
    )
    states, slopes = (
        np.concatenate([data[q], data[p]], -1).reshape(2, -1, 2)
        for q, p in (("q", "p"), ("dq", "dp"))
    )
    model = network(field)
    model.build()
    losses = fit(model, states, slopes, steps)
    generator = np.random.default_rng([seed, 3])
    theirs = generator.uniform(-0.8, 0.8, (2, STARTS, 1))
    theirs += 0.2 * np.sign(theirs)
    found = {"weights": model.count_params(), **losses}
    for name, start in (
        ("energy", theirs),
        ("energy_trained_starts", system.draw(generator, STARTS)),
    ):
        truth = simulate(
            system, STARTS, POINTS, step_size=20 / (POINTS - 1), initial=start
        )
        path = model.rollout(*start, SUBSTEPS * (POINTS - 1), SUBSTEPS)
        q, p = (x.astype("float64") for x in path)
        difference = system.energy(q, p) - truth["energy"]
        found[name] = float(np.mean(difference**2))
        if name == "energy":
            difference = (q**2 + p**2) - (truth["q"] ** 2 + truth["p"] ** 2)
            found["energy_as_published"] = float(np.mean(difference**2))
    return {"weights": found["weights"], **{k: found[k] for k in MEASURES}}


def network(field):
    from orrery.zoo import HamiltonianNet, NeuralODE, PlainHNN

    network = {
        "baseline": NeuralODE,
        "hnn": PlainHNN,
        "separable": HamiltonianNet,
    }[field]
    return network(1, hidden_dim=HIDDEN, step_size=STEP_SIZE)


def fit(model, states, slopes, steps):
    """Train the model's field on derivatives; losses of both halves."""
    import keras
    from keras import ops
    from orrery.zoo.mechanical_state import split_state

    class Field(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = model

        def call(self, state):
            # A penalty, as PyTorch's Adam takes it into the gradient; Keras
            # would decay the weights beside it.
            weights = self.network.trainable_variables
            squares = [ops.sum(ops.square(weight)) for weight in weights]
            self.add_loss(0.5 * WEIGHT_DECAY * sum(squares))
            return ops.concatenate(self.network.field(*split_state(state)), -1)

    class Everything(keras.utils.PyDataset):
        def __len__(self):
            return steps

        def __getitem__(self, index):
            return states[0].astype("float32"), slopes[0].astype("float32")

    field = Field()
    field.compile(keras.optimizers.Adam(1e-3), "mse")
    field.fit(Everything(), verbose=0)
    return {
        name: float(((field.predict(x, verbose=0) - dx) ** 2).mean())
        for name, x, dx in zip(
            ("train_loss", "test_loss"), states, slopes, strict=True
        )
    }


if __name__ == "__main__":
    sys.exit(main())
