"""Joules a request of whole fleets over the load, with the load that was asked about."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics.fleet import Stretch, fleet_energy
from kdwatts.metrics.quantity import Quantity, scaled
from multirun_analysis.figures.exhibit import NOT_MEASURED, Exhibit
from multirun_analysis.figures.looks import Look
from multirun_analysis.figures.marks import (
    coordinates,
    dash,
    error_bars,
    legend_once,
    legend_px,
    log_axis,
    points,
    symbol,
)
from multirun_analysis.figures.palette import DASHES, INK, MUTED, faded, styled
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.measured_replicas import PowerCurve, power_curve
from multirun_analysis.statistics.one_fleet import Fleet
from multirun_analysis.statistics.savings import absolute_interval
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, grouped, known, to_rows

NAME = "fleet_over_load"

COLUMNS = (
    "name", "subject", "quantization", "group", "groups", "num_replicas", "num_gpus", "at",
    "requests_per_s", "j_per_request", "j_per_request_low", "j_per_request_high",
    "capacity_per_s", "mean_per_s", "peak_per_s", "energy_class",
)  # fmt: skip
"""Of the table. `at` is measured, capacity, or your load; of the curves it is line."""

_YOURS = "#b4501e"
_SIZES = {"measured": 7, "capacity": 20, "your load": 15}
_POINTS = 41
"""Of a line."""
_NAMES = 3
"""Settings of one line that its legend names."""
_LETTERS = 44
"""Of a name in the legend."""
_ENDS = ("j_per_request_low", "j_per_request", "j_per_request_high")


def fleet_over_load(found: Sequence[Fleet], look: Callable[[str], Look]) -> Exhibit:
    """J/request of each fleet that has joules, by the requests a second that all of it gets.

    The number of replicas is that of the operating point. Settings that share their servers are one
    line. `look` is that of a setting, by its group.
    """
    known_fleets = [fleet for fleet in found if fleet.j_per_request.value is not None]
    marks, lines = [], []
    for same in grouped_by_servers(known_fleets):
        curve = power_curve(same[0].replica)
        marks += list(_marks_of(same, curve))
        lines += list(_line_of(same, curve, _least_load(known_fleets)))
    return Exhibit(
        "Joules a request, by load",
        "Each line is a fleet of as many replicas as the table says, which share the load evenly. "
        "Small marks are loads that were measured; between them the power is a straight line. The "
        "large mark is your load, summed over its hours. The upright bar is the greatest load "
        "within the SLO. Squares are teachers. Where there is little load, parked power is shared "
        f"among few requests. Bars are 95 % intervals. {NOT_MEASURED}",
        pd.DataFrame(marks, columns=COLUMNS),
        partial(_draw, look=look),
        curves=pd.DataFrame([*marks, *lines], columns=COLUMNS),
    )


def grouped_by_servers(found: Sequence[Fleet]) -> list[list[Fleet]]:
    """Fleets whose figures are of the same servers together, as of students that serve alike."""
    rows = [{"of": (fleet.replica.servers, fleet.num_replicas), "fleet": fleet} for fleet in found]
    return [[row["fleet"] for row in same] for same in grouped(rows, "of").values()]


def _least_load(found: Sequence[Fleet]) -> float:
    """The least load of the figure: of the hours, and of what was measured, above 0."""
    rates = [one.rate_per_s for fleet in found for one in fleet.point.stretches]
    for fleet in found:
        rates += [
            (fleet.num_replicas or 0) * k.rate_per_s for k in power_curve(fleet.replica).knots
        ]
    return min((rate for rate in rates if rate > 0), default=1.0)


def _marks_of(same: Sequence[Fleet], curve: PowerCurve) -> Iterator[Row]:
    fleet = same[0]
    for knot in curve.knots:
        if knot.rate_per_s > 0:
            yield _row(same, curve, knot.rate_per_s, "measured")
    most = fleet.capacity.requests_per_s
    if most is not None and curve.knots[0].rate_per_s <= most <= curve.knots[-1].rate_per_s:
        yield _row(same, curve, most, "capacity")
    mean_per_s = fleet.point.rate_per_s / (fleet.num_replicas or 1)
    yield _row(same, curve, mean_per_s, "your load", fleet.j_per_request)


def _line_of(same: Sequence[Fleet], curve: PowerCurve, least_per_s: float) -> Iterator[Row]:
    """Loads of one replica from the least of the figure to the greatest that was measured."""
    first, last = curve.knots[0].rate_per_s, curve.knots[-1].rate_per_s
    low = max(least_per_s / (same[0].num_replicas or 1), first)
    for place in range(_POINTS if last > low else 0):
        rate = low * (last / low) ** (place / (_POINTS - 1))
        yield _row(same, curve, min(max(rate, low), last), "line")


def _row(
    same: Sequence[Fleet],
    curve: PowerCurve,
    replica_per_s: float,
    at: str,
    joules: Quantity | None = None,
) -> Row:
    """A mark where each replica gets so many requests a second: all draw the same a request."""
    fleet = same[0]
    number = fleet.num_replicas or 1
    if joules is None:
        second = fleet_energy(curve.knots, [Stretch(1.0, replica_per_s)], 1)
        joules = scaled(second, 1 / replica_per_s, unit="J/request")
    ends = absolute_interval(joules)
    groups = [one.replica.setting for one in same if one.replica.setting]
    most = fleet.capacity.requests_per_s
    values = (
        _name(same), fleet.replica.subject, fleet.quantization, groups[0] if groups else None,
        ", ".join(groups), number, fleet.num_gpus, at, number * replica_per_s, joules.value,
        ends.low, ends.high, None if most is None else number * most, fleet.point.rate_per_s,
        fleet.point.peak_per_s, fleet.energy_class,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _name(same: Sequence[Fleet]) -> str:
    labels = [fleet.label for fleet in same]
    if len(labels) <= _NAMES:
        return ", ".join(labels)
    return f"{', '.join(labels[:_NAMES])} and {len(labels) - _NAMES} more"


def _draw(table: pd.DataFrame, look: Callable[[str], Look]) -> go.Figure:
    rows = known(to_rows(table), "j_per_request")
    fig = go.Figure()
    for trace in _traces(rows, look):
        fig.add_scatter(**trace)
    ends = [row[end] for row in rows for end in _ENDS if row[end] is not None and row[end] > 0]
    if ends:
        fig.update_yaxes(**log_axis(0.9 * min(ends), 1.3 * max(ends)))
    loads = [row["requests_per_s"] for row in rows]
    for row in rows[:1]:
        loads += [row["mean_per_s"], row["peak_per_s"]]
        _add_load(fig, row["mean_per_s"], "mean load")
        if row["peak_per_s"] > row["mean_per_s"]:
            _add_load(fig, row["peak_per_s"], "peak")
    if loads:
        fig.update_xaxes(**log_axis(min(loads), max(loads)))
    styled(legend_once(fig), height=440, x="Requests a second of the whole fleet", y="J/request")
    fig.update_layout(height=440 + legend_px(fig, letters=60))
    return fig


def look_of_fleet(subject: str, group: str | None, look: Callable[[str], Look]) -> Look:
    """That of a student's setting; teachers are squares of ink, models without a run grey."""
    if subject == "student" and group:
        return look(group)
    is_teacher = subject == "teacher"
    return Look(
        subject, INK if is_teacher else MUTED, "square" if is_teacher else "circle", "solid"
    )


def _legend_name(name: str) -> str:
    """A name that fits a phone; the marks and the table have the whole of it."""
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS // 2]}…{name[-_LETTERS // 2 :]}"


def _traces(rows: list[Row], look: Callable[[str], Look]) -> Iterator[dict[str, Any]]:
    """The line of each fleet, and its marks by what they are."""
    colored: dict[str, int] = {}
    for name, own in grouped(rows, "name").items():
        first = own[0]
        own_look = look_of_fleet(first["subject"], first["group"], look)
        color, shape = own_look.color, own_look.shape
        place = colored[color] = colored.get(color, -1) + 1
        kind = first["energy_class"]
        label = escape(_legend_name(name)) + ("" if kind == "measured" else f", {kind} joules")
        by_load = sorted(own, key=lambda row: row["requests_per_s"])
        yield {
            "mode": "lines",
            "name": label,
            "legendgroup": label,
            "x": coordinates([row["requests_per_s"] for row in by_load]),
            "y": coordinates([row["j_per_request"] for row in by_load]),
            "hoverinfo": "skip",
            "customdata": [row["groups"] for row in by_load],
            "line": {
                "color": faded(color, 0.7),
                "width": 1.8,
                "dash": dash(kind, DASHES[place % len(DASHES)]),
            },
        }
        for at, size in _SIZES.items():
            marks = [row for row in own if row["at"] == at]
            if marks:
                sign = "line-ns" if at == "capacity" else symbol(shape, kind)
                yield _marks(marks, label, sign, size, color)


def _marks(marks: list[Row], label: str, sign: str, size: int, color: str) -> dict[str, Any]:
    is_yours = marks[0]["at"] == "your load"
    edge = {"width": 2.5, "color": _YOURS if is_yours else color}
    arms = [
        mark | {"up": (mark[_ENDS[2]] or mark[_ENDS[1]]) - mark[_ENDS[1]]}
        | {"down": mark[_ENDS[1]] - (mark[_ENDS[0]] or mark[_ENDS[1]])}
        for mark in marks
    ]  # fmt: skip
    bars = error_bars(arms, "up", "down", color=color, thickness=1.5)
    return {
        "mode": "markers",
        "name": label,
        "legendgroup": label,
        "marker": {"color": color, "size": size, "symbol": sign, "line": edge},
        "error_y": bars if is_yours else None,
        **points(marks, x="requests_per_s", y="j_per_request", of="groups", text=_hover),
    }


def _hover(mark: Row) -> str:
    low, high = mark["j_per_request_low"], mark["j_per_request_high"]
    ends = units.ends_in_brackets(low, high, "J")
    replicas = units.count(mark["num_replicas"], "replica")
    return (
        f"<b>{escape(mark['name'])}</b>, {replicas}<br>{mark['at']}: "
        f"{units.significant(mark['requests_per_s'])} requests a second<br>"
        f"{units.quantity(mark['j_per_request'], 'J/request')}{ends}, {mark['energy_class']}"
    )


def _add_load(fig: go.Figure, rate_per_s: float, name: str) -> None:
    """An upright line at a load of yours, its number along its top, on a logarithmic axis."""
    line = {"color": faded(_YOURS, 0.7), "width": 1.3, "dash": "4px,3px"}
    across = {"yref": "y domain"}
    fig.add_shape(type="line", x0=rate_per_s, x1=rate_per_s, y0=0, y1=1, line=line, **across)
    fig.add_annotation(
        text=f"{name} {units.significant(rate_per_s)}/s", x=math.log10(rate_per_s), y=1,
        xanchor="right", yanchor="top", textangle=-90, showarrow=False,
        font={"size": 12, "color": _YOURS}, **across,
    )  # fmt: skip
