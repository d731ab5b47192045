"""Curves over time: the power of a run in its stages, and the training loss."""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics import MEASURED
from multirun_analysis import units
from multirun_analysis.marks import by_paradigm
from multirun_analysis.palette import (
    faded,
    paradigm_color,
    stage_words,
    styled,
)
from multirun_analysis.repayment import held_out_curves
from multirun_analysis.rows import distinct_students
from multirun_analysis.timelines import devices_over_time


def power_over_time(telemetry: pd.DataFrame, stages: pd.DataFrame, *, run: str) -> go.Figure:
    """`devices_over_time` of one run of a table of many."""
    ticks: Any = telemetry.loc[telemetry["run"] == run]
    return devices_over_time(ticks, stages, run=run)


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
