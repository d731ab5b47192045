"""What students learn: the training loss over tokens, and held-out text over joules."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from multirun_analysis.figures.exhibit import NOT_MEASURED, Exhibit
from multirun_analysis.figures.looks import Look, look_by_group
from multirun_analysis.figures.marks import (
    MAX_MARKS,
    coordinates,
    dash,
    first_of_each,
    in_template,
    legend_once,
    legend_px,
    symbol,
    thin,
    with_left_out,
)
from multirun_analysis.figures.palette import MUTED, faded, stage_words, styled
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.repayment import held_out_curves
from multirun_analysis.values import units
from multirun_analysis.values.order import by_paradigm
from multirun_analysis.values.rows import Row, distinct_students, to_rows

MAX_POINTS = 12_000
"""Points of all lines of one figure together; no line has fewer than 50 of its own."""

LEGEND_LETTERS = 110
"""Letters of a row of a legend, its lines and gaps included, on a page of usual width."""


def loss_curves(train: pd.DataFrame, runs: pd.DataFrame, *, term: str = "loss") -> Exhibit:
    """One term of the loss of each distinct student, by split, step and target tokens."""
    return Exhibit(
        "Loss over training",
        "One line for each student. The loss of each paradigm is a sum of different terms. Compare "
        "one term, not the sum.",
        _loss_table(train, runs, term),
        partial(_draw_loss, runs=runs, term=term),
    )


def _loss_table(train: pd.DataFrame, runs: pd.DataFrame, term: str) -> pd.DataFrame:
    columns = ["run", "label", "group", "split", "step", "tokens", term]
    students = _in_order(sorted(distinct_students(runs), key=lambda run: run["run"]))
    about = pd.DataFrame(students, columns=["run", "label", "group"])
    about["order"] = range(len(about))
    if term not in train or "run" not in train:
        return pd.DataFrame(columns=columns)
    table: Any = train.loc[train[term].notna()].merge(about, on="run")
    # Rows of older runs do not say, and were all read on training data.
    table["split"] = table["split"].fillna("train") if "split" in table else "train"
    # A resumed attempt repeats the steps since its checkpoint: the last word counts.
    table = table.drop_duplicates(["run", "split", "step"], keep="last")
    table = table.sort_values(["order", "split", "step"], ascending=[True, False, True])
    return table[columns].reset_index(drop=True)


def _in_order(students: list[Row]) -> list[Row]:
    return [run for _, rows in by_paradigm(students) for run in rows]


def _draw_loss(table: pd.DataFrame, runs: pd.DataFrame, term: str) -> go.Figure:
    """A line over target tokens for each student.

    Colour and legend tell settings apart. Where the run read it on held-out rows too, those
    readings are a dotted line with marks.
    """
    lines, left_out = _lines(table)
    factor, prefix = units.prefix(_most(lines, "tokens"))
    count = {"": "number", "k": "thousand", "M": "million", "G": "billion"}[prefix]
    fig = go.Figure()
    own = look_by_group(to_rows(runs))
    for run, line in lines:
        for split, part in line.groupby("split", sort=False):
            is_held_out = split == "heldout"
            where = ", held out" if is_held_out else ""
            points = _thinned(part, len(lines))
            fig.add_scatter(
                x=coordinates(points["tokens"] / factor),
                y=coordinates(points[term]),
                mode="lines+markers",
                **_legend(run, own, more=where),
                marker=_marker(own[run["group"]], most=None if is_held_out else MAX_MARKS),
                line=_stroke(own[run["group"]], "dot" if is_held_out else own[run["group"]].dash),
                hovertemplate=f"<b>{in_template(run['label'])}</b>{where}<br>"
                f"%{{y:.4g}} at %{{x:.4g}} {count}<extra></extra>",
            )
    traces: Any = fig.data
    if any(trace.name.endswith(", held out") for trace in traces) and len(traces) > 2:
        stroke = {"color": MUTED, "width": 1.4, "dash": "dot"}
        fig.add_scatter(x=[None], y=[None], mode="lines+markers", name="held out", line=stroke)
    unit = "nats per target token" if term.endswith("_nats") else "in the term's own unit"
    unit = "weighted sum of its terms" if term == "loss" else unit
    title = f"{escape(stage_words(term.removesuffix('_nats')).capitalize())}, {unit}"
    return _finished(fig, left_out, x=f"Target tokens, {count}", y=title)


def quality_against_joules(train: pd.DataFrame, runs: pd.DataFrame) -> Exhibit:
    """Held-out bits per byte of each distinct student by the joules drawn so far."""
    curves = held_out_curves(train)
    rows = [
        {key: run[key] for key in ("run", "label", "group")}
        | {"energy_j": joules, "bits_per_byte": value}
        | {"energy_class": energy_class(run["own_energy_quality"])}
        for run in _in_order(distinct_students(runs))
        for joules, value in curves.get(run["run"], [])
    ]
    columns = ["run", "label", "group", "energy_j", "bits_per_byte", "energy_class"]
    return Exhibit(
        "Held-out text against energy while training",
        "One line for each student: bits per byte on held-out text (lower is better) after so much "
        "energy. No student trains on this text. Inherited work is not included. "
        f"{NOT_MEASURED}",
        pd.DataFrame(rows, columns=columns),
        partial(_draw_quality, runs=runs),
    )


def _draw_quality(table: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """A line over the joules drawn so far for each student."""
    lines, left_out = _lines(table)
    factor, prefix = units.prefix(_most(lines, "energy_j"))
    fig = go.Figure()
    own = look_by_group(to_rows(runs))
    for run, line in lines:
        points, kind = _thinned(line, len(lines)), run["energy_class"]
        fig.add_scatter(
            x=coordinates(points["energy_j"] / factor),
            y=coordinates(points["bits_per_byte"]),
            mode="lines+markers",
            **_legend(run, own),
            marker=_marker(own[run["group"]], kind=kind),
            line=_stroke(own[run["group"]], dash(kind, own[run["group"]].dash)),
            hovertemplate=f"<b>{in_template(run['label'])}</b><br>%{{y:.4g}} bits per byte at "
            f"%{{x:.4g}} {prefix}J<extra></extra>",
        )
    x = f"Energy so far, loading included, {prefix}J"
    return _finished(fig, left_out, x=x, y="Held-out text, bits per byte")


def _lines(table: pd.DataFrame) -> tuple[list[tuple[Row, Any]], int]:
    """The first row and all rows of each run that is drawn, and how many runs are left out.

    Of more than MAX_LINES one of each setting is drawn before further seeds.
    """
    firsts = to_rows(table.drop_duplicates("run"))
    drawn, rows = first_of_each(firsts), dict(list(table.groupby("run")))
    return [(run, rows[run["run"]]) for run in drawn], len(firsts) - len(drawn)


def _thinned(line: Any, num_lines: int) -> Any:
    """Many lines need fewer points each: the page has a limit, and the screen too."""
    return line.iloc[thin(len(line), max(50, MAX_POINTS // num_lines))]


def _most(lines: list[tuple[Row, Any]], column: str) -> float:
    return max((float(line[column].max()) for _, line in lines), default=1.0)


def _legend(run: Row, own: dict[str, Look], *, more: str = "") -> dict[str, Any]:
    """Name and group of a line in the legend, where each setting stands once."""
    name = escape(own[run["group"]].name)
    return {"name": name + more, "legendgroup": name, "meta": {"run": run["run"]}}


def _marker(look: Look, *, kind: str = "measured", most: int | None = None) -> dict[str, Any]:
    """The setting's mark on its line, on at most so many of its points."""
    return {"size": 6, "symbol": symbol(look.shape, kind), "maxdisplayed": most or 0}


def _stroke(look: Look, dashes: str) -> dict[str, Any]:
    return {"color": faded(look.color, 0.85), "width": 1.4, "dash": dashes}


def _finished(fig: go.Figure, left_out: int, *, x: str, y: str) -> go.Figure:
    with_left_out(legend_once(fig), left_out, "runs")
    return styled(fig, height=400 + legend_px(fig, letters=LEGEND_LETTERS), x=x, y=y)


def loss_terms(train: pd.DataFrame) -> list[str]:
    """Columns of `train` that are losses: the whole loss first, then its terms."""
    other = {"run", "step", "tokens", "seconds", "attempt", "learning_rate", "split"}
    unit = ("_s", "_j", "_w", "_gib", "_norm", "_share", "_pct", "_tokens")
    terms = [str(name) for name in train.columns[train.notna().any()] if name not in other]
    terms = [term for term in terms if not term.endswith(unit)]
    return sorted(terms, key=lambda term: (term != "loss", term))
