"""Figures of what students keep and are worth: accuracy kept and Eff_overall by setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go

from multirun_analysis.figures.looks import hue_of
from multirun_analysis.figures.marks import (
    HATCH,
    MAX_ROWS,
    Setting,
    facets,
    named_rows,
    say_left_out,
    settings_by_kind,
)
from multirun_analysis.figures.palette import INK, MUTED, faded, styled
from multirun_analysis.statistics.accuracy_words import KEPT, Spread, at_chance_words, spread_of
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, distinct_students, known, to_rows

ABOVE_TEACHER = (
    "above the teacher's: the student is better there, or one of the two was asked in a "
    "format that suits it less"
)

_FORMS = {
    KEPT: "accuracy kept, chance subtracted",
    "om_perf": "OM_perf, the plain ratio",
}


def accuracy_kept_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy kept by each setting, and OM_perf, each with its 95 % interval."""
    found = []
    for setting in _settings(runs, KEPT):
        for form in _FORMS:
            if spread := spread_of(setting.rows, form):
                marks = at_chance_words(setting.rows) if form == KEPT else ""
                found.append(_row(setting, spread) | {"form": form, "at_chance": marks or None})
    return pd.DataFrame(found, columns=[*_COLUMNS, "form", "at_chance"])


def eff_overall_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Eff_overall of each setting, with a 95 % interval over two or more seeds."""
    found = [
        _row(setting, spread)
        for setting in _settings(runs, "eff_overall")
        if (spread := spread_of(setting.rows, "eff_overall"))
    ]
    return pd.DataFrame(found, columns=_COLUMNS)


_COLUMNS = ["group", "setting", "paradigm", "model", "gpu", "num_seeds"]
_COLUMNS += ["value", "low", "high", "interval", "num_values", "energy_class"]


def _settings(runs: pd.DataFrame, column: str) -> list[Setting]:
    """Settings that have the number, told apart by how the joules in it were obtained.

    Where a teacher is at chance, or chance is unknown, nothing that is divided by its scores says
    what the student is worth.
    """
    quality = "inference_energy_quality" if column == "eff_overall" else None
    return settings_by_kind(known(distinct_students(runs), column, KEPT), quality)


def _row(setting: Setting, spread: Spread) -> Row:
    return facets(setting.rows) | {
        "setting": setting.label,
        "value": spread.value,
        "low": spread.low,
        "high": spread.high,
        "interval": spread.words,
        "num_values": spread.num_seeds,
        "energy_class": setting.kind or None,
    }


def accuracy_kept_bars(runs: pd.DataFrame) -> go.Figure:
    """Accuracy kept by each setting with its interval, OM_perf as a paler bar below.

    The line at 1 is the teacher; a hatched bar passes it. Dots are single runs.
    """
    table = to_rows(accuracy_kept_table(runs))
    hue = hue_of(to_rows(runs))
    labels = list(dict.fromkeys(row["setting"] for row in table))
    shown = labels[:MAX_ROWS]
    fig = go.Figure()
    for form, words in reversed(_FORMS.items()):
        rows = [row for row in table if row["form"] == form and row["setting"] in shown]
        if rows:
            alpha = 1.0 if form == KEPT else 0.35
            fig.add_bar(**_bars(rows, form, words, hue, alpha=alpha, above=ABOVE_TEACHER))
    _add_runs(fig, runs, KEPT, shown)
    if table:
        _add_legend(fig, [words for form, words in _FORMS.items() if _has(table, form)])
    fig.update_layout(barmode="group", scattermode="group", bargroupgap=0.08)
    return _finished(fig, table, shown, len(labels), "Accuracy kept, chance subtracted", 62)


def eff_overall_bars(runs: pd.DataFrame) -> go.Figure:
    """Eff_overall of each setting with its interval: OM_perf times teacher over student J/token.

    The line at 1 is the teacher. A bar that is only an outline is not measured; dots are runs.
    """
    table = to_rows(eff_overall_table(runs))
    hue = hue_of(to_rows(runs))
    labels = [row["setting"] for row in table]
    shown = labels[:MAX_ROWS]
    rows = table[: len(shown)]
    fig = go.Figure()
    if rows:
        fig.add_bar(**_bars(rows, "eff_overall", "Eff_overall", hue, alpha=1.0, above=""))
    _add_runs(fig, runs, "eff_overall", shown)
    title = "OM_perf x teacher / student J/token"
    return _finished(fig, table, shown, len(labels), title, 44)


def _has(table: list[Row], form: str) -> bool:
    return any(row["form"] == form for row in table)


def _bars(
    rows: list[Row],
    column: str,
    words: str,
    hue: Callable[[str], str],
    *,
    alpha: float,
    above: str,
) -> dict:
    """Arguments of a trace of bars; outlines alone where joules in it are not measured."""
    colors = [hue(row["group"]) for row in rows]
    opened = [row["energy_class"] not in (None, "measured") for row in rows]
    hatched = [bool(above) and row["value"] > 1 for row in rows]
    fills = [
        faded(color, 0.15 if is_open else alpha)
        for color, is_open in zip(colors, opened, strict=True)
    ]
    return {
        "x": [row["value"] for row in rows],
        "y": [row["setting"] for row in rows],
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
                "shape": ["/" if is_above else "" for is_above in hatched],
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
        "hovertext": [
            _bar_text(row, words, above if is_above else "")
            for row, is_above in zip(rows, hatched, strict=True)
        ],
        "hoverinfo": "text",
        "customdata": [row["group"] for row in rows],
        "meta": {"column": column},
    }


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
    points = [(setting.label, run) for setting in many for run in setting.rows]
    if not points:
        return
    fig.add_scatter(
        x=[run[column] for _, run in points],
        y=[label for label, _ in points],
        mode="markers",
        orientation="h",
        offsetgroup=column,
        showlegend=False,
        marker={"color": "#fff", "size": 6, "line": {"color": INK, "width": 1}},
        hovertext=[
            f"<b>{escape(run['label'])}</b><br>{units.number(run[column])}" for _, run in points
        ],
        hoverinfo="text",
        customdata=[run["run"] for _, run in points],
        meta={"column": column},
    )


def _add_legend(fig: go.Figure, names: list[str]) -> None:
    """Two greys: the bars themselves have the colours of their settings."""
    for index, name in enumerate(names):
        grey = faded(INK, 1.0 if index == 0 else 0.35)
        group = list(_FORMS)[index]
        fig.add_bar(
            x=[None], y=[None], orientation="h", name=name, offsetgroup=group,
            marker={"color": grey},
        )  # fmt: skip


def _finished(
    fig: go.Figure, table: list[Row], shown: list[str], num_settings: int, title: str, row_px: int
) -> go.Figure:
    values = [row["value"] for row in table]
    ends = [row["high"] for row in table if row["high"] is not None]
    most = max(values, default=1.0)
    # Intervals over two seeds would dwarf the bars: they may leave the figure.
    right = max(1.0, most, min(max(ends, default=0.0), 1.35 * most))
    lows = [row["low"] for row in table if row["low"] is not None]
    # Below chance is below 0; there too an interval may leave the figure.
    left = min(0.0, *values, max(min(lows, default=0.0), -0.35 * right)) if values else 0.0
    fig.add_vline(1.0, line={"color": MUTED, "width": 1})
    fig.add_annotation(
        text="teacher", x=1.0, y=1, yref="paper", yanchor="bottom", showarrow=False,
        font={"size": 12, "color": MUTED},
    )  # fmt: skip
    say_left_out(fig, num_settings - len(shown), "settings")
    styled(fig, height=110 + row_px * max(1, len(shown)), x=title)
    fig.update_layout(margin_t=28)
    fig.update_xaxes(range=[1.05 * left, 1.05 * right])
    return named_rows(fig, shown[::-1])
