"""What the benchmarks that train `KoopmanLM`s share: flags, folder, CSV."""

import pathlib

import _command_line


def parser(description, dataset, preset, epochs, learning_rate):
    flags = _command_line.parser(description, trains=False)
    flags.add_argument("--dataset", default=dataset)
    flags.add_argument("--preset", default=preset)
    flags.add_argument("--epochs", type=int, default=epochs)
    flags.add_argument("--learning-rate", type=float, default=learning_rate)
    return flags


def run_and_write(what, arguments, run):
    """The rows of `run(arguments, data, blocks, architecture, root)`, a CSV.

    It is written anew after every row that `run` yields.
    """
    from _koopman_setup import check_preset, describe
    from _measure import results_file, write_csv
    from _training import cut_blocks
    from orrery.datasets import load_text

    check_preset(arguments.preset)
    arguments.start_from = None
    arguments.precision = "float32"
    arguments.resume = True
    text = pathlib.Path(arguments.dataset).stem
    root = arguments.out or pathlib.Path(
        f"runs/{what}-{text}-{arguments.backend}"
        + ("-smoke" if arguments.smoke else "")
    )
    data = load_text(arguments.dataset, data_dir=arguments.data_dir)
    blocks = cut_blocks(data, arguments.smoke)
    architecture = describe(arguments, None, data.vocabulary)
    path = results_file(
        f"{what}_{arguments.preset}_{text}",
        ["keras", arguments.backend],
        smoke=arguments.smoke,
    )
    rows = []
    for row in run(arguments, data, blocks, architecture, root):
        rows.append(row)
        write_csv(path, rows)
    print(f"Wrote {path}")
