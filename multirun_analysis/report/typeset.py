"""Tables that are read: the columns a reader needs, with units, numbers rounded to their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from multirun_analysis.report.cells import MAX_SHOWN, Numbers, cell_text
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, to_rows

MARKS = {
    "estimated": ("†", "estimated, not measured"),
    "mixed": ("‡", "a sum of measured and estimated parts"),
    "reported": ("§", "as other software reports it"),
}
"""How joules were obtained, where they were not measured, to the sign beside the number."""


@dataclass(frozen=True)
class Column:
    """One column of a table that is read."""

    head: str
    """With the unit; plain text."""
    cell: Callable[[Row], str]
    is_number: bool = True
    folds: bool = False
    """Whether the note says it once, where it is the same in all rows."""


Maker = Callable[[list[Row]], Column]
"""Makes a column for the rows that it will hold, as one prefix must suit all of them."""


@dataclass(frozen=True)
class Layout:
    """Which columns of an exhibit are read, and what is said about them."""

    makers: Sequence[Maker]
    note: str = ""
    """In sentences, for the caption."""
    rows: Callable[[list[Row]], list[Row]] = lambda rows: rows
    """The rows that are read, where they are not those of the table."""


@dataclass(frozen=True)
class Typeset:
    """A table as texts; nothing in it is escaped."""

    heads: list[str]
    align: str
    """A letter for each column: l, or r for numbers."""
    rows: list[list[str]]
    subjects: list[str | None]
    """The run or setting that a row is of."""
    note: str
    """How to read it, the meaning of its marks included."""


def typeset(table: pd.DataFrame, layout: Layout | None) -> Typeset:
    """The table by its layout; without one all columns, in four significant digits."""
    rows = to_rows(table)
    if layout is None:
        names = readable_names(table)
        makers: Sequence[Maker] = [plain(name, is_number=_is_number(table, name)) for name in names]
        layout = Layout(makers)
    rows = layout.rows(rows)
    columns = [make(rows) for make in layout.makers]
    # A column that has nothing to say is none.
    columns = [c for c in columns if not rows or any(c.cell(r) != units.MISSING for r in rows)]
    folded = [c for c in columns if c.folds and len({c.cell(row) for row in rows}) == 1]
    columns = [column for column in columns if column not in folded]
    same = ", ".join(f"{_inside(column.head)} {column.cell(rows[0])}" for column in folded)
    texts = [[column.cell(row) for column in columns] for row in rows]
    said = "".join(cell for row in texts for cell in row)
    marks = [f"{mark} {meaning}." for mark, meaning in MARKS.values() if mark in said]
    return Typeset(
        heads=[column.head for column in columns],
        align="".join("r" if column.is_number else "l" for column in columns),
        rows=texts,
        subjects=[_subject(row) for row in rows],
        note=" ".join(filter(None, (f"In all rows: {same}." if same else "", layout.note, *marks))),
    )


def _inside(head: str) -> str:
    """A head inside a sentence: `Batch size` as `batch size`, `GPU` as it is."""
    return head if head.isupper() else f"{head[:1].lower()}{head[1:]}"


def readable_names(table: pd.DataFrame) -> list[str]:
    """The columns without the keys of groups, which are for programs."""
    return [name for name in map(str, table.columns) if not name.endswith(("group", "groups"))]


def _is_number(table: pd.DataFrame, name: str) -> bool:
    return pd.api.types.is_numeric_dtype(table[name].dtype)


def _subject(row: Row) -> str | None:
    """By what the page hides a row: its run, or its setting."""
    name = row.get("run") or row.get("group")
    return name if isinstance(name, str) else None


def plain(name: str, head: str = "", *, is_number: bool = False, folds: bool = False) -> Maker:
    """A column as it stands."""
    head = head or name.replace("_", " ")
    column = Column(head, lambda row: cell_text(row[name]), is_number, folds)
    return lambda _: column


def words(head: str, cell: Callable[[Row], str]) -> Maker:
    """Text that is made of a row."""
    return lambda _: Column(head, cell, is_number=False)


def whole(name: str, head: str, *, folds: bool = False) -> Maker:
    """A count, with its thousands apart."""

    def cell(row: Row) -> str:
        return units.MISSING if row[name] is None else f"{row[name]:,.0f}"

    return lambda _: Column(head, cell, folds=folds)


def joules(
    name: str, head: str, *, error: str | None = None, per: str = "", kind: str = "energy_class"
) -> Maker:
    """Joules in the prefix of the largest, ± an error, with a sign where they are not measured."""
    return in_prefix(name, head, f"J{per}", error=error, kind=kind)


def in_prefix(
    name: str, head: str, unit: str, *, error: str | None = None, kind: str = "", scale: float = 1.0
) -> Maker:
    """A quantity in the prefix of the largest; `scale` brings the column to the unit."""

    def make(rows: list[Row]) -> Column:
        most = max((abs(scale * row[name]) for row in rows if row[name] is not None), default=1.0)
        factor, prefix = units.prefix(most, lowest=1e-6)

        def cell(row: Row) -> str:
            if row[name] is None:
                return units.MISSING
            spread = row[error] if error else None
            spread = None if spread is None else scale * spread / factor
            return units.with_error(scale * row[name] / factor, spread) + mark_of(row, kind)

        return Column(f"{head} ({prefix}{unit})", cell)

    return make


def mark_of(row: Row, kind: str = "energy_class") -> str:
    """The sign of joules that are not measured; empty for those that are."""
    found = row.get(kind) if kind else None
    return MARKS[found][0] if found in MARKS else ""


def number(name: str, head: str, *, digits: int = 3) -> Maker:
    return lambda _: Column(head, lambda row: units.number(row[name], digits))


def with_interval(
    name: str, head: str, low: str, high: str, *, scale: float = 1.0, kind: str = ""
) -> Maker:
    """A value and the ends of its 95 % interval in brackets, none finer than the interval."""

    def cell(row: Row) -> str:
        value = row[name]
        if value is None:
            return units.MISSING
        ends = [None if row[end] is None else scale * row[end] for end in (low, high)]
        return units.with_ends(scale * value, *ends) + mark_of(row, kind)

    return lambda _: Column(head, cell)


def once_per(*names: str) -> Callable[[list[Row]], list[Row]]:
    """The first row of each combination of some columns."""

    def rows_of(rows: list[Row]) -> list[Row]:
        firsts: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            firsts.setdefault(tuple(row[name] for name in names), row)
        return list(firsts.values())

    return rows_of


def numbers_of(table: pd.DataFrame, layout: Layout | None) -> Numbers:
    """What a page shows of an exhibit's table."""
    found = typeset(table, layout)
    rows = list(zip(found.subjects, found.rows, strict=True))
    are_numbers = [letter == "r" for letter in found.align]
    left_out = max(0, len(rows) - MAX_SHOWN)
    return Numbers(found.heads, are_numbers, rows[:MAX_SHOWN], left_out, found.note)
