"""Where the energy of each run went: a figure and its table, stage by stage."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go

from multirun_analysis.figures.marks import HATCH, MAX_ROWS, first_of_each, named_rows, say_left_out
from multirun_analysis.figures.palette import STAGE_COLORS, stage_color, stage_words, styled
from multirun_analysis.statistics.seeds import stage_energies
from multirun_analysis.values import units
from multirun_analysis.values.order import in_order, position
from multirun_analysis.values.rows import grouped, to_rows


def energy_by_stage_table(runs: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    """Joules of each run's stages over all attempts, how they were obtained, and by whom."""
    columns = ["run", "label", "stage", "energy_j", "quality", "inherited", "how"]
    parts = grouped(stage_energies(to_rows(runs), to_rows(stages)), "run")
    rows = [part for run in in_order(to_rows(runs)) for part in parts.get(run["run"], [])]
    return pd.DataFrame(rows, columns=columns)


def energy_by_stage(runs: pd.DataFrame, stages: pd.DataFrame) -> go.Figure:
    """Stacked energy of each run's stages, all attempts; hatched where the work was reused.

    A reused stage shows what building its artifact once cost, undivided. Of more than MAX_ROWS runs
    one of each setting is drawn before further seeds.
    """
    parts = stage_energies(to_rows(runs), to_rows(stages))
    named = {part["run"] for part in parts}
    every = [run for run in in_order(to_rows(runs)) if run["run"] in named]
    drawn = first_of_each(every, MAX_ROWS)
    names = {run["run"] for run in drawn}
    parts = [part for part in parts if part["run"] in names]
    totals = [sum(p["energy_j"] for p in rows) for rows in grouped(parts, "label").values()]
    factor, prefix = units.prefix(max(totals, default=1.0))
    order = list(STAGE_COLORS)
    bars = grouped(parts, lambda part: (part["stage"], part["inherited"]))
    fig = go.Figure()
    for stage, inherited in sorted(bars, key=lambda bar: (position(order, bar[0]), bar)):
        rows = bars[stage, inherited]
        fig.add_bar(
            x=[part["energy_j"] / factor for part in rows],
            y=[part["label"] for part in rows],
            orientation="h",
            name=escape(stage_words(stage)) + (", reused" if inherited else ""),
            marker={
                "color": stage_color(stage),
                "line": {"color": "#fff", "width": 0.5},
                "pattern": HATCH | {"shape": "/" if inherited else ""},
            },
            hovertext=[
                f"<b>{escape(part['label'])}</b><br>{escape(stage_words(stage))}: "
                f"{units.energy(part['energy_j'])} ({escape(part['quality'])})<br>{part['how']}"
                for part in rows
            ],
            hoverinfo="text",
            customdata=[part["run"] for part in rows],
        )
    labels = [run["label"] for run in drawn]
    fig.update_layout(barmode="stack", legend_traceorder="normal")
    say_left_out(fig, len(every) - len(drawn), "runs")
    styled(fig, height=150 + 38 * len(labels), x=f"Energy, {prefix}J")
    return named_rows(fig, labels[::-1])
