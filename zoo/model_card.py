"""The card of a saved model, generated from its metadata."""

from pathlib import Path

from .registry import read_metadata

REQUIRED = {
    "task": "one sentence: what goes in, what comes out",
    "inputs": "list of {name, shape, dtype, range}",
    "outputs": "list of {name, shape, dtype, range}",
    "data": "{name, source, licence, sha256}",
    "training": "{command, seconds, hardware}",
    "metrics": "list of {name, split, value, seeds, interval}",
    "intended_use": "one or two sentences",
    "limits": "what it must not be used for, where it fails",
    "licence": "SPDX identifier of the weights",
}


def write_card(folder):
    """Generate `README.md` from `metadata.json`.

    Args:
        folder: path of the saved model.
    """
    folder = Path(folder).resolve()
    card = render_card(read_metadata(folder))
    (folder / "README.md").write_text(card, encoding="utf-8")


def render_card(metadata):
    """The card of a saved model, as Markdown.

    Args:
        metadata: dict, the content of `metadata.json`.

    Returns:
        str.
    """
    known = {*REQUIRED, "name", "version", "date", "keras_version", "backend"}
    known |= {"parameters", "verified", "files", "description"}
    name, training = metadata["name"], metadata["training"]
    size = ", ".join(f"{v:,} {k}" for k, v in metadata["parameters"].items())
    sections = [
        f"# {name}",
        "<!-- Generated from metadata.json by orrery.zoo.model_card. -->",
        metadata.get("description", metadata["task"]),
        f'```python\nimport orrery\n\nmodel = orrery.load("{name}")\n```',
        _facts(
            {
                "Task": metadata["task"],
                "Parameters": size,
                "Saved by": f"Orrery {metadata['version']}, Keras "
                f"{metadata['keras_version']} on {metadata['backend']}, "
                f"{metadata['date']}",
                "Licence": metadata["licence"],
            }
        ),
        "## Inputs and outputs",
        _table(
            [{"": "input", **row} for row in metadata["inputs"]]
            + [{"": "output", **row} for row in metadata["outputs"]]
        ),
        "## Metrics",
        _table(metadata["metrics"]),
        "## Intended use",
        metadata["intended_use"],
        "## Limits",
        metadata["limits"],
        "## Data",
        _facts(metadata["data"]),
        "## Training",
        f"```bash\n{training['command']}\n```",
        _facts({k: v for k, v in training.items() if k != "command"}),
        "## Backends",
        "Largest difference from the outputs in `golden.npz`, float32, "
        "relative where they are above one:",
        _table(
            [
                {"backend": backend, "difference": f"{value:.1e}"}
                for backend, value in metadata["verified"].items()
            ]
        ),
    ]
    further = {k: v for k, v in metadata.items() if k not in known}
    if further:
        sections += ["## Further", _facts(further)]
    sections += [
        "## Files",
        _table(
            [{"file": k, "sha256": v} for k, v in metadata["files"].items()]
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _facts(facts):
    return "\n".join(
        f"- {key.replace('_', ' ')}: {_text(value)}"
        for key, value in facts.items()
    )


def _table(rows):
    """A Markdown table; columns in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_text(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value):
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return "; ".join(f"{k} {_text(item)}" for k, item in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int else str(value)
