"""Figure of how far settings are from plain fine-tuning, and of what chance alone would make."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from multirun_analysis.figures.looks import looks
from multirun_analysis.figures.marks import MAX_ROWS, error_bars, named_rows, say_left_out
from multirun_analysis.figures.palette import MUTED, styled
from multirun_analysis.statistics.comparison_words import comparison_words
from multirun_analysis.statistics.comparisons import COLUMNS, Comparison, against_baseline
from multirun_analysis.values.rows import to_rows

JUDGED = ("accuracy_kept", "student_bits_per_byte", "own_energy_j")
"""Columns that a reader compares first: accuracy, held-out text, energy to build."""


def differences(runs: pd.DataFrame) -> go.Figure:
    """Settings less plain fine-tuning, by pairs of one seed: a panel for each column.

    Lines are 95 % intervals. A filled mark differs beyond noise once p is corrected for all
    settings of its panel; an open one does not.
    """
    known_looks = looks(to_rows(runs))
    panels = {column: _drawable(runs, column) for column in JUDGED}
    panels = {column: found for column, found in panels.items() if found}
    labels = list(dict.fromkeys(c.label for found in panels.values() for c in found))
    shown = labels[:MAX_ROWS]
    fig = make_subplots(1, max(1, len(panels)), shared_yaxes=True, horizontal_spacing=0.05)
    for place, (column, found) in enumerate(panels.items(), start=1):
        for c in found:
            if c.label in shown:
                fig.add_scatter(**_mark(c, known_looks[c.group].color), row=1, col=place)
        about = COLUMNS[column]
        better = "higher" if about.higher_is_better else "lower"
        title = f"{about.words[:1].upper()}{about.words[1:]}, {about.effect_unit}"
        title += f"<br>{better} is better"
        fig.update_xaxes(title_text=title, row=1, col=place)
    fig.add_vline(0.0, line={"color": MUTED, "width": 1})
    say_left_out(fig, len(labels) - len(shown), "settings")
    return named_rows(styled(fig, height=110 + 40 * max(1, len(shown))), shown[::-1])


def _drawable(runs: pd.DataFrame, column: str) -> list[Comparison]:
    return [c for c in against_baseline(runs, [column]) if c.effect_pct is not None]


def _mark(c: Comparison, color: str) -> dict:
    is_sure = c.verdict in ("better", "worse")
    return {
        "x": [c.effect_pct],
        "y": [c.label],
        "mode": "markers",
        "showlegend": False,
        "marker": {
            "color": color,
            "size": 11,
            "symbol": "circle" if is_sure else "circle-open",
            "line": {"width": 2, "color": color},
        },
        "error_x": error_bars([c.effect_half_width_pct], 1, color, 2),
        "hovertext": [escape(comparison_words(c))],
        "hoverinfo": "text",
        "customdata": [c.group],
        "meta": {"group": c.group},
    }
