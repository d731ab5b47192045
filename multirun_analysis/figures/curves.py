"""Curves over time: the power of a run in its stages, and the training loss."""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics.quantity import MEASURED
from multirun_analysis.figures.looks import Look, look_of, looks
from multirun_analysis.figures.marks import (
    coordinates,
    first_of_each,
    legend_px,
    say_left_out,
    thin,
)
from multirun_analysis.figures.palette import MUTED, faded, stage_words, styled
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.repayment import held_out_curves
from multirun_analysis.values import units
from multirun_analysis.values.order import by_paradigm
from multirun_analysis.values.rows import Row, distinct_students, to_rows

MAX_POINTS = 12_000
"""Points of all lines of one figure together; no line has fewer than 50 of its own."""

LEGEND_LETTERS = 110
"""Letters of a row of a legend, its lines and gaps included, on a page of usual width."""


def loss_curves_table(
    train: pd.DataFrame, runs: pd.DataFrame, *, term: str = "loss"
) -> pd.DataFrame:
    """One term of the loss of each distinct student, by split, step and target tokens."""
    columns = ["run", "label", "group", "split", "step", "tokens", term]
    every = _term_rows(train, runs, term)
    if not every:
        return pd.DataFrame(columns=columns)
    table: Any = pd.concat([rows for _, rows in every], ignore_index=True)
    names = {run["run"]: run for run, _ in every}
    table["split"] = table["split"].fillna("train") if "split" in table else "train"
    for column in ("label", "group"):
        table[column] = table["run"].map({name: run[column] for name, run in names.items()})
    # As `_splits` does it for one run: the last word on a step counts.
    table = table.drop_duplicates(["run", "split", "step"], keep="last")
    table["order"] = table["run"].map({name: place for place, name in enumerate(names)})
    table = table.sort_values(["order", "split", "step"], ascending=[True, False, True])
    return table[columns].reset_index(drop=True)


def _term_rows(train: pd.DataFrame, runs: pd.DataFrame, term: str) -> list[tuple[Row, Any]]:
    """Students that have the term, in the palette's order, with their rows of it."""
    students = {run["run"]: run for run in distinct_students(runs)}
    if term not in train:
        return []
    table: Any = train.loc[train["run"].isin(list(students)) & train[term].notna()]
    found = dict(list(table.groupby("run")))
    ordered = by_paradigm([students[name] for name in found])
    return [(run, found[run["run"]]) for _, rows in ordered for run in rows]


def _legend(run: Row, look: Look, named: set[str], *, held_out: bool = False) -> dict[str, Any]:
    """Name and group of a line in the legend, where each setting stands once."""
    name = escape(look.name)
    is_first = name not in named
    named.add(name)
    more = ", held out" if held_out else ""
    meta = {"run": run["run"]}
    return {"name": name + more, "legendgroup": name, "showlegend": is_first, "meta": meta}


def loss_curves(train: pd.DataFrame, runs: pd.DataFrame, *, term: str = "loss") -> go.Figure:
    """One term of the training loss over target tokens, a line for each distinct student.

    Colour and legend tell settings apart. Where the run read it on held-out rows too, those
    readings are a dotted line with marks. Of more than MAX_LINES students one of each setting is
    drawn before further seeds.
    """
    every = _term_rows(train, runs, term)
    names = {run["run"] for run in first_of_each([run for run, _ in every])}
    drawn = [(run, rows) for run, rows in every if run["run"] in names]
    most = max((float(rows["tokens"].max()) for _, rows in drawn), default=1.0)
    factor, prefix = units.prefix(most)
    count = {"": "number", "k": "thousand", "M": "million", "G": "billion"}[prefix]
    fig = go.Figure()
    named: set[str] = set()
    known_looks = looks(to_rows(runs))
    for run, rows in drawn:
        label = escape(run["label"]).replace("{", "(").replace("}", ")")
        look = look_of(run, known_looks)
        for split, curve in _splits(rows):
            held_out = split == "heldout"
            where = ", held out" if held_out else ""
            # Many lines need fewer points each: the page has a limit, and the screen too.
            curve = curve.iloc[thin(len(curve), max(50, MAX_POINTS // len(drawn)))]
            fig.add_scatter(
                x=coordinates(curve["tokens"] / factor),
                y=coordinates(curve[term]),
                mode="lines+markers" if held_out else "lines",
                **_legend(run, look, named, held_out=held_out),
                line={
                    "color": faded(look.color, 0.85),
                    "width": 1.4,
                    "dash": "dot" if held_out else "solid",
                },
                hovertemplate=f"<b>{label}</b>{where}<br>%{{y:.4g}} at %{{x:.4g}} {count}"
                "<extra></extra>",
            )
    traces: Any = fig.data
    if any(trace.name.endswith(", held out") for trace in traces) and len(traces) > 2:
        line = {"color": MUTED, "width": 1.4, "dash": "dot"}
        fig.add_scatter(x=[None], y=[None], mode="lines+markers", name="held out", line=line)
    unit = "nats per target token" if term.endswith("_nats") else "in the term's own unit"
    unit = "weighted sum of its terms" if term == "loss" else unit
    title = f"{escape(stage_words(term.removesuffix('_nats')).capitalize())}, {unit}"
    say_left_out(fig, len(every) - len(drawn), "runs")
    return styled(
        fig,
        height=400 + legend_px(fig, letters=LEGEND_LETTERS),
        x=f"Target tokens, {count}",
        y=title,
    )


def quality_against_joules_table(train: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Held-out bits per byte of each distinct student by the joules drawn so far."""
    rows = [
        {key: run[key] for key in ("run", "label", "group")}
        | {"energy_j": joules, "bits_per_byte": value}
        | {"energy_class": energy_class(run["own_energy_quality"])}
        for run, curve in _held_out(train, runs)
        for joules, value in curve
    ]
    columns = ["run", "label", "group", "energy_j", "bits_per_byte", "energy_class"]
    return pd.DataFrame(rows, columns=columns)


def _held_out(
    train: pd.DataFrame, runs: pd.DataFrame
) -> list[tuple[Row, list[tuple[float, float]]]]:
    curves = held_out_curves(train)
    students = [run for run in distinct_students(runs) if run["run"] in curves]
    return [(run, curves[run["run"]]) for _, rows in by_paradigm(students) for run in rows]


def quality_against_joules(train: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """Held-out bits per byte over the joules drawn so far, a line for each distinct student.

    Of more than MAX_LINES students one of each setting is drawn before further seeds.
    """
    every = _held_out(train, runs)
    names = {run["run"] for run in first_of_each([run for run, _ in every])}
    drawn = [(run, curve) for run, curve in every if run["run"] in names]
    factor, prefix = units.prefix(max((joules for _, c in drawn for joules, _ in c), default=1.0))
    fig = go.Figure()
    named: set[str] = set()
    known_looks = looks(to_rows(runs))
    for run, curve in drawn:
        label = escape(run["label"]).replace("{", "(").replace("}", ")")
        look = look_of(run, known_looks)
        modelled = run["own_energy_quality"] not in MEASURED
        points = [curve[i] for i in thin(len(curve), max(50, MAX_POINTS // len(drawn)))]
        fig.add_scatter(
            x=coordinates([joules / factor for joules, _ in points]),
            y=coordinates([value for _, value in points]),
            mode="lines+markers",
            **_legend(run, look, named),
            marker={"size": 6, "symbol": "circle-open" if modelled else "circle"},
            line={
                "color": faded(look.color, 0.85),
                "width": 1.4,
                "dash": "dot" if modelled else "solid",
            },
            hovertemplate=f"<b>{label}</b><br>%{{y:.4g}} bits per byte at %{{x:.4g}} {prefix}J"
            "<extra></extra>",
        )
    x = f"Energy drawn so far, loading included, {prefix}J"
    say_left_out(fig, len(every) - len(drawn), "runs")
    return styled(
        fig,
        height=400 + legend_px(fig, letters=LEGEND_LETTERS),
        x=x,
        y="Held-out text, bits per byte",
    )


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
            curves.append((name, curve))
    return curves


def loss_terms(train: pd.DataFrame) -> list[str]:
    """Columns of `train` that are losses: the whole first, then its terms."""
    other = {"run", "step", "tokens", "seconds", "attempt", "learning_rate", "split"}
    unit = ("_s", "_j", "_w", "_gib", "_norm", "_share", "_pct", "_tokens")
    terms = [str(name) for name in train.columns[train.notna().any()] if name not in other]
    terms = [term for term in terms if not term.endswith(unit)]
    return sorted(terms, key=lambda term: (term != "loss", term))
