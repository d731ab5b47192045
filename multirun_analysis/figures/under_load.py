"""Joules per token and latencies of a server over its load, one figure for each setup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.marks import (
    dash,
    error_bars,
    legend_once,
    legend_px,
    log_axis,
    points,
    symbol,
)
from multirun_analysis.figures.palette import INK, faded, styled
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.figures.serving_by_architecture import PAIR_COLORS
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.server_words import (
    capacity_words,
    parking_words,
    servers_words,
    setup_words,
)
from multirun_analysis.statistics.serving_curves import SLO, Curve, Setup, setups
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, grouped, known, to_rows

NAME = "serving_under_load"

HOW_TO_READ = (
    "J/token counts tokens read and written. First token: time to it, from the moment a request "
    "was scheduled (TTFT). Output token: time for each one after the first (TPOT). Of 100 requests "
    "99 took no longer than p99. Bars are 95 % intervals. The error that all joules of one meter "
    "share is in them, and cancels in a ratio. An open mark is a load that was saturated, unsteady "
    "or held back by our client; its figures are those of no steady server."
)

_LIMIT = "#b4501e"
_LABEL = 0.1
"""Height of a line of words, as a share of the panel of joules."""
_PANELS = (
    ("j_per_token", "J/token", None),
    ("ttft_p99_s", "First token, p99, s", "slo_ttft_p99_s"),
    ("tpot_p99_s", "Output token, p99, s", "slo_tpot_p99_s"),
)
"""Column, words of the axis, and the column of its limit."""
_SHOWN = ("j_per_token", "j_per_output_token", "j_per_request", "power_w", "goodput_per_s")
_SHOWN_S = ("ttft_p99_s", "tpot_p99_s", "e2e_p99_s")
_ENDS = ("", "_low", "_high")


def load_names(shown: Iterable[str]) -> list[str]:
    """Those of the names that are exhibits of servers under load."""
    return [name for name in shown if name.partition("-")[0] == NAME]


def under_load(serving: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Exhibit]:
    """An exhibit for each setup: engine, flags, numbers, hardware, lengths and kind of load.

    Curves of two setups never stand in one figure.
    """
    found = setups(to_rows(serving), to_rows(runs))
    names = [NAME, *(f"{NAME}-{number}" for number in range(2, len(found) + 1))]
    return {name: _exhibit(setup) for name, setup in zip(names, found, strict=False)}


def _exhibit(setup: Setup) -> Exhibit:
    return Exhibit(
        "Serving under load",
        f"{own_words(setup)} {HOW_TO_READ}",
        pd.DataFrame(list(_rows(setup))),
        _draw,
    )


def own_words(setup: Setup) -> str:
    """What is of this figure alone: the setup, its servers, capacities, parking."""
    capacities = [capacity_words(curve) for curve in setup.curves]
    found = [f"{setup_words(setup)}.", servers_words(setup), *capacities, *parking_words(setup)]
    return " ".join(filter(None, found))


def _rows(setup: Setup) -> Iterator[Row]:
    about = ("engine", "engine_version", "flags", "precision", "quantization", "load")
    lengths = ("workload_prompt_tokens", "workload_output_tokens", "workload_length")
    for curve in setup.curves:
        for point in curve.points:
            yield (
                {name: setup.first[name] for name in (*about, *lengths)}
                | {"curve": curve.name, "subject": curve.subject, "model": curve.model}
                | {"level": point["level"], "verdict": point["verdict"]}
                | {f"{name}{end}": point[f"{name}{end}"] for name in _SHOWN for end in _ENDS}
                | {f"{name}{end}": point[f"{name}{end}"] for name in _SHOWN_S for end in _ENDS}
                | {name: curve.first[name] for name in SLO}
                | _capacity(curve)
                | {"parking_power_w": curve.parking_w.value}
                | {"num_measurements": point["measurements"], "failed": point["failed"]}
                | {"energy_class": energy_class(point["energy_quality"])}
                | {"remarks": point["remarks"], "groups": ", ".join(curve.runs)}
            )


def _capacity(curve: Curve) -> Row:
    return {name: curve.first[name] for name in ("capacity_requests_per_s", "capacity_verdict")}


def _draw(table: pd.DataFrame) -> go.Figure:
    """Joules above, latencies below, over the load. Lines of student and teacher as elsewhere."""
    every = to_rows(table)
    curves = grouped(every, "curve")
    fig = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.4, 0.3, 0.3])
    for number, (name, title, limit) in enumerate(_PANELS, start=1):
        marks = known(every, name)
        factor, prefix = (1.0, "")
        if limit is None:
            factor, prefix = units.prefix(max((m[name] for m in marks), default=1.0), lowest=1e-6)
            top = max(_ends_of(marks, name), default=1.0) / factor
            head = 1 - _LABEL * len(_capacities(curves))
            fig.update_yaxes(range=[0, 1.12 * top / max(head, 0.4)], row=number, col=1)
        else:
            limit_s = next((row[limit] for row in every if row[limit] is not None), None)
            ends = [end for end in (*_ends_of(marks, name), limit_s or 0.0) if end > 0]
            axis = log_axis(0.8 * min(ends), 1.25 * max(ends)) if ends else {}
            fig.update_yaxes(**axis, row=number, col=1)
            _add_limit(fig, limit_s, number)
        for trace in _traces(curves, name, factor):
            fig.add_scatter(**trace, xaxis=f"x{number}", yaxis=f"y{number}")
        fig.update_yaxes(title_text=f"{prefix}{title}", row=number, col=1)
    is_log = _set_loads(fig, every)
    _add_capacities(fig, curves, is_log=is_log)
    styled(legend_once(fig), height=700)
    fig.update_layout(height=700 + legend_px(fig, letters=60))
    return fig


def _ends_of(marks: list[Row], name: str) -> list[float]:
    """The values, and the ends of the bars that are drawn."""
    barred = [m for m in marks if m[f"{name}_low"] is not None and m[f"{name}_high"] is not None]
    return [m[name] for m in marks] + [m[f"{name}{end}"] for m in barred for end in _ENDS]


def _set_loads(fig: go.Figure, every: list[Row]) -> bool:
    """Sets the axis of loads; whether it is logarithmic."""
    levels = sorted({row["level"] for row in every})
    closed = bool(every) and every[0]["load"] == "closed"
    kind = "" if closed or not every else f" ({every[0]['load']})"
    words = "Requests at once" if closed else f"Requests a second{kind}"
    is_wide = bool(levels) and levels[-1] > 4 * levels[0]
    axis: dict[str, Any] = {"type": "log"} if is_wide else {"rangemode": "tozero"}
    fig.update_xaxes(**axis, tickvals=levels, ticktext=[f"{level:g}" for level in levels])
    fig.update_xaxes(title_text=words, row=3, col=1)
    return is_wide


def _traces(curves: dict[str, list[Row]], name: str, factor: float) -> Iterator[dict[str, Any]]:
    for key, rows in curves.items():
        is_teacher = rows[0]["subject"] == "teacher"
        color = _color(rows[0], curves)
        shape = "square" if is_teacher else "circle"
        marks = known(rows, name)
        if not marks:
            continue
        kinds = {row["energy_class"] for row in marks}
        kind = kinds.pop() if len(kinds) == 1 and factor else "mixed"
        is_joules = name == "j_per_token"
        label = escape(key) + (f", {kind} joules" if kind != "measured" else "")
        arms = [
            mark
            | {"up": _arm(mark[name], mark[f"{name}_high"])}
            | {"down": _arm(mark[f"{name}_low"], mark[name])}
            for mark in marks
        ]
        yield {
            "mode": "lines+markers",
            "name": label,
            "legendgroup": label,
            "line": {
                "color": faded(color, 0.7),
                "width": 1.6,
                "dash": dash(kind if is_joules else "measured", "dash" if is_teacher else "solid"),
            },
            "marker": {
                "color": color,
                "size": 9,
                "symbol": [symbol(shape, mark["verdict"] == "steady") for mark in marks],
                "line": {"width": 2, "color": color},
            },
            "error_y": error_bars(arms, "up", "down", factor=factor, color=color, thickness=1.5),
            **points(
                marks, x="level", y=name, y_factor=factor, of="groups",
                text=lambda mark: _hover(mark, name),
            ),
        }  # fmt: skip


def _arm(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else max(0.0, high - low)


def _hover(mark: Row, name: str) -> str:
    unit = "J/token" if name == "j_per_token" else "s"
    low, high = mark[f"{name}_low"], mark[f"{name}_high"]
    ends = units.ends_in_brackets(low, high, unit)
    measured = units.count(mark["num_measurements"], "measurement")
    return (
        f"<b>{escape(mark['curve'])}</b> at load {mark['level']:g}<br>"
        f"{units.quantity(mark[name], unit)}{ends}<br>{mark['verdict']}, {measured}, "
        f"{mark['energy_class']} joules"
    )


def _add_limit(fig: go.Figure, limit_s: float | None, number: int) -> None:
    """The SLO as a line across a panel, whose axis is logarithmic."""
    if limit_s is None:
        return
    line = {"color": _LIMIT, "width": 1.5, "dash": "4px,3px"}
    across = {"xref": "x domain", "yref": f"y{number}"}
    fig.add_shape(type="line", x0=0, x1=1, y0=limit_s, y1=limit_s, line=line, **across)
    fig.add_annotation(
        text=f"SLO {limit_s:g} s", x=0, xanchor="left", y=math.log10(limit_s), yanchor="bottom",
        showarrow=False, font={"size": 12, "color": _LIMIT}, **across,
    )  # fmt: skip


def _capacities(curves: dict[str, list[Row]]) -> list[Row]:
    """A row of each curve whose capacity stands on the axis of its loads, the least first."""
    firsts = [rows[0] for rows in curves.values() if rows[0]["load"] == "poisson"]
    drawn = known(firsts, "capacity_requests_per_s")
    return sorted(drawn, key=lambda row: row["capacity_requests_per_s"])


def _add_capacities(fig: go.Figure, curves: dict[str, list[Row]], *, is_log: bool) -> None:
    """A line where the greatest rate within the SLO is, with its words above the joules."""
    drawn = _capacities(curves)
    levels = [row["level"] for rows in curves.values() for row in rows]
    middle = math.sqrt(min(levels) * max(levels)) if is_log else max(levels) / 2 if levels else 0
    for place, row in enumerate(drawn):
        rate, color = row["capacity_requests_per_s"], _color(row, curves)
        least = "at least " if row["capacity_verdict"] == "above" else ""
        line = {"color": faded(color, 0.6), "width": 1.3, "dash": "2px,3px"}
        across = {"xref": "x"}
        fig.add_shape(type="line", x0=rate, x1=rate, y0=0, y1=1, yref="paper", line=line, **across)
        fig.add_annotation(
            text=f"{escape(row['curve'])}: capacity {least}{rate:.3g}/s",
            x=math.log10(rate) if is_log else rate, xanchor="left" if rate < middle else "right",
            y=1 - _LABEL * place, yref="y domain", yanchor="top", showarrow=False,
            font={"size": 12, "color": color}, **across,
        )  # fmt: skip


def _color(row: Row, curves: dict[str, list[Row]]) -> str:
    """Teachers are ink; the others have colours in their order."""
    if row["subject"] == "teacher":
        return INK
    others = [key for key, rows in curves.items() if rows[0]["subject"] != "teacher"]
    return PAIR_COLORS[others.index(row["curve"]) % len(PAIR_COLORS)]
