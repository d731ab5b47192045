"""Figures of what students keep and of what they are worth: OM_perf and Eff_overall by setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.graph_objects as go

from multirun_analysis import units
from multirun_analysis.marks import (
    HATCH,
    MAX_ROWS,
    Setting,
    facets,
    named_rows,
    say_left_out,
    setting_mean,
    settings_by_kind,
)
from multirun_analysis.palette import INK, MUTED, faded, paradigm_color, styled
from multirun_analysis.rows import Row, distinct_students, known, to_rows

ABOVE_TEACHER = (
    "above the teacher's: the student is better there, or one of the two was asked in a "
    "format that suits it less"
)

_FORMS = {
    "om_perf": "OM_perf",
    "om_perf_corrected": "the same with chance subtracted",
}


@dataclass(frozen=True)
class _Bounds:
    low: float | None
    high: float | None
    words: str


def om_perf_table(runs: pd.DataFrame) -> pd.DataFrame:
    """OM_perf of each setting, plain and chance-corrected, with a 95 % interval.

    Over two or more seeds it is Student's; of one seed the bootstrap over the benchmarks' samples,
    which the plain form alone has.
    """
    found = []
    for setting in _settings(runs, "om_perf"):
        for form in _FORMS:
            mean = setting_mean(setting.rows, form)
            if mean is not None:
                bounds = _bounds(setting.rows, form)
                found.append(_row(setting, mean.mean, bounds, mean.num_values) | {"form": form})
    return pd.DataFrame(found, columns=[*_COLUMNS, "form"])


def eff_overall_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Eff_overall of each setting, with a 95 % interval over two or more seeds."""
    found = []
    for setting in _settings(runs, "eff_overall"):
        mean = setting_mean(setting.rows, "eff_overall")
        assert mean is not None, "its rows are those that have it"
        bounds = _bounds(setting.rows, "eff_overall")
        found.append(_row(setting, mean.mean, bounds, mean.num_values))
    return pd.DataFrame(found, columns=_COLUMNS)


_COLUMNS = ["group", "setting", "paradigm", "model", "gpu", "num_seeds"]
_COLUMNS += ["value", "low", "high", "interval", "num_values", "energy_class"]


def _settings(runs: pd.DataFrame, column: str) -> list[Setting]:
    """Settings that have the number, told apart by how the joules in it were obtained."""
    quality = "inference_energy_quality" if column == "eff_overall" else None
    return settings_by_kind(known(distinct_students(runs), column), quality)


def _row(setting: Setting, value: float, bounds: _Bounds, num_values: int) -> Row:
    return facets(setting.rows) | {
        "setting": setting.label,
        "value": value,
        "low": bounds.low,
        "high": bounds.high,
        "interval": bounds.words,
        "num_values": num_values,
        "energy_class": setting.kind or None,
    }


def _bounds(rows: list[Row], column: str) -> _Bounds:
    mean = setting_mean(rows, column)
    if mean is not None and mean.half_width is not None:
        return _Bounds(mean.low, mean.high, f"95 % over {mean.num_values} seeds")
    only = known(rows, column)[0]
    ends = (only.get(f"{column}_low"), only.get(f"{column}_high"))
    if None in ends:
        return _Bounds(None, None, "none: one seed")
    return _Bounds(*ends, "95 % over benchmark samples, one seed")


def om_perf_bars(runs: pd.DataFrame) -> go.Figure:
    """OM_perf of each setting with its interval, the chance-corrected form as a paler bar below.

    The line at 1 is the teacher; a hatched bar passes it. Dots are single runs.
    """
    table = to_rows(om_perf_table(runs))
    labels = list(dict.fromkeys(row["setting"] for row in table))
    shown = labels[:MAX_ROWS]
    fig = go.Figure()
    for form, words in reversed(_FORMS.items()):
        rows = [row for row in table if row["form"] == form and row["setting"] in shown]
        if rows:
            alpha = 1.0 if form == "om_perf" else 0.35
            fig.add_bar(**_bars(rows, form, words, alpha=alpha, above=ABOVE_TEACHER))
    _add_runs(fig, runs, "om_perf", shown)
    if table:
        _add_legend(fig, [words for form, words in _FORMS.items() if _has(table, form)])
    fig.update_layout(barmode="group", scattermode="group", bargroupgap=0.08)
    return _finished(fig, table, shown, len(labels), "OM_perf: student / teacher accuracy", 62)


def eff_overall_bars(runs: pd.DataFrame) -> go.Figure:
    """Eff_overall of each setting with its interval: OM_perf times teacher over student J/token.

    The line at 1 is the teacher. A bar that is only an outline is not measured; dots are runs.
    """
    table = to_rows(eff_overall_table(runs))
    labels = [row["setting"] for row in table]
    shown = labels[:MAX_ROWS]
    rows = table[: len(shown)]
    fig = go.Figure()
    if rows:
        fig.add_bar(**_bars(rows, "eff_overall", "Eff_overall", alpha=1.0, above=""))
    _add_runs(fig, runs, "eff_overall", shown)
    title = "Eff_overall: OM_perf x teacher / student J/token"
    return _finished(fig, table, shown, len(labels), title, 44)


def _has(table: list[Row], form: str) -> bool:
    return any(row["form"] == form for row in table)


def _bars(rows: list[Row], column: str, words: str, *, alpha: float, above: str) -> dict:
    """Arguments of a trace of bars; outlines alone where joules in it are not measured."""
    colors = [paradigm_color(row["paradigm"]) for row in rows]
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
            "array": [_arm(row["high"], row["value"]) for row in rows],
            "arrayminus": [-_arm(row["low"], row["value"]) for row in rows],
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


def _arm(end: float | None, value: float) -> float:
    return 0.0 if end is None else end - value


def _bar_text(row: Row, words: str, above: str) -> str:
    ends = "" if row["low"] is None else f", {units.number(row['low'])} to "
    ends += "" if row["high"] is None else units.number(row["high"])
    kind = f", {row['energy_class']}" if row["energy_class"] else ""
    lines = [
        f"<b>{escape(row['setting'])}</b>",
        f"{words} {units.number(row['value'])}{ends}{kind}",
        f"interval: {row['interval']}",
    ]
    return "<br>".join([*lines, *([above] if above else [])])


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
    """Two greys: the bars themselves have the colours of their paradigms."""
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
    fig.add_vline(1.0, line={"color": MUTED, "width": 1})
    fig.add_annotation(
        text="teacher", x=1.0, y=1, yref="paper", yanchor="bottom", showarrow=False,
        font={"size": 12, "color": MUTED},
    )  # fmt: skip
    say_left_out(fig, num_settings - len(shown), "settings")
    styled(fig, height=110 + row_px * max(1, len(shown)), x=title)
    fig.update_layout(margin_t=28)
    fig.update_xaxes(range=[0.0, 1.05 * right])
    return named_rows(fig, shown[::-1])
