"""Curves over time: the power of a run in its stages, and the training loss."""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kdwatts.metrics import MEASURED
from multirun_analysis import units
from multirun_analysis.marks import by_paradigm
from multirun_analysis.metrics import top_windows
from multirun_analysis.palette import (
    INK,
    MUTED,
    faded,
    paradigm_color,
    stage_color,
    stage_words,
    styled,
)
from multirun_analysis.repayment import held_out_curves
from multirun_analysis.rows import Row, distinct_students, grouped, to_rows

MAX_POINTS = 1200
"""Points of a run's curves; longer ones are averaged over equal spans, which keeps their energy."""

_DEVICE_COLORS = {"gpu": INK, "cpu": "#a4560a", "dram": "#5a7d2a"}


def power_over_time(telemetry: pd.DataFrame, stages: pd.DataFrame, *, run: str) -> go.Figure:
    """Power of each device of one run over its stages; attempts follow one another without the gap.

    A dotted curve is estimated from a TDP model.
    """
    ticks: Any = telemetry.loc[telemetry["run"] == run]
    windows = top_windows(to_rows(stages.loc[stages["run"] == run]))
    starts, active_s = _attempt_starts(ticks, windows)
    factor, unit = units.time_scale(active_s)
    fig = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.93, 0.07], vertical_spacing=0.03)
    _add_stages(fig, windows, starts, factor)
    devices = ticks.groupby(["device_kind", "device_index"], dropna=False) if len(ticks) else ()
    for (kind, index), rows in devices:
        power_w = rows["power_w"].fillna(rows["power_average_w"])
        if power_w.isna().all():
            continue
        elapsed_s = rows["monotonic_s"] - rows["attempt"].astype(int).map(starts)
        curve = _thinned(elapsed_s, power_w, max(200, MAX_POINTS // len(devices)))
        modelled = bool((rows["method"] == "tdp_model").any())
        position = 0 if pd.isna(index) else int(index)
        name = escape(str(kind) if pd.isna(index) else f"{kind} {position}")
        name += " (estimated from TDP)" if modelled else ""
        color = _DEVICE_COLORS.get(kind, MUTED)
        fig.add_scatter(
            x=(curve.index.to_series() / factor).astype("float32"),
            y=curve.astype("float32"),
            mode="lines",
            name=name,
            line={
                "color": faded(color, max(0.4, 1 - 0.15 * position)),
                "width": 1.4,
                "dash": "dot" if modelled else "solid",
            },
            hovertemplate=f"{name}: %{{y:.4g}} W at %{{x:.4g}} {unit}<extra></extra>",
        )
    styled(fig, height=430)
    fig.update_layout(barmode="overlay", bargap=0)
    fig.update_xaxes(title_text=f"Time the run was active, {unit}", row=2, col=1)
    fig.update_xaxes(ticks="", showticklabels=False, row=1, col=1)
    fig.update_yaxes(title_text="Power, W", rangemode="tozero", row=1, col=1)
    fig.update_yaxes(visible=False, fixedrange=True, row=2, col=1)
    return fig


def loss_curves(train: pd.DataFrame, runs: pd.DataFrame, *, term: str = "loss") -> go.Figure:
    """One term of the training loss over target tokens, a line for each distinct student.

    Where the run read it on held-out rows too, those readings are a dotted line with marks.
    """
    students = {run["run"]: run for run in distinct_students(runs)}
    table: Any = train.loc[train["run"].isin(list(students)) & train[term].notna()]
    factor, prefix = units.prefix(float(table["tokens"].max()) if len(table) else 1.0)
    count = {"": "number", "k": "thousand", "M": "million", "G": "billion"}[prefix]
    curves = dict(list(table.groupby("run")))
    fig = go.Figure()
    for paradigm, rows in by_paradigm([students[name] for name in curves]):
        for run in rows:
            name = escape(run["label"]).replace("{", "(").replace("}", ")")
            for split, curve in _splits(curves[run["run"]]):
                held_out = split == "heldout"
                where = ", held out" if held_out else ""
                fig.add_scatter(
                    x=curve["tokens"] / factor,
                    y=curve[term],
                    mode="lines+markers" if held_out else "lines",
                    name=escape(paradigm) + where,
                    legendgroup=escape(paradigm) + where,
                    showlegend=run is rows[0],
                    line={
                        "color": faded(paradigm_color(paradigm), 0.8),
                        "width": 1.4,
                        "dash": "dot" if held_out else "solid",
                    },
                    hovertemplate=f"<b>{name}</b>{where}<br>%{{y:.4g}} at %{{x:.4g}} {count}"
                    "<extra></extra>",
                )
    unit = "nats per target token" if term.endswith("_nats") else "in the term's own unit"
    unit = "weighted sum of its terms" if term == "loss" else unit
    title = f"{escape(stage_words(term.removesuffix('_nats')).capitalize())}, {unit}"
    return styled(fig, height=400, x=f"Target tokens, {count}", y=title)


def quality_against_joules(train: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """Held-out bits per byte over the joules drawn so far, a line for each distinct student."""
    students = {run["run"]: run for run in distinct_students(runs)}
    curves = {run: curve for run, curve in held_out_curves(train).items() if run in students}
    most_j = max((joules for curve in curves.values() for joules, _ in curve), default=1.0)
    factor, prefix = units.prefix(most_j)
    fig = go.Figure()
    for paradigm, rows in by_paradigm([students[name] for name in curves]):
        for run in rows:
            name = escape(run["label"]).replace("{", "(").replace("}", ")")
            modelled = run["own_energy_quality"] not in MEASURED
            fig.add_scatter(
                x=[joules / factor for joules, _ in curves[run["run"]]],
                y=[value for _, value in curves[run["run"]]],
                mode="lines+markers",
                name=escape(paradigm),
                legendgroup=escape(paradigm),
                showlegend=run is rows[0],
                marker={"size": 6, "symbol": "circle-open" if modelled else "circle"},
                line={"color": faded(paradigm_color(paradigm), 0.8), "width": 1.4},
                hovertemplate=f"<b>{name}</b><br>%{{y:.4g}} bits per byte at %{{x:.4g}} {prefix}J"
                "<extra></extra>",
            )
    x = f"Energy drawn so far, loading included, {prefix}J"
    return styled(fig, height=400, x=x, y="Held-out text, bits per byte")


def _splits(rows: Any) -> list[tuple[str, Any]]:
    """The rows of one run read on training data, then those on held-out rows, each in order.

    Rows of older runs do not say, and were all read on training data.
    """
    split = rows["split"].fillna("train") if "split" in rows else pd.Series("train", rows.index)
    curves = []
    for name in ("train", "heldout"):
        # A resumed attempt repeats the steps since its checkpoint: the last word counts.
        curve = rows[split == name].drop_duplicates("step", keep="last").sort_values("step")
        if len(curve):
            curves.append((name, curve.iloc[:: max(1, len(curve) // 600)]))
    return curves


def loss_terms(train: pd.DataFrame) -> list[str]:
    """Columns of `train` that are losses: the whole first, then its terms."""
    other = {"run", "step", "tokens", "seconds", "attempt", "learning_rate", "split"}
    unit = ("_s", "_j", "_w", "_gib", "_norm", "_share", "_pct", "_tokens")
    terms = [str(name) for name in train.columns[train.notna().any()] if name not in other]
    terms = [term for term in terms if not term.endswith(unit)]
    return sorted(terms, key=lambda term: (term != "loss", term))


def _add_stages(
    fig: go.Figure, windows: list[Row], starts: dict[int, float], factor: float
) -> None:
    """Adds bands behind the curves, and a strip below them that explains itself on hover."""
    for stage, rows in grouped(windows, "stage").items():
        left = [(row["start_s"] - starts[row["attempt"]]) / factor for row in rows]
        width = [row["duration_s"] / factor for row in rows]
        color = stage_color(stage)
        fig.add_bar(
            base=left,
            x=width,
            y=["stage"] * len(rows),
            orientation="h",
            width=1,
            name=escape(stage_words(stage)),
            marker={"color": color, "line": {"color": "#fff", "width": 0.5}},
            hovertext=[
                f"<b>{escape(stage_words(stage))}</b>: {escape(row['outcome'])}, "
                f"attempt {row['attempt']}<br>{units.duration(row['duration_s'])}, "
                f"{units.energy(row['energy_j'])} ({escape(row['energy_quality'])})"
                for row in rows
            ],
            hoverinfo="text",
            xaxis="x2",
            yaxis="y2",
        )
        for x0, span in zip(left, width, strict=True):
            band: Any = {"fillcolor": color, "opacity": 0.15, "line_width": 0, "layer": "below"}
            fig.add_shape(
                type="rect", x0=x0, x1=x0 + span, y0=0, y1=1, xref="x", yref="y domain", **band
            )


def _attempt_starts(ticks: Any, windows: list[Row]) -> tuple[dict[int, float], float]:
    """Monotonic second at which the active time of each attempt is 0, and the whole active time.

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
    return starts, active_s


def _thinned(elapsed_s: Any, power_w: Any, num_points: int) -> Any:
    """Power by elapsed seconds, averaged over equal spans where there are too many samples."""
    curve: Any = pd.Series(power_w.to_numpy("float64"), index=elapsed_s.to_numpy("float64"))
    curve = curve.sort_index()
    if len(curve) <= num_points:
        return curve
    first_s = curve.index[0]
    span_s = (curve.index[-1] - first_s) / num_points
    spans = (curve.index.to_numpy() - first_s) // span_s
    means = curve.groupby(spans.clip(0, num_points - 1)).mean()
    means.index = first_s + (means.index + 0.5) * span_s
    return means
