"""Tables as plain rows: a mapping per record, None for what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

Row = dict[str, Any]


def to_rows(table: pd.DataFrame) -> list[Row]:
    """The rows of a table, in order; NaN and NA become None."""
    plain: Any = table.astype(object)
    return plain.where(table.notna(), None).to_dict("records")


def grouped(rows: Iterable[Row], key: str | Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows by a column or a function of the row, groups in the order in which they appear."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key] if isinstance(key, str) else key(row), []).append(row)
    return groups


def known(rows: Iterable[Row], *columns: str) -> list[Row]:
    """Rows that miss none of the columns."""
    return [row for row in rows if all(row.get(column) is not None for column in columns)]


def distinct_students(runs: pd.DataFrame | list[Row]) -> list[Row]:
    """Finished runs, one for each student."""
    rows = to_rows(runs) if isinstance(runs, pd.DataFrame) else runs
    return [row for row in rows if row["finished"] and row["duplicate_of"] is None]
