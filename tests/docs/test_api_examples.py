"""The examples of docs/reference/api run as they stand and print what the page says they print."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tests.multirun_analysis.written_runs import write_sweep

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs/reference/api").glob("*.md"))
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def examples(page: Path) -> list[tuple[str, str]]:
    """Code and what it prints, of each example of a page in order."""
    return EXAMPLE.findall(page.read_text("utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda p: p.stem)
def test_an_example_prints_what_its_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    if page.stem == "analysis":
        write_sweep(tmp_path / "multirun/demo", seeds=3)
    names: dict[str, object] = {}
    for code, expected in examples(page):
        with redirect_stdout(StringIO()) as printed:
            exec(compile(code, str(page), "exec"), names)
        assert printed.getvalue() == expected


def test_every_page_but_the_index_has_an_example_and_no_code_goes_unrun():
    for page in PAGES:
        found = examples(page)
        assert bool(found) == (page.stem != "index"), page.name
        assert page.read_text("utf-8").count("```python") == len(found), page.name
