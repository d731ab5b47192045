"""Requests a second over the hours of a log. Nothing of its texts is in it."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from kdwatts.traffic.traffic_summary import TrafficSummary
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.palette import ACCENT, INK, faded, styled
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, to_rows

NAME = "traffic_by_hour"

_PEAK = "#b4501e"


def traffic_by_hour(traffic: TrafficSummary) -> Exhibit:
    """A bar for each hour of the log; the last may be shorter, or up to 300 s longer."""
    rows, begin_s = [], 0.0
    for hour in traffic.hours:
        rows.append(
            {"from_h": begin_s / 3600, "duration_s": hour.duration_s}
            | {"requests_per_s": hour.rate_per_s, "mean_requests_per_s": traffic.rate_per_s}
            | {"peak_requests_per_s": traffic.peak_rate_per_s, "peak_span_s": traffic.peak_span_s}
        )
        begin_s += hour.duration_s
    return Exhibit(
        "Requests a second, by hour of the log",
        "Hours count from the first request. A bar is the mean of its hour. The lower line is the "
        "mean of the whole log, the upper one the greatest mean over "
        f"{traffic.peak_span_s:,.0f} s.",
        pd.DataFrame(rows),
        _draw,
    )


def _draw(table: pd.DataFrame) -> go.Figure:
    rows = to_rows(table)
    hours = [row["duration_s"] / 3600 for row in rows]
    fig = go.Figure()
    fig.add_bar(
        x=[row["from_h"] + hour / 2 for row, hour in zip(rows, hours, strict=True)],
        y=[row["requests_per_s"] for row in rows],
        width=[0.92 * hour for hour in hours],
        marker={"color": faded(ACCENT, 0.75)},
        hovertext=[_hover(row) for row in rows],
        hoverinfo="text",
        showlegend=False,
    )
    for row in rows[:1]:
        _add_line(fig, row["mean_requests_per_s"], "mean", INK)
        _add_line(fig, row["peak_requests_per_s"], "peak", _PEAK)
    styled(fig, height=240, x="Hours since the first request", y="Requests a second")
    most = max((row["peak_requests_per_s"] for row in rows), default=1.0)
    fig.update_yaxes(range=[0, 1.18 * most])
    # One bar alone would be drawn with an hour before and an hour after it.
    end_h = sum(hours)
    fig.update_xaxes(range=[0, end_h] if end_h else None, showgrid=False)
    return fig


def _hover(row: Row) -> str:
    return (
        f"<b>{units.significant(row['requests_per_s'])} requests a second</b><br>"
        f"over {units.duration(row['duration_s'])} from hour {row['from_h']:g}"
    )


def _add_line(fig: go.Figure, rate_per_s: float, name: str, color: str) -> None:
    """A line across the hours, with its number above it at the right."""
    line = {"color": color, "width": 1.3, "dash": "4px,3px"}
    fig.add_shape(type="line", xref="x domain", x0=0, x1=1, y0=rate_per_s, y1=rate_per_s, line=line)
    fig.add_annotation(
        text=f"{name} {units.significant(rate_per_s)}/s", xref="x domain", x=1, xanchor="right",
        y=rate_per_s, yanchor="bottom", showarrow=False, font={"size": 12, "color": color},
    )  # fmt: skip
