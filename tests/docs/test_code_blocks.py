"""The Python of README.md and docs/, run as it stands, page by page."""

import re
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.one_backend("torch")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What a page sets is put back, for the tests after it.
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    names = {}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(block, names)
