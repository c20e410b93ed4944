"""Symplectic optimizers against those whose names they share.

    python benchmarks/optimizers.py --backend torch      minutes on a core

Two tasks. A convex quadratic in 20 dimensions with condition number 100 and
random eigenvectors: steps until the loss is below 1e-6, at most 2,000. And a
network with 32 hidden units on the 1,797 digits of scikit-learn, 15 epochs in
batches of 64 for every optimizer: test accuracy. The learning rate is the best
of one grid, the same for all: of the quadratic by its slowest seed, of the
digits by the validation accuracy of a seed that is not judged. The one row
without friction is there to show what friction is for.
"""

import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
DIM, CONDITION, MOST_STEPS, GOAL = 20, 100.0, 2_000, 1e-6
HIDDEN, EPOCHS, BATCH_SIZE = 32, 15, 64


def optimizers():
    """Name to a function of the learning rate."""
    import keras
    from orrery.optimizers import SymplecticAdam, SymplecticSGD

    sgd, adam = keras.optimizers.SGD, keras.optimizers.Adam
    return {
        "SymplecticSGD(damping=0.9)": lambda h: SymplecticSGD(h, damping=0.9),
        "SGD(momentum=0.9)": lambda h: sgd(h, momentum=0.9),
        "SymplecticAdam()": lambda h: SymplecticAdam(h),
        "SymplecticAdam(mass_every=10)": lambda h: SymplecticAdam(
            h, mass_every=10
        ),
        "Adam()": lambda h: adam(h),
        "AdamW()": lambda h: keras.optimizers.AdamW(h),
        "SymplecticSGD(damping=1)": lambda h: SymplecticSGD(h, damping=1.0),
    }


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("--seeds", type=int, default=5)
    arguments = _command_line.parse(flags, argv)
    if arguments.data_dir is not None:
        flags.error("--data-dir has no effect: nothing is downloaded")
    if arguments.seeds < 1:
        flags.error(f"--seeds must be at least 1; got {arguments.seeds}")
    from _measure import results_file, write_csv

    rates, epochs, steps = RATES, EPOCHS, MOST_STEPS
    if arguments.smoke:
        rates, epochs, steps = (0.01, 0.3), 1, 50
    path = results_file(
        "optimizers",
        ["keras", arguments.backend],
        arguments.out,
        smoke=arguments.smoke,
    )
    rows = []
    for name, make in optimizers().items():
        rows.append(
            {
                "optimizer": name,
                "seeds": arguments.seeds,
                **quadratic(make, rates, arguments.seeds, steps),
                **network(make, rates, arguments.seeds, epochs),
            }
        )
        print(rows[-1], flush=True)
        write_csv(path, rows)
    print(f"Wrote {path}")


def quadratic(make, rates, seeds, most):
    """The rate whose slowest seed is fastest, and the steps of all."""
    best = None
    for rate in rates:
        steps, lowest = descend(make(rate), seeds, most)
        key = max(steps), max(lowest)
        if best is None or key < best[0]:
            best = key, rate, steps, lowest
    _, rate, steps, lowest = best
    reached = max(steps) <= most
    return {
        "quadratic_rate": rate if reached else "",
        "quadratic_steps": statistics.median(steps) if reached else "",
        "quadratic_range": f"{min(steps)} to {max(steps)}" if reached else "",
        "lowest_loss": "" if reached else float(max(lowest)),
    }


def descend(optimizer, seeds, most):
    """Steps to the goal, `most + 1` where it is missed, and lowest losses.

    All seeds at once: no optimizer here mixes elements.
    """
    import keras
    import numpy as np

    hessians, start = [], []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        axes = np.linalg.qr(generator.normal(size=(DIM, DIM)))[0]
        values = np.geomspace(1 / CONDITION, 1, DIM)
        hessians.append(axes * values @ axes.T)
        start.append(generator.normal(size=DIM))
    hessians = np.stack(hessians)
    variable = keras.Variable(np.stack(start).astype("float32"))
    steps, lowest = np.full(seeds, most + 1), np.full(seeds, np.inf)
    for step in range(most + 1):
        x = keras.ops.convert_to_numpy(variable).astype("float64")
        gradient = np.einsum("sij,sj->si", hessians, x)
        loss = 0.5 * (x * gradient).sum(-1)
        lowest = np.fmin(lowest, loss)
        steps = np.where(loss < GOAL, np.minimum(steps, step), steps)
        if (steps <= most).all() or not np.all(loss < 1e6):
            break
        tensor = keras.ops.convert_to_tensor(gradient, "float32")
        optimizer.apply([tensor], [variable])
    return steps.tolist(), lowest.tolist()


def network(make, rates, seeds, epochs):
    """Test accuracy at the rate that validates best on another seed."""
    by_rate = {rate: train(make(rate), seeds, epochs)[0] for rate in rates}
    rate = max(by_rate, key=by_rate.get)
    found = [train(make(rate), seed, epochs)[1] for seed in range(seeds)]
    return {
        "digits_rate": rate,
        "test_accuracy": statistics.mean(found),
        "deviation": statistics.stdev(found) if seeds > 1 else "",
        "range": f"{min(found):.4f} to {max(found):.4f}",
    }


def train(optimizer, seed, epochs):
    """Validation and test accuracy; the seed is of split, weights and order."""
    import keras
    from orrery.datasets import LabelledBatches, digits

    parts = digits(seed)
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(HIDDEN, activation="tanh"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, weighted_metrics=["accuracy"])
    batches = LabelledBatches(*parts["train"], BATCH_SIZE, seed=seed)
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)

    def accuracy(part):
        x, y = parts[part]
        scores = model.predict(x, batch_size=len(x), verbose=0)
        return float((scores.argmax(-1) == y).mean())

    return accuracy("valid"), accuracy("test")


if __name__ == "__main__":
    main()
