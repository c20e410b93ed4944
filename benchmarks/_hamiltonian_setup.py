"""What `ablation.py`, `energy_weight.py` and `learning_rate.py` begin with."""

import pathlib

SMOKE_SIZES = {"num_layers": 1, "dim": 32, "num_steps": 2}


def prepare(what, arguments):
    """The text, the model's sizes, and where things go.

    Args:
        what: str, the name of the benchmark.
        arguments: those of `_command_line.parse`, with `preset`.

    Returns:
        `TextData`, its blocks by split, the arguments of `HamiltonianLM`, the
        folder of the runs, the path of the CSV.
    """
    from _hamiltonian_experiment import preset_of
    from _measure import results_file
    from _training import cut_blocks
    from orrery.datasets import load_text

    preset = preset_of(arguments)
    text = pathlib.Path(arguments.dataset).stem
    root = arguments.out or pathlib.Path(
        f"runs/{what}-{text}-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    data = load_text(arguments.dataset, data_dir=arguments.data_dir)
    architecture = {
        **preset,
        **(SMOKE_SIZES if arguments.smoke else {}),
        "vocabulary_size": len(data.vocabulary),
    }
    table = results_file(
        f"{what}_{arguments.preset}_{text}",
        ["keras", arguments.backend],
        smoke=arguments.smoke,
    )
    return data, cut_blocks(data, arguments.smoke), architecture, root, table
