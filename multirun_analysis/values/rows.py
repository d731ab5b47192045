"""Tables as plain rows: a mapping per record, None for what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import pyarrow as pa

Row = dict[str, Any]


def to_rows(table: pd.DataFrame) -> list[Row]:
    """The rows of a table, in order. NaN and NA become None."""
    # Column by column: as one frame of objects it takes seconds for a thousand runs.
    names = list(table.columns)
    columns = [_plain(table[name]) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(column: Any) -> list[Any]:
    """The values of a column as Python's own; None for what is missing."""
    if isinstance(column.dtype, pd.StringDtype):
        # Text that pandas keeps in arrow's memory is slow to take out one by one.
        return pa.array(column, from_pandas=True).to_pylist()
    return column.to_numpy(dtype=object, na_value=None).tolist()


def grouped(rows: Iterable[Row], key: str | Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows by a column or a function of the row. Groups are in the order in which they appear."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key] if isinstance(key, str) else key(row), []).append(row)
    return groups


def known(rows: Iterable[Row], *columns: str) -> list[Row]:
    """The rows that lack none of the columns."""
    return [row for row in rows if all(row.get(column) is not None for column in columns)]


def distinct_students(runs: pd.DataFrame | list[Row]) -> list[Row]:
    """Finished runs, one for each student."""
    rows = to_rows(runs) if isinstance(runs, pd.DataFrame) else runs
    return [row for row in rows if row["finished"] and row["duplicate_of"] is None]
