"""Equilibrium propagation against back-propagation, on handwritten digits.

    python benchmarks/equilibrium_propagation.py          half an hour, a core

Digits are those of scikit-learn (1,797 images of 8 x 8), not MNIST. What
`recipes/equilibrium_propagation.py` does, for one and two hidden layers and for
each seed (of split, weights and order): equilibrium propagation, back-
propagation through the same energy from the same weights, and an ordinary
network of the same widths. One table has every run, one means over the seeds
with smallest and largest. A third has the cosine of the gradient with the
implicit one by beta, at first and after training: once in NumPy float64, once
as `fit` computes it in float32. Runs are resumable.
"""

import argparse
import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

TWO = "--hidden-dims 128 128 --learning-rate 2e-3"
SIGMOID = f"{TWO} --rho hard_sigmoid"
SETTINGS = {
    "one hidden, tanh": "--hidden-dims 128 --learning-rate 1e-2",
    "two hidden, hard sigmoid": f"{SIGMOID} --beta 0.8",
    # What the choices above were made between, and a longer unrolling.
    "two hidden, hard sigmoid, beta 0.1": f"{SIGMOID} --beta 0.1 "
    "--arms equilibrium",
    "two hidden, tanh": f"{TWO} --arms equilibrium",
    "two hidden, hard sigmoid, 200 unrolled": f"{SIGMOID} --beta 0.8 "
    "--arms backprop --unrolled-steps 200",
}
COMPARED = "one hidden, tanh"
BETAS = (1e-3, 1e-2, 0.03, 0.1, 0.3)
NUDGINGS = ("symmetric", "one_sided")
EXAMPLES = 32


@_command_line.plain_errors
def main(argv=None):
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--backend", default="jax")
    flags.add_argument("--seeds", type=int, default=3)
    flags.add_argument("--epochs", type=int, default=30)
    flags.add_argument("--runs", type=pathlib.Path, help="folder of the runs")
    flags.add_argument(
        "--smoke", action="store_true", help="a few steps of everything"
    )
    arguments = flags.parse_args(argv)
    for name in ("seeds", "epochs"):
        if getattr(arguments, name) < 1:
            flags.error(f"--{name} must be at least 1")
    root = arguments.runs or pathlib.Path(
        f"runs/equilibrium-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    rows = []
    for seed in range(arguments.seeds):
        for what in SETTINGS:
            rows += run(what, seed, root, arguments)
            write(arguments, "equilibrium_runs", rows)
            write(arguments, "equilibrium_propagation", summary(rows))
    write(arguments, "equilibrium_gradient", gradients(root, arguments))


def flags_of(what, seed, root, arguments):
    folder = root / f"{what.replace(', ', '-').replace(' ', '-')}-{seed}"
    flags = ["--seed", seed, "--out", folder, "--resume"]
    flags += ["--backend", arguments.backend, "--epochs", arguments.epochs]
    flags += ["--smoke"] if arguments.smoke else []
    return [*map(str, flags), *SETTINGS[what].split()]


def run(what, seed, root, arguments):
    """The arms of one setting and seed; what was done before is not again."""
    import equilibrium_propagation as recipe
    import keras
    from _equilibrium_experiment import run as experiment

    settings = recipe.command_line(flags_of(what, seed, root, arguments))
    folder = settings.out
    if not (folder / "report.md").exists():
        print(f"\n##### {what}, seed {seed}", flush=True)
        experiment(settings)
        keras.utils.clear_session()
    metrics = (folder / "metrics.json").read_text(encoding="utf-8")
    return [
        {
            "network": what,
            "arm": arm,
            "seed": seed,
            "weights": found["parameters"],
            "valid_accuracy": found["valid"]["accuracy"],
            "test_accuracy": found["test"]["accuracy"],
            "relaxation_steps": found["test"].get("relaxation_steps", ""),
            "residual": found["test"].get("residual", ""),
            "processor_seconds": found["processor_seconds"],
        }
        for arm, found in json.loads(metrics).items()
    ]


def summary(rows):
    """For each network and arm the mean over the seeds, and the range."""
    found = []
    for network, arm in dict.fromkeys((r["network"], r["arm"]) for r in rows):
        group = [r for r in rows if (r["network"], r["arm"]) == (network, arm)]
        accuracy = [row["test_accuracy"] for row in group]
        row = {
            "network": network,
            "arm": arm,
            "seeds": len(group),
            "weights": group[0]["weights"],
            "test_accuracy": statistics.mean(accuracy),
            "deviation": statistics.stdev(accuracy) if accuracy[1:] else "",
            "range": f"{min(accuracy):.4f} to {max(accuracy):.4f}",
        }
        for name in ("relaxation_steps", "residual", "processor_seconds"):
            values = [r[name] for r in group if r[name] != ""]
            take = max if name == "residual" else statistics.mean
            row[name] = take(values) if values else ""
        found.append(row)
    return found


def gradients(root, arguments):
    """Cosine and relative error by beta, at first and after training."""
    import equilibrium_propagation as recipe
    import keras
    import numpy as np
    from _equilibrium_experiment import build, load

    settings = recipe.command_line(flags_of(COMPARED, 0, root, arguments))
    for flag in ("hidden_dims",) if arguments.smoke else ():
        setattr(settings, flag, [12])
    parts = load(settings)
    x, y = (array[:EXAMPLES] for array in parts["train"])
    target = np.eye(10)[y]
    trained = settings.out / "equilibrium" / "model.keras"
    rows = []
    for when, model in (
        ("at first", build("equilibrium", parts, settings)),
        ("trained", keras.saving.load_model(trained)),
    ):
        examples, free = equilibria(model, x, target)
        exact = mean(e.implicit(s) for e, s in zip(examples, free, strict=True))
        for nudging in NUDGINGS:
            for beta in BETAS:
                found = mean(
                    e.propagated(s, beta, nudging)
                    for e, s in zip(examples, free, strict=True)
                )
                single = as_fitted(model, x, y, beta, nudging)
                rows.append(
                    {
                        "when": when,
                        "nudging": nudging,
                        "beta": beta,
                        "cosine": cosine(found, exact),
                        "relative_error": error(found, exact),
                        "cosine_float32": cosine(single, exact),
                        "lowest_cosine_of_a_block": min(
                            cosine([a], [b])
                            for a, b in zip(single, exact, strict=True)
                        ),
                    }
                )
    return rows


def equilibria(model, x, target):
    """Examples in float64, and the free equilibrium of each."""
    import keras
    import numpy as np
    from _implicit_gradient import Equilibrium

    numbers = keras.ops.convert_to_numpy
    energy = model.relaxation.energy
    kernels, biases = (
        [numbers(w).astype("float64") for w in weights]
        for weights in (energy.kernels, energy.biases)
    )
    states = model.relaxation.relax(x).states
    rows = np.concatenate([numbers(s) for s in states], axis=-1)
    examples = [
        Equilibrium(kernels, biases, a.astype("float64"), b)
        for a, b in zip(x, target, strict=True)
    ]
    rows = rows.astype("float64")
    return examples, [
        e.settle(row) for e, row in zip(examples, rows, strict=True)
    ]


def as_fitted(model, x, y, beta, nudging):
    """The gradient that `fit` takes a step along: one of rate 1, undone."""
    import keras

    model.relaxation.beta, model.relaxation.nudging = beta, nudging
    model.compile(keras.optimizers.SGD(1.0))
    before = model.get_weights()
    model.train_on_batch(x, y)
    energy = model.relaxation.energy
    after = [
        keras.ops.convert_to_numpy(weight)
        for weight in (*energy.kernels, *energy.biases)
    ]
    model.set_weights(before)
    first = [
        keras.ops.convert_to_numpy(weight)
        for weight in (*energy.kernels, *energy.biases)
    ]
    return [a.astype("float64") - b for a, b in zip(first, after, strict=True)]


def mean(gradients):
    blocks = zip(*gradients, strict=True)
    return [sum(block) / len(block) for block in blocks]


def cosine(found, exact):
    product = sum((a * b).sum() for a, b in zip(found, exact, strict=True))
    return float(product / (norm(found) * norm(exact)))


def error(found, exact):
    off = [a - b for a, b in zip(found, exact, strict=True)]
    return float(norm(off) / norm(exact))


def norm(blocks):
    return sum((block**2).sum() for block in blocks) ** 0.5


def write(arguments, what, rows):
    from _measure import results_file, write_csv

    path = results_file(
        what,
        ["keras", arguments.backend],
        pathlib.Path(".") if arguments.smoke else None,
    )
    write_csv(path, rows)
    print(f"Wrote {path}", flush=True)


if __name__ == "__main__":
    main()
