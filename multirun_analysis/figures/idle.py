"""Why a method was expensive: idle power, waiting for data, and how busy its GPUs were."""

from __future__ import annotations

from functools import partial
from operator import itemgetter

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics.quantity import mean_of
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.marks import MAX_ROWS, error_bars, in_rows, points
from multirun_analysis.figures.palette import INK
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.seeds import draws_of, draws_words, top_windows
from multirun_analysis.values import units
from multirun_analysis.values.order import in_order
from multirun_analysis.values.rows import Row, distinct_students, grouped, known, to_rows

STAGE = "distill"
"""The stage that the figure is about: building the student."""

BEFORE = "measured before the run"

_SHARES = {
    "idle_pct": ("idle power, share of energy", "#8d7f6c"),
    "data_wait_pct": ("waiting for data, share of time", "#b88a00"),
    "gpu_util_pct": ("mean GPU utilisation", "#0f6e6e"),
    "host_util_pct": ("mean CPU utilisation, without a GPU", "#7b5ea7"),
}


def idle_and_wait(runs: pd.DataFrame, stages: pd.DataFrame, summaries: pd.DataFrame) -> Exhibit:
    """Idle share, data wait share and mean GPU utilisation, in %, per run and stage that it built.

    `summaries` has a row for each run and stage (`Collected.summaries`). It may be empty.
    `idle_source` says where idle power is from: it was measured before the run, or it is the least
    that the GPUs drew at 0 % utilisation in the run's own trace, and then for the GPUs' energy
    alone. A share that is not known is missing.
    """
    return Exhibit(
        "Idle power, waiting and utilisation",
        f"While building the student: means over {draws_of(distinct_students(runs))}, with 95 % "
        "intervals. Idle share is the energy that idle devices would have drawn in the same time, "
        "as a share of all energy. Idle power was measured before the run. For a paler bar it was "
        "not: the bar uses the least power that the GPUs drew at 0 % utilisation, and their energy "
        "alone. Utilisation is the share of time in which a kernel ran. It does not say how much "
        "of the GPU the kernel used.",
        _table(runs, stages, summaries),
        partial(_draw, runs=runs),
    )


def _table(runs: pd.DataFrame, stages: pd.DataFrame, summaries: pd.DataFrame) -> pd.DataFrame:
    by_stage = {(row["run"], row["stage"]): row for row in to_rows(summaries)}
    built = [w for w in top_windows(to_rows(stages)) if w["outcome"] != "reused"]
    windows_of = grouped(built, "run")
    found = []
    for run in in_order(distinct_students(runs)):
        name = run["run"]
        for stage, windows in grouped(windows_of.get(name, []), "stage").items():
            summary = by_stage.get((name, stage), {})
            found.append(
                {key: run[key] for key in ("run", "group", "label", "paradigm", "model", "gpu")}
                | {"setting": run["group_label"], "stage": stage, "num_attempts": len(windows)}
                | _idle(run, stage, windows, summary)
                | {
                    "data_wait_pct": _wait_pct(run, stage, windows),
                    "gpu_util_pct": summary.get("gpu_util_pct_mean"),
                    "host_util_pct": summary.get("host_util_pct_mean"),
                }
            )
    columns = ["run", "group", "label", "setting", "paradigm", "model", "gpu", "stage"]
    columns += ["num_attempts"]
    columns += ["idle_pct", "idle_source", "data_wait_pct", "gpu_util_pct", "host_util_pct"]
    return pd.DataFrame(found, columns=columns)


def _idle(run: Row, stage: str, windows: list[Row], summary: Row) -> Row:
    """Share of the joules that idle devices would have drawn: 1 - net / gross."""
    gross_j, net_j = _sum(windows, "energy_j"), _sum(windows, "net_energy_j")
    if net_j is None and stage == STAGE:
        gross_j, net_j = run["own_energy_j"], run["own_net_energy_j"]
    if gross_j and net_j is not None:
        return {"idle_pct": 100 * (1 - net_j / gross_j), "idle_source": BEFORE}
    floor_w, gpu_j = summary.get("gpu_floor_w"), _sum(windows, "gpu_energy_j")
    if floor_w is not None and gpu_j:
        # A window may hold time that no energy covers; there its share would be too high.
        seconds = sum(w["duration_s"] * (w["gpu_coverage"] or 0.0) for w in windows)
        share = min(100.0, 100 * floor_w * seconds / gpu_j)
        return {"idle_pct": share, "idle_source": "least power at 0 % utilisation in the trace"}
    return {"idle_pct": None, "idle_source": None}


def _sum(windows: list[Row], column: str) -> float | None:
    values = [window.get(column) for window in windows]
    return None if None in values or not values else sum(value or 0.0 for value in values)


def _wait_pct(run: Row, stage: str, windows: list[Row]) -> float | None:
    """Of training what metrics.json says; of other stages their own seconds."""
    if stage == STAGE and run["data_wait_share"] is not None:
        return 100 * run["data_wait_share"]
    wait_s, whole_s = _sum(windows, "data_wait_s"), _sum(windows, "duration_s")
    return 100 * wait_s / whole_s if wait_s is not None and whole_s else None


def _draw(table: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """Shares while building the student, by setting: means over seeds, with 95 % intervals.

    A paler idle bar is read off a run's trace.
    """
    rows = [row for row in to_rows(table) if row["stage"] == STAGE]
    for row in rows:
        # That of a host with GPUs says little, and would stand beside theirs.
        row["host_util_pct"] = row["host_util_pct"] if row["gpu_util_pct"] is None else None
    rows = [row for row in rows if any(row[column] is not None for column in _SHARES)]
    settings = grouped(rows, "group")
    shown = list(settings.values())[:MAX_ROWS]
    by_run = {run["run"]: run for run in to_rows(runs)}
    fig = go.Figure()
    for column, (words, color) in reversed(_SHARES.items()):
        marks = [
            _mark(part, column, words, [by_run[row["run"]] for row in setting])
            for setting in shown
            if (part := known(setting, column))
        ]
        if not marks:
            continue
        fig.add_bar(
            **points(marks, x="mean", y="setting", of="group", text=itemgetter("words")),
            orientation="h",
            name=words,
            showlegend=True,
            marker={"color": color, "opacity": [mark["opacity"] for mark in marks]},
            error_x=error_bars(marks, "half_width", color=INK, thickness=1.3, width=3),
            text=[f"{units.significant(mark['mean'], 2)} %" for mark in marks],
            textposition="outside",
            textfont={"size": 11},
            constraintext="none",
            cliponaxis=False,
            meta={"column": column},
        )
    fig.update_layout(barmode="group", bargroupgap=0.08, legend_traceorder="reversed")
    in_rows(
        fig,
        [setting[0]["setting"] for setting in shown],
        left_out=len(settings) - len(shown),
        what="settings",
        height=120 + 66 * max(1, len(shown)),
        x="Share while building the student, %",
    )
    return fig.update_xaxes(range=[0, 109], tickvals=[0, 25, 50, 75, 100])


def _mark(rows: list[Row], column: str, words: str, members: list[Row]) -> Row:
    """The mean of a share over the seeds of one setting that have it."""
    mean, first = mean_of([row[column] for row in rows]), rows[0]
    is_idle = column == "idle_pct"
    draws = draws_words(members)[len(rows) > 1]
    source = f"<br>idle power: {first['idle_source']}" if is_idle else ""
    is_traced = is_idle and any(row["idle_source"] != BEFORE for row in rows)
    return {
        "setting": first["setting"],
        "group": first["group"],
        "mean": mean.number,
        "half_width": mean.half_width or 0.0,
        "opacity": 0.5 if is_traced else 1.0,
        "words": f"<b>{escape(first['setting'])}</b><br>{words}: "
        f"{units.with_error(mean.number, mean.half_width, '%')}<br>{len(rows)} {draws}{source}",
    }


LOW_UTIL_PCT = 50.0
HIGH_WAIT_PCT = 10.0


def idle_words(table: pd.DataFrame) -> list[str]:
    """A sentence for each setting whose GPUs ran less than half the time, or that waited for data.

    The latter means more than a tenth of training. `table` has rows of `idle_and_wait`.
    """
    found = []
    for rows in grouped([r for r in to_rows(table) if r["stage"] == STAGE], "group").values():
        util, wait, idle = (
            mean_of([row[column] for row in known(rows, column)]).number
            if known(rows, column)
            else None
            for column in ("gpu_util_pct", "data_wait_pct", "idle_pct")
        )
        parts = []
        if util is not None and util < LOW_UTIL_PCT:
            parts.append(f"Its GPUs ran a kernel {units.significant(util, 2)} % of the time.")
        if wait is not None and wait > HIGH_WAIT_PCT:
            parts.append(f"It waited for data {units.significant(wait, 2)} % of the time.")
        if parts and idle is not None:
            parts.append(
                f"Idle devices would have drawn {units.significant(idle, 2)} % of its energy in "
                "the same time."
            )
        if parts:
            found.append(f"{rows[0]['setting']}: {' '.join(parts)}")
    return found
