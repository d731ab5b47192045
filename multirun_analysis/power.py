"""Power of a run over time, with the stages that it went through."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from multirun_analysis import units
from multirun_analysis.metrics import top_windows
from multirun_analysis.palette import INK, MUTED, stage_color, stage_words, styled

MAX_POINTS = 1200
"""Points of a run's curves; longer ones are averaged over equal spans, which keeps their energy."""

_DEVICE_COLORS = {"gpu": INK, "cpu": "#a4560a", "dram": "#5a7d2a"}


def power_over_time(telemetry: pd.DataFrame, stages: pd.DataFrame, *, run: str) -> go.Figure:
    """Power of each device of one run over its stages; attempts follow one another without the gap.

    A dotted curve is estimated from a TDP model.
    """
    ticks = telemetry[telemetry["run"] == run]
    windows = top_windows(stages)
    windows = windows[windows["run"] == run]
    starts, end_s = _attempt_starts(ticks, windows)
    factor, unit = units.time_scale(end_s)
    fig = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.92, 0.08], vertical_spacing=0.03)
    _add_stages(fig, windows, starts, factor)
    devices = (
        list(ticks.groupby(["device_kind", "device_index"], dropna=False)) if len(ticks) else []
    )
    for (kind, index), rows in devices:
        power_w = rows["power_w"].fillna(rows["power_average_w"])
        if power_w.isna().all():
            continue
        elapsed_s = rows["monotonic_s"] - rows["attempt"].astype(int).map(starts)
        points = _thinned(elapsed_s, power_w, max(200, MAX_POINTS // len(devices)))
        modelled = bool((rows["method"] == "tdp_model").any())
        position = 0 if pd.isna(index) else int(index)
        name = escape(f"{kind} {position}") + (" (estimated from TDP)" if modelled else "")
        fig.add_scatter(
            x=(points.index.to_series() / factor).astype("float32"),
            y=points.astype("float32"),
            mode="lines",
            name=name,
            line={
                "color": _DEVICE_COLORS.get(str(kind), MUTED),
                "width": 1.4,
                "dash": "dot" if modelled else "solid",
            },
            opacity=max(0.4, 1 - 0.15 * position),
            hovertemplate=f"{name}: %{{y:.4g}} W at %{{x:.4g}} {unit}<extra></extra>",
            row=1,
            col=1,
        )
    styled(fig, height=430, x="", y="")
    fig.update_layout(barmode="overlay", bargap=0)
    fig.update_xaxes(title_text=f"Time the run was active, {unit}", row=2, col=1)
    fig.update_xaxes(ticks="", showticklabels=False, row=1, col=1)
    fig.update_yaxes(title_text="Power, W", rangemode="tozero", row=1, col=1)
    fig.update_yaxes(visible=False, fixedrange=True, row=2, col=1)
    return fig


def _add_stages(
    fig: go.Figure, windows: pd.DataFrame, starts: Mapping[int, float], factor: float
) -> None:
    """Adds a band behind the curves and a strip below them, which hovers and explains itself."""
    for stage, rows in windows.groupby("stage", sort=False):
        left = (rows["start_s"] - rows["attempt"].astype(int).map(starts)) / factor
        width = rows["duration_s"] / factor
        color = stage_color(stage)
        fig.add_bar(
            base=left,
            x=width,
            y=["stage"] * len(rows),
            orientation="h",
            width=1,
            name=escape(stage_words(stage)),
            marker={"color": color, "line": {"color": "white", "width": 0.5}},
            hovertext=[
                f"<b>{escape(stage_words(stage))}</b>: {escape(row.outcome)}, attempt {row.attempt}"
                f"<br>{units.duration(row.duration_s)}, {units.energy(row.energy_j)} "
                f"({escape(row.energy_quality)})"
                for row in rows.itertuples()
            ],
            hoverinfo="text",
            row=2,
            col=1,
        )
        for x0, x1 in zip(left, left + width, strict=True):
            fig.add_vrect(
                x0, x1, fillcolor=color, opacity=0.15, line_width=0, layer="below", row=1, col=1
            )


def _attempt_starts(ticks: pd.DataFrame, windows: pd.DataFrame) -> tuple[dict[int, float], float]:
    """Monotonic second at which the active time of each attempt is 0, and the whole active time.

    Monotonic clocks of two attempts have nothing in common, so attempts are laid end to end.
    """
    moments = [
        table[["attempt"]].assign(first_s=first_s, last_s=last_s)
        for table, first_s, last_s in (
            (windows, windows["start_s"], windows["start_s"] + windows["duration_s"]),
            (ticks, ticks.get("monotonic_s"), ticks.get("monotonic_s")),
        )
        if len(table)
    ]
    starts: dict[int, float] = {}
    active_s = 0.0
    for attempt, rows in pd.concat(moments).groupby("attempt") if moments else ():
        starts[int(attempt)] = rows["first_s"].min() - active_s
        active_s += rows["last_s"].max() - rows["first_s"].min()
    return starts, active_s


def _thinned(elapsed_s: pd.Series, power_w: pd.Series, num_points: int) -> pd.Series:
    """Power by elapsed seconds, averaged over equal spans where there are too many samples."""
    curve = pd.Series(power_w.to_numpy("float64"), index=elapsed_s.to_numpy("float64")).sort_index()
    if len(curve) <= num_points:
        return curve
    span_s = (curve.index[-1] - curve.index[0]) / num_points
    bins = ((curve.index - curve.index[0]) // span_s).clip(0, num_points - 1)
    means = curve.groupby(bins).mean()
    means.index = curve.index[0] + (means.index + 0.5) * span_s
    return means
