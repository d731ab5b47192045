"""What a reader is shown: a figure, the numbers drawn in it, and how to read both."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go


@dataclass(frozen=True)
class Exhibit:
    """One subject, drawn and as numbers."""

    title: str
    """Plain text, ours: nothing in it comes from a run folder."""
    note: str
    """How to read it, and what is not in it; plain text, to be escaped like any other."""
    figure: go.Figure
    table: pd.DataFrame
    """One row for each mark of the figure, columns with units; empty where nothing is known."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return self.table.empty
