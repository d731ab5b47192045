"""What the devices of one run did over time, above its stages."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.marks import braceless, coordinates, dash, legend_once, points, thin
from multirun_analysis.figures.palette import INK, MUTED, faded, stage_color, stage_words, styled
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.joules_so_far import cumulative_energy_j, has_energy
from multirun_analysis.statistics.seeds import top_windows
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, grouped, to_rows

MAX_POINTS = 1200
"""Points of one panel; longer curves are averaged over equal spans, which keeps their energy."""

_DEVICE_COLORS = {"cpu": "#a4560a", "dram": "#5a7d2a", "host": "#7b5ea7"}

_NODE_COLORS = (INK, "#0072b2", "#a3475c", "#5b6f1f")
"""Of the GPUs of each node, in turn."""

_DEVICE_DASHES = {"cpu": "longdash", "dram": "dashdot", "host": "longdashdot"}

_PANELS = {
    "power_w": "Power, W",
    "util_pct": "Util., %",
    "temperature_c": "Temp., °C",
    "energy_j": "Energy, {}J",
}
"""Column to the title of its panel, from above."""


def devices_over_time(ticks: pd.DataFrame, stages: pd.DataFrame, *, run: str) -> Exhibit:
    """What the devices of one run did over time. `ticks` are its own.

    Each tick has the seconds that the run was active and the joules of its device by then. Attempts
    follow each other without the wait between them. Energies with the `method` tdp_model are
    estimated. Power is the instant one, or the average where a GPU has only that.
    """
    windows = top_windows(to_rows(stages.loc[stages["run"] == run]))
    starts_s = _attempt_starts(ticks, windows)
    spans = [
        window | {"active_s": window["start_s"] - starts_s[window["attempt"]], "strip": "stage"}
        for window in windows
    ]
    table = _table(ticks, starts_s)
    is_modelled = bool((table["method"] == "tdp_model").any())
    estimated = "Dotted curves are estimated, not measured. " if is_modelled else ""
    return Exhibit(
        "Devices over time",
        f"Each curve is one device of one run. Colours behind it are the stages. {estimated}Energy "
        "is that of the energy counter, where there is one. For long runs each point is a mean "
        "over a span of time.",
        table,
        partial(_draw, spans=spans, run=run),
    )


def _table(ticks: pd.DataFrame, starts_s: dict[int, float]) -> pd.DataFrame:
    columns = ["attempt", "window", *_DEVICE, "host", "method", "util_pct"]
    # The ticks of a run that has none have no columns either.
    table = ticks.reindex(columns=[*columns, "temperature_c"])
    if not len(ticks):
        return table.assign(active_s=[], power_w=[], energy_j=[])
    start_s = [starts_s[int(attempt)] for attempt in ticks["attempt"]]
    elapsed_s: Any = ticks["monotonic_s"] - np.asarray(start_s)
    table.insert(0, "active_s", elapsed_s.astype("float64"))
    table["power_w"] = ticks["power_w"].fillna(ticks["power_average_w"])
    table["energy_j"] = np.nan
    for _, rows in _by_device(ticks):
        if has_energy(rows):
            table.loc[rows.index, "energy_j"] = cumulative_energy_j(rows)
    return table


_DEVICE = ["node", "device_kind", "device_index"]
"""What tells devices apart: each node has a GPU 0, and a later attempt may be on another host."""


def _by_device(ticks: pd.DataFrame) -> list[tuple[Any, Any]]:
    return list(ticks.groupby(_DEVICE, dropna=False)) if len(ticks) else []


def _node_names(table: Any) -> dict[int, str]:
    """Node to its host, or to its number where its attempts had several. Empty for one node."""
    pairs = table[["node", "host"]].dropna().drop_duplicates()
    hosts: dict[int, list[str]] = {}
    for node, host in pairs.itertuples(index=False):
        hosts.setdefault(int(node), []).append(str(host))
    if len(hosts) < 2:
        return {}
    return {node: of[0] if len(of) == 1 else f"node {node}" for node, of in hosts.items()}


def _draw(table: Any, spans: list[Row], run: str) -> go.Figure:
    """Power, utilisation, temperature and joules so far of each device, above the stages.

    A device is in a panel if it has the column, and there is no panel that no device is in. A
    dotted curve is estimated from a TDP model.
    """
    ends_s = [table["active_s"].max()] if len(table) else []
    ends_s += [span["active_s"] + span["duration_s"] for span in spans]
    factor, unit = units.time_scale(max(ends_s, default=0.0))
    panels = [column for column in _PANELS if table[column].notna().any()] or ["power_w"]
    heights = [1.0 if column in ("power_w", "energy_j") else 0.7 for column in panels]
    fig = make_subplots(
        len(panels) + 1, 1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[*heights, 0.1]
    )
    _add_stages(fig, spans, factor, num_panels=len(panels))
    most_j = float(table["energy_j"].max()) if table["energy_j"].notna().any() else 1.0
    joules, prefix = units.prefix(most_j)
    names = _node_names(table)
    for place, column in enumerate(panels, start=1):
        devices = [(key, rows) for key, rows in _by_device(table) if rows[column].notna().any()]
        for (node, kind, index), rows in devices:
            scale = joules if column == "energy_j" else 1.0
            num_points = max(150, MAX_POINTS // len(devices))
            curve = _thinned(rows["active_s"], rows[column], num_points, whole=column == "energy_j")
            look = _device_look(kind, index, rows, node=int(node), host=names.get(int(node)))
            trace = _device_trace(look, curve, unit, factor=factor, scale=scale)
            fig.add_scatter(**trace, meta={"run": run}, row=place, col=1)
        title = _PANELS[column].format(prefix)
        fig.update_yaxes(title_text=title, rangemode="tozero", row=place, col=1)
    styled(legend_once(fig), height=170 + round(150 * sum(heights)))
    fig.update_layout(barmode="overlay", bargap=0, hovermode="closest")
    fig.update_xaxes(ticks="", showticklabels=False)
    last: Any = {"row": len(panels) + 1, "col": 1}
    title = f"Time the run was active, {unit}"
    fig.update_xaxes(ticks="outside", showticklabels=True, title_text=title, **last)
    fig.update_yaxes(nticks=5)
    return fig.update_yaxes(visible=False, fixedrange=True, **last)


def _device_look(
    kind: str, index: Any, rows: pd.DataFrame, *, node: int, host: str | None
) -> dict[str, Any]:
    """Name and line of a device; with its host where a run has several nodes."""
    modelled = bool((rows["method"] == "tdp_model").any())
    place = 0 if pd.isna(index) else int(index)
    name = escape(str(kind) if pd.isna(index) else f"{kind} {place}")
    name += f" · {escape(host)}" if host else ""
    name += " (estimated from TDP)" if modelled else ""
    color = _DEVICE_COLORS.get(kind, MUTED)
    if kind == "gpu":
        color = _NODE_COLORS[(node - 1) % len(_NODE_COLORS)]
    return {
        "name": name,
        "legendgroup": name,
        "line": {
            "color": faded(color, max(0.4, 1 - 0.15 * place)),
            "width": 1.4,
            "dash": dash(
                "estimated" if modelled else "measured", _DEVICE_DASHES.get(kind, "solid")
            ),
        },
    }


def _device_trace(
    look: dict[str, Any], curve: Any, unit: str, *, factor: float, scale: float
) -> dict[str, Any]:
    return look | {
        "x": coordinates(curve.index.to_numpy() / factor),
        "y": coordinates(curve.to_numpy() / scale),
        "mode": "lines",
        "hovertemplate": f"{braceless(look['name'])}: %{{y:.4g}} at %{{x:.4g}} {unit}"
        "<extra></extra>",
    }


def _add_stages(fig: go.Figure, spans: list[Row], factor: float, *, num_panels: int) -> None:
    """Adds bands behind the curves, and a strip below them that explains itself on hover."""
    strip = num_panels + 1
    for stage, rows in grouped(spans, "stage").items():
        color = stage_color(stage)
        fig.add_bar(
            **points(rows, x="duration_s", x_factor=factor, y="strip", of="run", text=_stage_text),
            base=[row["active_s"] / factor for row in rows],
            orientation="h",
            width=1,
            name=escape(stage_words(stage)),
            marker={"color": color, "line": {"color": "#fff", "width": 0.5}},
            row=strip,
            col=1,
        )
        band: Any = {"fillcolor": color, "opacity": 0.15, "line_width": 0, "layer": "below"}
        for row in rows:
            x0, span = row["active_s"] / factor, row["duration_s"] / factor
            for panel in range(1, strip):
                number = "" if panel == 1 else str(panel)
                fig.add_shape(
                    type="rect", x0=x0, x1=x0 + span, y0=0, y1=1,
                    xref=f"x{number}", yref=f"y{number} domain", **band,
                )  # fmt: skip


def _stage_text(row: Row) -> str:
    return (
        f"<b>{escape(stage_words(row['stage']))}</b>: {escape(row['outcome'])}, "
        f"attempt {row['attempt']}<br>{units.duration(row['duration_s'])}, "
        f"{units.energy(row['energy_j'])} ({escape(row['energy_quality'])})"
    )


def _attempt_starts(ticks: Any, windows: list[Row]) -> dict[int, float]:
    """Monotonic second at which the active time of each attempt is 0.

    Monotonic clocks of two attempts have nothing in common, so attempts are laid end to end.
    """
    moments: dict[int, list[float]] = {}
    for window in windows:
        ends = (window["start_s"], window["start_s"] + window["duration_s"])
        moments.setdefault(window["attempt"], []).extend(ends)
    for attempt, seconds in ticks.groupby("attempt")["monotonic_s"] if len(ticks) else ():
        moments.setdefault(int(attempt), []).extend((seconds.min(), seconds.max()))
    starts, active_s = {}, 0.0
    for attempt, found in sorted(moments.items()):
        starts[attempt] = min(found) - active_s
        active_s += max(found) - min(found)
    return starts


def _thinned(elapsed_s: Any, values: Any, num_points: int, *, whole: bool) -> Any:
    """Values by elapsed seconds, averaged over equal spans where there are too many.

    Of a `whole`, such as joules so far, single points are kept instead, the last one among them.
    """
    curve: Any = pd.Series(values.to_numpy("float64"), index=elapsed_s.to_numpy("float64"))
    curve = curve.dropna().sort_index()
    if len(curve) <= num_points:
        return curve
    if whole:
        return curve.iloc[thin(len(curve), num_points)]
    first_s = curve.index[0]
    span_s = (curve.index[-1] - first_s) / num_points
    spans = (curve.index.to_numpy() - first_s) // span_s
    means = curve.groupby(spans.clip(0, num_points - 1)).mean()
    means.index = first_s + (means.index + 0.5) * span_s
    return means
