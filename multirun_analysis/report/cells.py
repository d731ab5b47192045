"""Tables of numbers as HTML: what stands under a figure, to be read and copied."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from multirun_analysis.report.html import facet, table
from multirun_analysis.values import units

MAX_SHOWN = 100
"""Rows on the page; the file of the same name beside it has all of them."""


def numbers(found: pd.DataFrame, *, name: str) -> str:
    """A closed panel that opens on the numbers of a figure; `name` is that of its file."""
    shown = found.head(MAX_SHOWN)
    named = next((column for column in ("run", "group") if column in shown), None)
    columns = [str(column) for column in shown.columns if column != "group"]
    heads = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join(
        f"<tr{facet(row[named]) if named and isinstance(row[named], str) else ''}>"
        + "".join(f"<td>{escape(cell_text(row[column]))}</td>" for column in columns)
        + "</tr>"
        for row in shown.to_dict("records")
    )
    more = len(found) - len(shown)
    note = f"{more} more rows are in " if more > 0 else "The same numbers: "
    return (
        f"<details><summary>Numbers</summary>{table(heads, body)}"
        f'<p class="sub">{note}tables/{escape(name)}.csv.</p></details>'
    )


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
