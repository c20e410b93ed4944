"""Train a language model whose blocks integrate Hamilton's equations.

    python recipes/hamiltonian_lm.py                      # embedded, minutes
    python recipes/hamiltonian_lm.py --dataset wikitext2  # the experiment
    python recipes/hamiltonian_lm.py --protocol legacy    # the original

Beside it, from the same weights and with the same batches: the same backbone
with attention and feed-forward blocks (`base`), and one block of many steps,
whose energy can be followed along depth (`autonomous`). With `--arms` also the
same blocks without the loss on energy (`unpenalised`), and without it
integrated by forward Euler, which conserves nothing (`euler`); with potentials
frozen at initialisation (`frozen`; its saved file does not say so, and would
train them); with wells at the keys of earlier tokens in place of the mixer, and
as many weights (`attention_energy`); a Koopman operator beside each block as an
auxiliary loss (`koopman`), and that with Hamiltonian blocks (`both`).
Numbers, pictures and `report.md` are left in `--out`.
"""

import math

import _command_line

ARMS = (
    "base",
    "koopman",
    "physics",
    "both",
    "unpenalised",
    "euler",
    "frozen",
    "attention_energy",
    "autonomous",
)
DEFAULT_ARMS = ("base", "physics", "autonomous")
DEFAULTS = {
    "stdlib": {"preset": "hamiltonian_lm_stdlib", "epochs": 3},
    "wikitext2": {"preset": "hamiltonian_lm_small", "epochs": 10},
}
LEGACY = {"backend", "data_dir", "batch_size", "seed", "dataset", "preset"}
LEGACY |= {"epochs", "out", "resume", "smoke", "protocol"}


def command_line(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add(
        "--dataset",
        default="stdlib",
        help="stdlib, wikitext2, or the path of a text file",
    )
    text, wikitext2 = DEFAULTS["stdlib"], DEFAULTS["wikitext2"]
    for name, kind, what in (
        ("preset", str, "of HamiltonianLM"),
        ("epochs", int, "passes over the data"),
    ):
        add(
            f"--{name}",
            type=kind,
            help=f"{what} (default: {text[name]}, for wikitext2 "
            f"{wikitext2[name]})",
        )
    add("--learning-rate", type=float, default=4e-3, help="the highest")
    add(
        "--arms",
        nargs="+",
        choices=ARMS,
        default=DEFAULT_ARMS,
        help="what to train",
    )
    add(
        "--protocol",
        default="standard",
        choices=("standard", "legacy"),
        help="legacy trains the original network under its own protocol",
    )
    arguments = _command_line.parse(flags, argv)
    if arguments.protocol == "legacy":
        _command_line.refuse(flags, arguments, "--protocol legacy", LEGACY)
    if not 0 < arguments.learning_rate < math.inf:
        flags.error(
            f"--learning-rate must be above 0; got {arguments.learning_rate}"
        )
    if arguments.epochs is not None and arguments.epochs < 1:
        flags.error(f"--epochs must be at least 1; got {arguments.epochs}")
    return arguments


@_command_line.plain_errors
def main(argv=None):
    arguments = command_line(argv)
    if arguments.protocol == "legacy":
        import _legacy_experiment

        arguments.preset = arguments.preset or "resnet_bk_legacy_physics"
        _legacy_experiment.run(arguments)
        return
    import _hamiltonian_experiment

    defaults = DEFAULTS.get(arguments.dataset, DEFAULTS["stdlib"])
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    _hamiltonian_experiment.run(arguments)


if __name__ == "__main__":
    main()
