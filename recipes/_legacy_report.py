"""The report of a legacy run: what it gives beside what was published."""

from _legacy_published import KOOPMAN_FORWARD, LOGGED

# Columns of the report's tables and how their numbers are written.
PERPLEXITY_COLUMNS = {
    "epoch": "d",
    "batch-mean perplexity": ".1f",
    "token-weighted": ".1f",
    "published": ".1f",
}
ENERGY_COLUMNS = {
    "epoch": "d",
    **{
        column: ".3f"
        for logged in LOGGED
        for column in (logged, f"published {logged}")
    },
    "energy spread": ".3f",
}


def report(folder, arguments, rows, measured):
    """The curve beside the published one, and what else was published."""
    lines = [
        "# The original ResNet-BK, reproduced",
        "",
        f"`{arguments.preset}`, data `{arguments.dataset}`, seed "
        f"{arguments.seed}, backend {arguments.backend}. Every core sees the "
        "token it is to predict: these perplexities are not a language "
        "model's. Published: a fresh run, with the physics term.",
        "",
        *table(rows, PERPLEXITY_COLUMNS),
    ]
    if rows[0]["published"]:
        epoch, difference = furthest(rows)
        lines += [
            "",
            f"Furthest from the published curve: {difference:+.1f}, in epoch "
            f"{epoch}.",
        ]
    if "drift" in rows[0]:
        lines += ["", *energies_report(rows)]
    if "koopman_forward" in measured:
        lines += ["", *koopman_report(rows, measured)]
    (folder / "report.md").write_text("\n".join(lines) + "\n", "utf-8")


def table(rows, formats):
    """Markdown; an empty cell is a dash."""
    cells = [
        [f"{row[c]:{f}}" if row[c] != "" else "-" for c, f in formats.items()]
        for row in rows
    ]
    rule = ["---"] * len(formats)
    return [f"| {' | '.join(line)} |" for line in (formats, rule, *cells)]


def furthest(rows):
    """The epoch furthest from the published curve, and its difference."""
    differences = {
        row["epoch"]: row["batch-mean perplexity"] - row["published"]
        for row in rows
        if row["published"]
    }
    return max(differences.items(), key=lambda item: abs(item[1]))


def energies_report(rows):
    before = [row["energy spread"] for row in rows if not row["energy loss"]]
    lines = table(rows, ENERGY_COLUMNS)
    if len(before) in (0, len(rows)):
        return lines
    return [
        *lines,
        "",
        "The drift compares unrelated texts, so it is small only where all "
        "have about the same energy. The spread of the energies over the texts "
        f"of a batch is {before[-1]:.3g} before they are in the loss, "
        f"{rows[-1]['energy spread']:.3g} in the end.",
    ]


def koopman_report(rows, measured):
    standard, forward = (
        measured[key]["perplexity"] for key in ("valid", "koopman_forward")
    )
    return [
        f"Koopman-forward, all blocks: {forward:,.1f}, "
        f"{forward / standard:.1f} times the standard {standard:,.1f}"
        + (
            f" (published, from a warm start: {KOOPMAN_FORWARD:,.0f}, "
            "17.9 times)."
            if rows[0]["published"]
            else "."
        ),
        "",
        "Change of K, as the original reported it and as it is: "
        + "; ".join(
            f"{change['reported']:.2%} and {change['relative']:.1%}"
            for change in measured["operator_change"]
        )
        + ".",
    ]
