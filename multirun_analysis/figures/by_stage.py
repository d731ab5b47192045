"""Where the energy of each run went, stage by stage."""

from __future__ import annotations

from functools import partial

import pandas as pd
import plotly.graph_objects as go

from kdwatts.records.quantized_model import without_bits
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.marks import HATCH, MAX_ROWS, first_of_each, in_rows, points
from multirun_analysis.figures.palette import STAGE_COLORS, stage_color, stage_words
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.seeds import stage_energies
from multirun_analysis.values import units
from multirun_analysis.values.order import in_order, position
from multirun_analysis.values.rows import Row, grouped, to_rows


def energy_by_stage(runs: pd.DataFrame, stages: pd.DataFrame) -> Exhibit:
    """Joules of each run's stages over all attempts, how they were obtained, and by which run.

    A reused stage shows what building its artifact cost once, undivided.
    """
    parts = grouped(stage_energies(to_rows(runs), to_rows(stages)), "run")
    rows = [part for run in in_order(to_rows(runs)) for part in parts.get(run["run"], [])]
    columns = ["run", "label", "stage", "energy_j", "quality", "inherited", "how"]
    return Exhibit(
        "Energy by stage",
        "Each bar is one run, with all its attempts. A hatched stage was not built by this run but "
        "reused. Its bar is the energy that building it once took, not divided.",
        pd.DataFrame(rows, columns=columns),
        partial(_draw, runs=runs),
    )


def _draw(table: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """Stacked bars, hatched where the work was reused.

    Of more than MAX_ROWS runs one of each setting is drawn before further seeds.
    """
    has_parts = set(table["run"])
    every = [run for run in in_order(to_rows(runs)) if run["run"] in has_parts]
    drawn = first_of_each(every, MAX_ROWS)
    names = [run for run in runs["run"] if run in {run["run"] for run in drawn}]
    parts = to_rows(table.set_index("run", drop=False).loc[names])
    totals = [sum(p["energy_j"] for p in rows) for rows in grouped(parts, "label").values()]
    factor, prefix = units.prefix(max(totals, default=1.0))
    order = list(STAGE_COLORS)
    bars = grouped(parts, lambda part: (part["stage"], part["inherited"]))
    fig = go.Figure()
    for stage, inherited in sorted(
        bars, key=lambda bar: (position(order, without_bits(bar[0])), bar)
    ):
        fig.add_bar(
            **points(
                bars[stage, inherited],
                x="energy_j",
                x_factor=factor,
                y="label",
                of="run",
                text=_part_text,
            ),
            orientation="h",
            name=escape(stage_words(stage)) + (", reused" if inherited else ""),
            marker={
                "color": stage_color(stage),
                "line": {"color": "#fff", "width": 0.5},
                "pattern": HATCH | {"shape": "/" if inherited else ""},
            },
        )
    fig.update_layout(barmode="stack", legend_traceorder="normal")
    return in_rows(
        fig,
        [run["label"] for run in drawn],
        left_out=len(every) - len(drawn),
        what="runs",
        height=150 + 44 * len(drawn),
        x=f"Energy, {prefix}J",
        y="Run",
    )


def _part_text(part: Row) -> str:
    return (
        f"<b>{escape(part['label'])}</b><br>{escape(stage_words(part['stage']))}: "
        f"{units.energy(part['energy_j'])} ({escape(part['quality'])})<br>{part['how']}"
    )
