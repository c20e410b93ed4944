"""Base and Hamiltonian blocks as width, depth and length grow.

    python benchmarks/scaling.py                         hours on two cores

One epoch and one seed at each point, so a perplexity is one "at this budget":
width 64 to 256, 4 to 8 blocks, 128 to 512 tokens, each alone, then together.
A batch has as many tokens at every point. Every run is a process of its own,
for its peak memory; the gradient norms are those of each block's weights on the
first validation batch. Resumable: start the script again after an interruption.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402
from _measure import (  # noqa: E402
    device,
    device_memory,
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
TOKENS = 32 * 128


def task(arguments):
    """One arm at one point, in this process."""
    import keras
    import numpy as np
    from _hamiltonian_arms import build, multiplier_of, train_arm
    from orrery.datasets import load_text
    from orrery.layers.hamiltonian import HamiltonianBlock
    from orrery.zoo import HamiltonianLM

    dim, layers, length = arguments["point"]
    data = load_text(arguments["dataset"], sequence_length=length)
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
    x, y = (array[: settings["batch_size"]] for array in blocks["valid"])
    before = [np.array(w) for w in model.get_weights()]
    model.compile(keras.optimizers.SGD(1.0))
    model.fit({"tokens": x, "targets": y}, batch_size=len(x), verbose=0)
    change = {
        weight.path: np.linalg.norm(keras.ops.convert_to_numpy(weight) - old)
        for weight, old in zip(model.weights, before, strict=True)
        if weight.trainable
    }
    norms = [
        float(
            np.sqrt(sum(change[w.path] ** 2 for w in block.trainable_weights))
        )
        for block in model.blocks
    ]
    assert arm == "base" or isinstance(model.blocks[0], HamiltonianBlock)
    return {
        "device": device(keras.backend.backend()),
        "row": {
            "arm": arm,
            "dim": dim,
            "layers": layers,
            "length": length,
            "parameters": measured["parameters"],
            "valid_perplexity": measured["valid"]["perplexity"],
            "test_perplexity": measured["test"]["perplexity"],
            "largest_drift": max((b["drift"] for b in energies), default=""),
            "smallest_spread_ratio": min(
                (b["spread_ratio"] for b in energies), default=""
            ),
            "first_gradient_norm": norms[0],
            "last_gradient_norm": norms[-1],
            "gradient_norms": " ".join(f"{norm:.3g}" for norm in norms),
            "seconds_per_step": measured["seconds_per_epoch"] / steps,
            "megabytes": device_memory(keras.backend.backend())
            or peak_memory() - memory,
        },
    }


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
    flags.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    flags.add_argument("--dataset", default="wikitext2")
    flags.add_argument("--learning-rate", type=float, default=3e-3)
    arguments = _command_line.parse(flags, argv)
    root = arguments.out or pathlib.Path(
        f"runs/scaling-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    rows = []
    for point in SMOKE_POINTS if arguments.smoke else POINTS:
        for arm in ARMS:
            folder = root / "-".join(map(str, (*point, arm)))
            result = once(
                folder,
                {
                    "arm": arm,
                    "point": point,
                    "dataset": arguments.dataset,
                    "epochs": 1,
                    "learning_rate": arguments.learning_rate,
                    "seed": arguments.seed,
                    "limit": 64 if arguments.smoke else None,
                    "folder": str(folder),
                },
                arguments.backend,
            )
            rows.append(result["row"])
            print(result["row"], flush=True)
            path = results_file(
                "scaling",
                ["keras", arguments.backend],
                accelerator=result["device"],
                smoke=arguments.smoke,
            )
            write_csv(path, rows)
    print(f"Wrote {path}")


def once(folder, task, backend):
    """Run a task, or read what it gave before."""
    path = folder / "result.json"
    if not path.exists():
        result = run_task(__file__, task, backend=backend, timeout=86_400)
        folder.mkdir(parents=True, exist_ok=True)
        _command_line.write_json(path, result)
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
