"""Tables of the pages equal the CSVs."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location(
    "orrery_tables", ROOT / "docs" / "tables.py"
)
tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tables)

PAGE = """Before.
<!-- table: results/a_*.csv
     columns: name, value = ms | where: kind = x -->
old
<!-- /table -->
After.
"""


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    rows = ["name,kind,value", "a,x,0.123456", "b,y,1", "c,x,1234567"]
    (folder / "a_cpu.csv").write_text("\n".join(rows))
    return tmp_path


def test_render(root):
    text = tables.render(PAGE, root)
    assert "| name | ms |\n| --- | --- |\n| a | 0.1235 |\n" in text
    assert "| c | 1,234,567 |\n" in text and "| b |" not in text
    assert "old" not in text and "Source: `results/a_cpu.csv`" in text
    assert text.startswith("Before.\n") and text.endswith("After.\n")
    assert tables.render(text, root) == text


def test_where_any_value(root):
    with open(root / "results" / "a_cpu.csv", "a") as file:
        file.write("\nd,,5")
    text = tables.render(PAGE.replace("kind = x", "kind"), root)
    assert "| b | 1 |" in text and "| d |" not in text


def test_missing_results(tmp_path):
    assert "Not measured yet" in tables.render(PAGE, tmp_path)


def test_unknown_column(root):
    with pytest.raises(ValueError, match="no column.*'speed'"):
        tables.render(PAGE.replace("value =", "speed ="), root)


def test_unknown_option(root):
    with pytest.raises(ValueError, match="'sorted'"):
        tables.render(PAGE.replace("where:", "sorted:"), root)


@pytest.mark.parametrize("page", tables.pages(), ids=lambda path: path.name)
def test_pages_are_up_to_date(page):
    text = page.read_text(encoding="utf-8")
    assert tables.render(text) == text, "run `make tables`"
