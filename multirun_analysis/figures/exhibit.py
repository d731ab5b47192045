"""What a reader is shown: numbers, the figure that draws them, and how to read both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import plotly.graph_objects as go

from multirun_analysis.figures.marks import left_out_words

NOT_MEASURED = "Open marks and dotted lines are not measured."


@dataclass(frozen=True)
class Exhibit:
    """One subject, as a table and as a figure."""

    title: str
    """Plain text. Nothing in it comes from a run folder."""
    how_to_read: str
    """How to read it, and what is not in it. Plain text, to be escaped like any other."""
    table: pd.DataFrame
    """One row for each mark of the figure. Columns have units. Empty where nothing is known."""
    draw: Callable[[pd.DataFrame], go.Figure]
    """Makes the figure from the table."""
    curves: pd.DataFrame | None = None
    """What is drawn in the table's place, where the table has too few rows for a smooth line."""

    @cached_property
    def figure(self) -> go.Figure:
        """The table, drawn."""
        return self.draw(self.table if self.curves is None else self.curves)

    @property
    def note(self) -> str:
        """How to read it, and how much is in the table alone."""
        return f"{self.how_to_read} {left_out_words(self.figure)}".strip()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return self.table.empty
