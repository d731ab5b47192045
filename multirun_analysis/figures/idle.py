"""Why a method was expensive: idle power, waiting for data, and how busy its GPUs were."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics.quantity import mean_of
from multirun_analysis.figures.marks import MAX_ROWS, facets, named_rows, say_left_out
from multirun_analysis.figures.palette import INK, styled
from multirun_analysis.statistics.seeds import draws_words, top_windows
from multirun_analysis.values import units
from multirun_analysis.values.order import in_order, settings_of
from multirun_analysis.values.rows import Row, distinct_students, grouped, known, to_rows

STAGE = "distill"
"""The stage that the figure is about: building the student."""

_SHARES = {
    "idle_pct": ("idle power, share of the energy", "#8d7f6c"),
    "data_wait_pct": ("waiting for data, share of the time", "#b88a00"),
    "gpu_util_pct": ("GPU utilisation, mean", "#0f6e6e"),
    "host_util_pct": ("CPU utilisation of the host without a GPU, mean", "#7b5ea7"),
}


def idle_and_wait_table(
    runs: pd.DataFrame, stages: pd.DataFrame, summaries: pd.DataFrame
) -> pd.DataFrame:
    """Per run and stage that it built: idle share, data wait share and mean GPU utilisation, in %.

    `summaries` has a row for each run and stage (`Collected.summaries`); it may be empty.
    `idle_source` says where idle power is from: measured before the run, or the least that the
    GPUs drew at 0 % utilisation in its own trace, of their own energy alone. A share of which
    nothing is known is missing.
    """
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
        return {"idle_pct": 100 * (1 - net_j / gross_j), "idle_source": "measured before the run"}
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


def idle_and_wait(runs: pd.DataFrame, stages: pd.DataFrame, summaries: pd.DataFrame) -> go.Figure:
    """Idle share, data wait share and GPU utilisation while building the student, by setting.

    Bars are means over seeds, with 95 % intervals. A paler idle bar is read off a run's trace.
    """
    table = to_rows(idle_and_wait_table(runs, stages, summaries))
    rows = {row["run"]: row for row in table if row["stage"] == STAGE}
    for row in rows.values():
        if row["gpu_util_pct"] is not None:
            row["host_util_pct"] = None
    rows = {name: row for name, row in rows.items() if _has_share(row)}
    settings = settings_of([run for run in distinct_students(runs) if run["run"] in rows])
    shown = settings[:MAX_ROWS]
    fig = go.Figure()
    for column, (words, color) in reversed(_SHARES.items()):
        marks = []
        for setting in shown:
            found = known([rows[run["run"]] for run in setting], column)
            if found:
                marks.append((setting, found, mean_of([row[column] for row in found])))
        if not marks:
            continue
        traced = [column == "idle_pct" and any(r["idle_source"] != "measured before the run"
                  for r in found) for _, found, _ in marks]  # fmt: skip
        fig.add_bar(
            x=[mean.number for _, _, mean in marks],
            y=[setting[0]["group_label"] for setting, _, _ in marks],
            orientation="h",
            name=words,
            showlegend=True,
            marker={"color": color, "opacity": [0.5 if pale else 1.0 for pale in traced]},
            error_x={
                "type": "data",
                "array": [mean.half_width or 0.0 for _, _, mean in marks],
                "color": INK,
                "thickness": 1.3,
                "width": 3,
            },
            text=[f"{units.significant(mean.number, 2)} %" for _, _, mean in marks],
            textposition="outside",
            cliponaxis=False,
            hovertext=[
                f"<b>{escape(setting[0]['group_label'])}</b><br>{words}: "
                f"{units.with_error(mean.number, mean.half_width, '%')}<br>"
                f"{len(found)} {draws_words(setting)[len(found) > 1]}"
                + (f"<br>idle power: {found[0]['idle_source']}" if column == "idle_pct" else "")
                for setting, found, mean in marks
            ],
            hoverinfo="text",
            customdata=[facets(setting)["group"] for setting, _, _ in marks],
            meta={"column": column},
        )
    labels = [setting[0]["group_label"] for setting in shown]
    say_left_out(fig, len(settings) - len(shown), "settings")
    fig.update_layout(barmode="group", bargroupgap=0.08, legend_traceorder="reversed")
    styled(fig, height=120 + 66 * max(1, len(labels)), x="Share while building the student, %")
    fig.update_xaxes(range=[0, 109], tickvals=[0, 25, 50, 75, 100])
    return named_rows(fig, labels[::-1])


LOW_UTIL_PCT = 50.0
HIGH_WAIT_PCT = 10.0


def idle_words(table: pd.DataFrame) -> list[str]:
    """A sentence for each setting whose GPUs ran less than half the time, or whose training waited
    for data more than a tenth of it; of rows of `idle_and_wait_table`."""
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
            parts.append(f"its GPUs ran a kernel {units.significant(util, 2)} % of the time")
        if wait is not None and wait > HIGH_WAIT_PCT:
            parts.append(f"it waited for data {units.significant(wait, 2)} % of the time")
        if parts and idle is not None:
            parts.append(
                f"{units.significant(idle, 2)} % of its energy is what idle devices would have "
                "drawn in as long"
            )
        if parts:
            found.append(f"{rows[0]['setting']}: {', and '.join(parts)}.")
    return found


def _has_share(row: Row) -> bool:
    """Whether a row of the table tells any share."""
    return any(row[column] is not None for column in _SHARES)
