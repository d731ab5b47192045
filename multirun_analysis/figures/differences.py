"""How far settings are from plain fine-tuning, and what chance alone would make."""

from __future__ import annotations

from functools import partial

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.looks import look_in
from multirun_analysis.figures.marks import error_bars, first_rows, in_rows, points, symbol
from multirun_analysis.figures.palette import MUTED
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.comparison_words import comparison_words
from multirun_analysis.statistics.comparisons import (
    COLUMNS,
    Comparison,
    against_baseline,
    comparable_columns,
    comparisons_table,
)
from multirun_analysis.statistics.pareto import CLASSES, energy_class
from multirun_analysis.values.rows import Row, distinct_students, grouped, known, to_rows

JUDGED = ("accuracy_kept", "student_bits_per_byte", "own_energy_j")
"""Columns that a reader compares first: accuracy, held-out text, energy to build."""


def differences(runs: pd.DataFrame) -> Exhibit:
    """Settings less plain fine-tuning, by pairs of one seed. p is corrected within each column."""
    found = [c for column in comparable_columns(runs) for c in against_baseline(runs, [column])]
    words = {(c.column, c.group): comparison_words(c) for c in found if c.column in JUDGED}
    return Exhibit(
        "Settings against plain fine-tuning, by seed",
        "Each mark is the mean difference from plain fine-tuning (sft), over pairs of runs with "
        "the same seed. Lines are 95 % intervals. A filled mark differs beyond noise, an open mark "
        "does not: a paired t-test, corrected for all settings of the panel (Holm 1979).",
        comparisons_table(found).assign(energy_class=_energy_classes(found, runs)),
        partial(_draw, words=words, runs=runs),
    )


def _energy_classes(found: list[Comparison], runs: pd.DataFrame) -> list[str | None]:
    """How the joules of each comparison were obtained, the worse of both; None of scores."""
    by_group = grouped(distinct_students(runs), "group")
    classes: list[str | None] = []
    for c in found:
        quality = COLUMNS[c.column].quality
        rows = [*by_group[c.group], *by_group[c.baseline_group]]
        kinds = {energy_class(row[quality]) for row in rows} if quality else set()
        classes.append(max(kinds, key=CLASSES.index, default=None))
    return classes


def _draw(table: pd.DataFrame, words: dict[tuple[str, str], str], runs: pd.DataFrame) -> go.Figure:
    """A panel for each column of JUDGED, a mark for each setting."""
    look = look_in(to_rows(runs))

    def text(row: Row) -> str:
        return escape(words[row["column"], row["group"]])

    marks = grouped(known(to_rows(table), "effect_pct"), "column")
    panels = {column: marks[column] for column in JUDGED if column in marks}
    shown, _, left_out = first_rows([row for rows in panels.values() for row in rows], "label")
    fig = make_subplots(1, max(1, len(panels)), shared_yaxes=True, horizontal_spacing=0.05)
    for place, (column, rows) in enumerate(panels.items(), start=1):
        for row in rows:
            if row["label"] not in shown:
                continue
            own = look(row["group"])
            is_sure = row["verdict"] in ("better", "worse")
            fig.add_scatter(
                **points([row], x="effect_pct", y="label", of="group", text=text),
                mode="markers",
                showlegend=False,
                marker={
                    "color": own.color,
                    "size": 11,
                    "symbol": symbol(own.shape, is_sure),
                    "line": {"width": 2, "color": own.color},
                },
                error_x=error_bars([row], "effect_half_width_pct", color=own.color, thickness=2),
                meta={"group": row["group"]},
                row=1,
                col=place,
            )
        about = COLUMNS[column]
        better = "higher" if about.higher_is_better else "lower"
        title = f"{about.words[:1].upper()}{about.words[1:]}, {about.effect_unit}"
        fig.update_xaxes(title_text=f"{title}<br>{better} is better", row=1, col=place)
    fig.add_vline(0.0, line={"color": MUTED, "width": 1})
    height = 110 + 40 * max(1, len(shown))
    in_rows(fig, shown, left_out=left_out, what="settings", height=height)
    # All panels have the rows of the first.
    return fig.update_yaxes(title_text="", selector=lambda axis: axis.matches is not None)
