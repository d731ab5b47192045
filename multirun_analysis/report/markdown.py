"""Pieces of Markdown as GitHub draws it; text of a run folder cannot leave its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from multirun_analysis.report.cells import cell_text
from multirun_analysis.values.notices import Part

_SIGNS = ("\\", "|", "<", ">", "*", "_", "`", "[", "]", "~", "$")


def text(words: str) -> str:
    """Plain text on one line: no sign of it is markup, no break of it ends a row."""
    for sign in _SIGNS:
        words = words.replace(sign, f"\\{sign}")
    return " ".join(words.split())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, align: str = "") -> str:
    """A table of plain texts; `align` has a letter for each column: l, or r for numbers."""
    marks = {"r": "---:", "l": "---"}
    ruler = [marks[letter] for letter in align or "l" * len(heads)]
    lines = [[text(head) for head in heads], ruler]
    lines += [[text(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def frame(numbers: pd.DataFrame) -> str:
    """A table of numbers with four significant digits, and a dash where one is missing."""
    rows = [[cell_text(value) for value in row] for row in numbers.itertuples(index=False)]
    return table([str(column) for column in numbers.columns], rows)


def closed(title: str, body: str) -> str:
    """A panel that opens on a click; `body` is Markdown, the title inside HTML is not."""
    return f"<details><summary>{escape(title)}</summary>\n\n{body}\n\n</details>"


def said(parts: Iterable[Part]) -> str:
    """Sentences on one line; those about several runs open on a click."""
    return " ".join(_said(part) for part in parts)


def _said(part: Part) -> str:
    if isinstance(part, str):
        return text(part)
    if not part.list:
        return f"{text(part.head)}."
    head, names = (" ".join(escape(words).split()) for words in (part.head, part.list))
    return f"<details><summary>{head}</summary>{names}</details>"


def image(path: str, words: str) -> str:
    """A picture of a file beside the page, with what it shows in words."""
    return f"![{text(words)}]({path})"
