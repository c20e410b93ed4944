"""The tables of README.md and docs/*.md, generated from results/*.csv.

    python docs/tables.py           write the tables
    python docs/tables.py --check   fail where one is out of date

A table stands between two comments. The first names the CSV (a pattern, since
file names carry hardware and versions), and what of it is shown:

    <!-- table: results/train_step_*.csv
         columns: backend, peer, ratio | where: batch = 32 -->
    <!-- /table -->

`columns` keeps and orders columns, `a = b` shows column a under the name b;
`where` keeps the rows whose column has the value, or any where no value is
given. Both options may be left out.
"""

import argparse
import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(
    r"(<!-- table: (?P<pattern>\S+)(?P<options>.*?)-->\n).*?(<!-- /table -->)",
    re.DOTALL,
)


def main():
    """Write or check every table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 where a table is out of date",
    )
    check = parser.parse_args().check
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        fresh = render(text)
        if fresh != text:
            stale.append(page)
            if not check:
                page.write_text(fresh, encoding="utf-8")
    for page in stale:
        done = "is out of date; run `make tables`" if check else "updated"
        print(f"{page.relative_to(ROOT)} {done}")
    return int(check and bool(stale))


def pages():
    """The pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def render(text, root=ROOT):
    """The text with each table written anew from its CSV."""

    def replace(match):
        options = parse_options(match["options"])
        files = sorted(root.glob(match["pattern"]))
        tables = [table(file, root, **options) for file in files]
        body = "\n".join(tables) or f"*Not measured yet: {match['pattern']}*\n"
        return f"{match[1]}{body}{match[4]}"

    return TABLE.sub(replace, text)


def parse_options(text):
    """`columns: a, b = B | where: c = d` as two dicts."""
    options = {"columns": {}, "where": {}}
    for part in filter(str.strip, text.split("|")):
        key, _, value = (piece.strip() for piece in part.partition(":"))
        if key not in options:
            raise ValueError(
                f"a table's options are {sorted(options)}, given {key!r}"
            )
        for item in value.split(","):
            name, _, other = (piece.strip() for piece in item.partition("="))
            options[key][name] = other or name
    return options


def table(file, root, columns, where):
    """One CSV as a Markdown table with its source under it."""
    with open(file, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        names = reader.fieldnames or []
        columns = columns or {name: name for name in names}
        if missing := [n for n in [*columns, *where] if n not in names]:
            raise ValueError(f"{file} has no column {missing}; it has {names}")
        rows = [
            [shown(row[name]) for name in columns]
            for row in reader
            if all(
                row[name] == value or (value == name and row[name])
                for name, value in where.items()
            )
        ]
    lines = [list(columns.values()), ["---"] * len(columns), *rows]
    source = file.relative_to(root).as_posix()
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{body}\n\nSource: `{source}`\n"


def shown(value):
    """A number to four digits; anything else as it is."""
    if re.fullmatch(r"-?\d+", value):
        return f"{int(value):,}" if len(value) > 4 else value
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


if __name__ == "__main__":
    sys.exit(main())
