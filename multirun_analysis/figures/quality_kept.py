"""Figures of what students keep and are worth: accuracy kept and Eff_overall by setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.looks import Look, look_in
from multirun_analysis.figures.marks import (
    HATCH,
    Setting,
    facets,
    first_rows,
    in_rows,
    points,
    settings_by_kind,
)
from multirun_analysis.figures.palette import INK, MUTED, faded
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.accuracy_words import (
    KEPT,
    MeanInterval,
    at_chance_words,
    mean_interval_of,
)
from multirun_analysis.statistics.loop_words import loop_label, loop_words
from multirun_analysis.statistics.seeds import draws_of
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, distinct_students, grouped, known, to_rows

ABOVE_TEACHER = (
    "above the teacher's: the student is better there, or the question format suits one of the "
    "two less"
)

PALER = 0.35
"""Opacity of the second bar."""

_FORMS = {
    KEPT: "accuracy kept, above chance",
    "om_perf": "OM_perf, plain ratio of scores",
}

_COLUMNS = ["group", "setting", "paradigm", "model", "gpu", "num_seeds"]
_COLUMNS += ["value", "low", "high", "interval", "num_values", "energy_class"]


def accuracy_kept(runs: pd.DataFrame) -> Exhibit:
    """Accuracy kept by each setting, and OM_perf, each with its 95 % interval."""
    draws = draws_of(distinct_students(runs))
    found = []
    for setting in _settings(runs, KEPT):
        for form in _FORMS:
            if spread := mean_interval_of(setting.rows, form):
                marks = at_chance_words(setting.rows) if form == KEPT else ""
                found.append(_row(setting, spread) | {"form": form, "at_chance": marks or None})
    return Exhibit(
        "Accuracy kept by setting",
        "Accuracy kept is the mean of (student - chance) / (teacher - chance) over benchmarks: 0 "
        "is guessing, 1 is the teacher. The paler bar is OM_perf, the mean of student score / "
        "teacher score. Lines are 95 % intervals and may leave the figure: the wider of two, over "
        f"{draws} and over benchmark samples. Dots are runs. A hatched bar is {ABOVE_TEACHER}.",
        pd.DataFrame(found, columns=[*_COLUMNS, "form", "at_chance"]),
        partial(_draw, runs=runs, forms=_FORMS, title="Accuracy kept, above chance", row_px=62),
    )


def eff_overall(runs: pd.DataFrame) -> Exhibit:
    """OM_perf times teacher over student J/token, with a 95 % interval over two or more seeds."""
    draws, loop = draws_of(distinct_students(runs)), loop_words(to_rows(runs))
    label = loop_label(to_rows(runs))
    found = [
        _row(setting, spread)
        for setting in _settings(runs, "eff_overall")
        if (spread := mean_interval_of(setting.rows, "eff_overall"))
    ]
    return Exhibit(
        "Eff_overall by setting",
        "Eff_overall is OM_perf times the ratio of energies per token served"
        f"{f' by {loop}' if loop else ''}: teacher / student. Building is not included. Lines are "
        f"95 % intervals and may leave the figure: the wider of two, over {draws} and over samples "
        "and measurements. Dots are runs. An outlined bar is not measured. Settings whose accuracy "
        "kept is not known are left out.",
        pd.DataFrame(found, columns=_COLUMNS),
        partial(
            _draw,
            runs=runs,
            forms={"eff_overall": "Eff_overall"},
            title=", ".join(
                filter(None, ("Eff_overall: OM_perf x teacher / student J/token", label))
            ),
            row_px=44,
        ),
    )


def _settings(runs: pd.DataFrame, column: str) -> list[Setting]:
    """Settings that have the number, told apart by how the joules in it were obtained.

    Where a teacher is at chance, or chance is unknown, nothing that is divided by its scores says
    what the student is worth.
    """
    quality = "inference_energy_quality" if column == "eff_overall" else None
    return settings_by_kind(known(distinct_students(runs), column, KEPT), quality)


def _row(setting: Setting, spread: MeanInterval) -> Row:
    return facets(setting.rows) | {
        "setting": setting.label,
        "value": spread.value,
        "low": spread.low,
        "high": spread.high,
        "interval": spread.words,
        "num_values": spread.num_seeds,
        "energy_class": setting.kind or None,
    }


def _draw(
    table: pd.DataFrame, runs: pd.DataFrame, forms: dict[str, str], title: str, row_px: int
) -> go.Figure:
    """A bar for each setting, of several forms one below the other; the first has the runs' dots.

    The line at 1 is the teacher. A bar that is only an outline is not measured.
    """
    look = look_in(to_rows(runs))
    every = to_rows(table)
    shown, rows, left_out = first_rows(every, "setting")
    first, *others = forms
    by_form = grouped(rows, lambda row: row.get("form", first))
    fig = go.Figure()
    for form in reversed([form for form in forms if form in by_form]):
        alpha = 1.0 if form == first else PALER
        fig.add_bar(**_bars(by_form[form], form, forms[form], look, alpha, is_share=bool(others)))
    _add_runs(fig, runs, first, shown)
    if others:
        # Greys: the bars themselves have the colours of their settings.
        for form in by_form:
            grey = {"color": faded(INK, 1.0 if form == first else PALER)}
            fig.add_bar(
                x=[None], y=[None], orientation="h", name=forms[form], offsetgroup=form, marker=grey
            )
        fig.update_layout(barmode="group", scattermode="group", bargroupgap=0.08)
    fig.add_vline(1.0, line={"color": MUTED, "width": 1})
    fig.add_annotation(
        text="teacher", x=1.0, y=1, yref="paper", yanchor="bottom", showarrow=False,
        font={"size": 12, "color": MUTED},
    )  # fmt: skip
    height = 110 + row_px * max(1, len(shown))
    in_rows(fig, shown, left_out=left_out, what="settings", height=height, x=title)
    fig.update_layout(margin_t=28)
    return fig.update_xaxes(range=_range(every))


def _range(rows: list[Row]) -> list[float]:
    """Holds bars and teacher; intervals over two seeds would dwarf them, and may leave it."""
    values = [row["value"] for row in rows]
    most = max(values, default=1.0)
    highs, lows = ([row[end] for row in known(rows, end)] for end in ("high", "low"))
    right = max(1.0, most, min(max(highs, default=0.0), 1.35 * most))
    # Below chance is below 0.
    left = min(0.0, *values, max(min(lows, default=0.0), -0.35 * right)) if values else 0.0
    return [1.05 * left, 1.05 * right]


def _bars(
    rows: list[Row],
    column: str,
    words: str,
    look: Callable[[str], Look],
    alpha: float,
    *,
    is_share: bool,
) -> dict:
    """Arguments of a trace of bars; outlines alone where joules in it are not measured, and
    hatched where a share of the teacher's is above 1."""
    colors = [look(row["group"]).color for row in rows]
    opened = [row["energy_class"] not in (None, "measured") for row in rows]
    fills = [
        faded(color, 0.15 if is_open else alpha)
        for color, is_open in zip(colors, opened, strict=True)
    ]

    def above(row: Row) -> str:
        return ABOVE_TEACHER if is_share and row["value"] > 1 else ""

    return {
        **points(
            rows, x="value", y="setting", of="group",
            text=lambda row: _bar_text(row, words, above(row)),
        ),
        "orientation": "h",
        "name": words,
        "offsetgroup": column,
        "showlegend": False,
        "marker": {
            "color": fills,
            "line": {"color": colors, "width": [1.5 if is_open else 0 for is_open in opened]},
            # plotly.js takes a list of colours only as the background that is given by name.
            "pattern": HATCH
            | {
                "shape": ["/" if above(row) else "" for row in rows],
                "fillmode": "replace",
                "bgcolor": fills,
            },
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            # An unknown interval would be drawn as a stub.
            "visible": any(row["low"] is not None for row in rows),
            "array": [_arm(row["high"], row["value"]) for row in rows],
            "arrayminus": [_arm(row["low"], row["value"]) for row in rows],
            "color": INK,
            "thickness": 1.3,
            "width": 3,
        },
        "meta": {"column": column},
    }  # fmt: skip


def _arm(end: float | None, value: float) -> float | None:
    """How far an interval reaches from its bar; None, which draws nothing, where it is unknown."""
    return None if end is None else abs(end - value)


def _bar_text(row: Row, words: str, above: str) -> str:
    ends = "" if row["low"] is None else f", {units.number(row['low'])} to "
    ends += "" if row["high"] is None else units.number(row["high"])
    kind = f", {row['energy_class']}" if row["energy_class"] else ""
    lines = [
        f"<b>{escape(row['setting'])}</b>",
        f"{words} {units.number(row['value'])}{ends}{kind}",
        f"interval: {row['interval']}",
        escape(row.get("at_chance") or ""),
        above,
    ]
    return "<br>".join(line for line in lines if line)


def _add_runs(fig: go.Figure, runs: pd.DataFrame, column: str, shown: Sequence[str]) -> None:
    """Adds a dot for each run of a setting that has several."""
    many = [s for s in _settings(runs, column) if len(s.rows) > 1 and s.label in shown]
    dots = [run | {"row": setting.label} for setting in many for run in setting.rows]
    if dots:
        fig.add_scatter(
            **points(
                dots, x=column, y="row", of="run",
                text=lambda run: f"<b>{escape(run['label'])}</b><br>{units.number(run[column])}",
            ),
            mode="markers",
            orientation="h",
            offsetgroup=column,
            showlegend=False,
            marker={"color": "#fff", "size": 6, "line": {"color": INK, "width": 1}},
            meta={"column": column},
        )  # fmt: skip
