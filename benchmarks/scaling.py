"""Base and Hamiltonian blocks as width, depth and length grow.

    python benchmarks/scaling.py                         hours on two cores

One epoch and one seed at each point, so a perplexity is one "at this budget":
width 64 to 256, 4 to 8 blocks, 128 to 512 tokens, each alone, then together.
A batch has as many tokens at every point. Every run is a process of its own,
for its peak memory; the gradient norms are those of each block's weights on the
first validation batch, of the language model's loss alone. The table is written
anew after every run, and a run that it holds is not made again.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402
from _measure import (  # noqa: E402
    device_memory,
    finished_rows,
    peak_memory,
    reply,
    results_file,
    run_task,
    write_csv,
)

POINTS = (
    (64, 4, 128),
    (256, 4, 128),
    (64, 8, 128),
    (64, 4, 512),
    (256, 8, 512),
)
SMOKE_POINTS = ((16, 1, 16), (32, 2, 32))
ARMS = ("base", "physics")
POINT = ("arm", "dim", "layers", "length")
# What all runs of a table share.
SETTINGS = ("epochs", "learning_rate", "seed")
TOKENS = 32 * 128


def task(arguments):
    """One arm at one point, in this process."""
    import keras
    from _hamiltonian_arms import (
        build,
        least_spread_ratio,
        multiplier_of,
        train_arm,
    )
    from orrery.datasets import load_text
    from orrery.zoo import HamiltonianLM

    dim, layers, length = arguments["point"]
    data = load_text(
        arguments["dataset"],
        sequence_length=length,
        data_dir=arguments["data_dir"],
    )
    blocks = {
        split: tuple(a[: arguments["limit"]] for a in data.blocks(split))
        for split in ("train", "valid", "test")
    }
    architecture = {
        **HamiltonianLM.presets["hamiltonian_lm_small"],
        "vocabulary_size": len(data.vocabulary),
        "dim": dim,
        "num_layers": layers,
        "hidden_dim": matched_hidden_dim(dim),
    }
    settings = {
        **arguments,
        "architecture": architecture,
        "batch_size": max(1, TOKENS // length),
        "multiplier": multiplier_of(arguments["arm"]),
    }
    arm = arguments["arm"]
    model = build(arm, arguments["seed"], architecture)
    memory = peak_memory()
    measured = train_arm(
        arm,
        model,
        data,
        blocks,
        pathlib.Path(arguments["folder"]),
        settings,
        resume=True,
    )
    steps = -(-len(blocks["train"][0]) // settings["batch_size"])
    energies = measured.get("energies", {}).get("test", [])
    norms = gradient_norms(
        model, *(part[: settings["batch_size"]] for part in blocks["valid"])
    )
    return {
        "arm": arm,
        "dim": dim,
        "layers": layers,
        "length": length,
        **{name: arguments[name] for name in SETTINGS},
        "parameters": measured["parameters"],
        "valid_perplexity": measured["valid"]["perplexity"],
        "test_perplexity": measured["test"]["perplexity"],
        "largest_drift": max((b["drift"] for b in energies), default=""),
        "smallest_spread_ratio": least_spread_ratio(energies)
        if energies
        else "",
        "first_gradient_norm": norms[0],
        "last_gradient_norm": norms[-1],
        "gradient_norms": " ".join(f"{norm:.3g}" for norm in norms),
        "seconds_per_step": measured["seconds_per_epoch"] / steps,
        "megabytes": device_memory(keras.backend.backend())
        or peak_memory() - memory,
    }


def gradient_norms(model, x, y):
    """Of the weights of each block, by a step of rate 1 of a copy."""
    import keras
    import numpy as np

    copy = type(model).from_config(model.get_config())
    copy.build()
    for weight, trained in zip(
        copy.trainable_weights, model.trainable_weights, strict=True
    ):
        weight.assign(trained)
    blocks = [block.trainable_weights for block in copy.blocks]

    def values():
        return [
            np.concatenate(
                [keras.ops.convert_to_numpy(w).ravel() for w in weights]
            )
            for weights in blocks
        ]

    before = values()
    copy.compile(keras.optimizers.SGD(1.0))
    copy.fit({"tokens": x, "targets": y}, batch_size=len(x), verbose=0)
    return [
        float(np.linalg.norm(new - old))
        for old, new in zip(before, values(), strict=True)
    ]


def matched_hidden_dim(dim):
    """The width of the potential with the weights of SwiGLU of width 2 d.

    Of a block's weights, mixers apart, 6 d^2 are SwiGLU's; a potential has
    W (d/2 x m), U and A (d x m), P (d x d/2) and 2 m: equal at about 2.2 d.
    """
    return round((6 * dim**2 - dim**2 / 2) / (2.5 * dim + 2))


@_command_line.plain_errors
def main(argv=None):
    if "--task" in sys.argv:
        reply(task(json.loads(sys.argv[sys.argv.index("--task") + 1])))
        return
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("--dataset", default="wikitext2")
    flags.add_argument("--learning-rate", type=float, default=3e-3)
    arguments = _command_line.parse(flags, argv)
    if arguments.batch_size != flags.get_default("batch_size"):
        flags.error(f"--batch-size has no effect: a batch has {TOKENS} tokens")
    text = pathlib.Path(arguments.dataset).stem
    root = arguments.out or pathlib.Path(
        f"runs/scaling-{text}-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    path = results_file(
        f"scaling_{text}", ["keras", arguments.backend], smoke=arguments.smoke
    )
    settings = {
        "epochs": 1,
        **{name: getattr(arguments, name) for name in SETTINGS[1:]},
    }
    rows = finished_rows(path, settings)
    done = {tuple(str(row[name]) for name in POINT) for row in rows}
    for point in SMOKE_POINTS if arguments.smoke else POINTS:
        for arm in ARMS:
            if (arm, *map(str, point)) in done:
                continue
            folder = root / "-".join(map(str, (*point, arm)))
            row = run_task(
                __file__,
                {
                    **settings,
                    "arm": arm,
                    "point": point,
                    "dataset": arguments.dataset,
                    "data_dir": arguments.data_dir,
                    "limit": 64 if arguments.smoke else None,
                    "folder": str(folder),
                },
                backend=arguments.backend,
                timeout=86_400,
            )
            rows.append(row)
            print(row, flush=True)
            write_csv(path, rows)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
