"""Cells as texts, and the rows that stand below a figure, to be read and copied."""

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
    note: str = ""
    """How to read them, in sentences."""

    @property
    def align(self) -> str:
        """A letter for each column: l, or r for numbers."""
        return "".join("r" if is_number else "l" for is_number in self.are_numbers)


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
