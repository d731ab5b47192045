"""Numbers of a figure as texts: the rows that stand below it, to be read and copied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from multirun_analysis.values import units

MAX_SHOWN = 100
"""Rows on the page; the file of the same name beside it has all of them."""


class Cell(NamedTuple):
    """A number in words, and what stands in small letters below it."""

    text: str
    below: str = ""


@dataclass(frozen=True)
class Numbers:
    """The first rows of a figure's table."""

    columns: list[str]
    are_numbers: list[bool]
    """Of each column, which is to the right then."""
    rows: list[tuple[str | None, list[str]]]
    """The run or setting that a row is of, if it has one, and its cells."""
    num_left_out: int


def numbers_of(table: pd.DataFrame) -> Numbers:
    """What the page shows of a table; the keys of groups are for programs."""
    shown = table.head(MAX_SHOWN)
    subject = next((column for column in ("run", "group") if column in shown), None)
    names: list[Any] = list(shown[subject]) if subject else [None] * len(shown)
    shown = shown.drop(columns="group", errors="ignore")
    subjects = [name if isinstance(name, str) else None for name in names]
    rows = list(zip(subjects, cell_texts(shown), strict=True))
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in shown.dtypes]
    return Numbers(
        [str(column) for column in shown.columns], numeric, rows, len(table) - len(shown)
    )


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the keys of groups, which are for programs."""
    return table.drop(columns=[name for name in table.columns if str(name).endswith("group")])


def cell_texts(table: pd.DataFrame) -> list[list[str]]:
    """The table row by row, as `cell_text` has it."""
    return [[cell_text(value) for value in row] for row in table.itertuples(index=False, name=None)]


def cell_text(value: Any) -> str:
    """A number with four significant digits, or what else stands in a cell; plain text."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return units.MISSING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, float):
        small = 0 < abs(value) < 1e-4 or abs(value) >= 1e6
        return f"{value:.4g}" if small or math.isinf(value) else units.significant(value, 4)
    return str(value)
