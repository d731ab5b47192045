"""What nodes drew while they waited for a stage that one rank builds alone."""

from __future__ import annotations

from functools import partial

import pandas as pd
import plotly.graph_objects as go

from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.marks import MAX_ROWS, error_bars, in_rows, points
from multirun_analysis.figures.palette import INK, stage_color, stage_words
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.seeds import top_windows
from multirun_analysis.statistics.waiting import Waiting, waiting_in
from multirun_analysis.values import units
from multirun_analysis.values.order import in_order
from multirun_analysis.values.rows import Row, grouped, known, to_rows

ALL_STAGES = "all_stages"
"""Stands in the column `stage` where a row is about a whole run."""

_COLUMNS = [
    *("run", "group", "label", "setting", "stage", "num_nodes", "energy_j", "quality"),
    *("waiting_energy_j", "waiting_half_width_j", "share_pct", "share_low_pct", "share_high_pct"),
]


def waiting_nodes(runs: pd.DataFrame, stages: pd.DataFrame) -> Exhibit:
    """Joules of waiting nodes of each run on several, stage by stage and for all stages together.

    Shares are of the joules of the run's windows that closed, over its attempts: what a killed
    attempt drew is in neither sum. Empty without such a run.
    """
    return Exhibit(
        "Nodes that waited",
        "Some stages are built by one rank alone, and the other nodes of the run wait for it. Each "
        "bar is one run on several nodes: the joules of the nodes that waited, as a share of all "
        "joules of the run. What a killed attempt drew is in neither. The line at its end "
        "is the 95 % interval of their sum.",
        _table(runs, stages),
        partial(_draw, runs=runs),
    )


def _table(runs: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    windows = grouped(top_windows(to_rows(stages)), "run")
    found = []
    for run in in_order(to_rows(runs)):
        own = windows.get(run["run"], [])
        if not any(window["num_nodes"] > 1 for window in own):
            continue
        for stage, rows in ({ALL_STAGES: own} | grouped(own, "stage")).items():
            waited = waiting_in(rows, own)
            if stage == ALL_STAGES or waited.energy.value != 0:
                found.append(_row(run, stage, rows, waited))
    return pd.DataFrame(found, columns=_COLUMNS)


def _row(run: Row, stage: str, rows: list[Row], waited: Waiting) -> Row:
    ends = (waited.share.value, waited.share.low, waited.share.high)
    names = ("share_pct", "share_low_pct", "share_high_pct")
    return {
        **{key: run[key] for key in ("run", "group", "label")},
        "setting": run["group_label"],
        "stage": stage,
        "num_nodes": max(row["num_nodes"] for row in rows),
        "energy_j": waited.of_rows.value,
        "quality": waited.energy.quality,
        "waiting_energy_j": waited.energy.value,
        "waiting_half_width_j": waited.energy.half_width,
        **{name: None if end is None else 100 * end for name, end in zip(names, ends, strict=True)},
    }


def _draw(table: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """A bar for each run, of a piece for each stage; the interval is that of the whole bar."""
    rows = known(to_rows(table), "share_pct")
    names = list(dict.fromkeys(row["run"] for row in rows))
    shown = set(names[:MAX_ROWS])
    rows = [row for row in rows if row["run"] in shown]
    fig = go.Figure()
    for stage, parts in grouped(rows, "stage").items():
        if stage != ALL_STAGES:
            fig.add_bar(
                **points(parts, x="share_pct", y="label", of="run", text=_words),
                orientation="h",
                name=escape(stage_words(stage)),
                marker={"color": stage_color(stage), "line": {"color": "#fff", "width": 0.5}},
            )
    totals = [row | _arms(row) for row in rows if row["stage"] == ALL_STAGES]
    fig.add_scatter(
        **points(totals, x="share_pct", y="label", of="run", text=_words),
        mode="markers+text",
        name="all stages, with 95 % interval",
        text=[f"  {units.significant(row['share_pct'], 2)} %" for row in totals],
        textposition="top center",
        textfont={"size": 11},
        cliponaxis=False,
        marker={"color": INK, "size": 5},
        error_x=error_bars(totals, "up", "down", color=INK, thickness=1.3, width=4),
    )
    fig.update_layout(barmode="stack", legend_traceorder="normal")
    return in_rows(
        fig,
        [row["label"] for row in totals],
        left_out=len(names) - len(shown),
        what="runs",
        height=150 + 54 * len(totals),
        x="Joules of nodes that waited, % of the run's",
        y="Run",
    )


def _arms(row: Row) -> Row:
    low, high = row["share_low_pct"], row["share_high_pct"]
    return {
        "down": None if low is None else row["share_pct"] - low,
        "up": None if high is None else high - row["share_pct"],
    }


def _words(row: Row) -> str:
    joules = units.energy(row["waiting_energy_j"], error_j=row["waiting_half_width_j"])
    kind = escape(energy_class(row["quality"]))
    return (
        f"<b>{escape(row['label'])}</b><br>{escape(stage_words(row['stage']))}: {joules} of "
        f"waiting ({kind})<br>{_share_words(row)} of the run's joules"
    )


def _share_words(row: Row) -> str:
    ends = (row["share_pct"], row["share_low_pct"], row["share_high_pct"])
    value, _, interval = units.with_ends(*ends).partition(" (")
    return f"{value} % (95 % interval {interval[:-1]} %)" if interval else f"{value} %"


def waiting_words(table: pd.DataFrame) -> list[str]:
    """A sentence or two for each run of `waiting_nodes`: how much was waiting, and in which stages.

    They say so too where a node's joules are not known, and where none waited.
    """
    return [_run_words(rows) for rows in grouped(to_rows(table), "run").values()]


def _run_words(rows: list[Row]) -> str:
    whole = next(row for row in rows if row["stage"] == ALL_STAGES)
    parts = [row for row in rows if row["stage"] != ALL_STAGES]
    lead = f"{whole['label']}: It ran on {whole['num_nodes']} nodes."
    if not parts:
        return f"{lead} No node waited for a stage that one rank builds alone."
    if unknown := [row for row in parts if row["waiting_energy_j"] is None]:
        names = _listed([stage_words(row["stage"]) for row in unknown])
        return f"{lead} What nodes drew while they waited is not known of {names}."
    kind = energy_class(whole["quality"])
    joules = units.energy(whole["waiting_energy_j"], error_j=whole["waiting_half_width_j"])
    text = f"{lead} Nodes that waited for a stage that one rank builds alone drew {joules}"
    if whole["share_pct"] is None:
        return f"{text} ({kind}), in {_listed([stage_words(row['stage']) for row in parts])}."
    parts.sort(key=lambda row: -row["share_pct"])
    stages = [
        f"{units.significant(row['share_pct'], 2)} % in {stage_words(row['stage'])}"
        for row in parts
    ]
    return f"{text} ({kind}). That is {_share_words(whole)} of its joules: {_listed(stages)}."


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
