"""Figures, one function each: tables of `collect` in, a plotly figure out, for page or notebook.

Text from run folders is escaped, since plotly reads a little HTML in labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from multirun_analysis import units
from multirun_analysis.metrics import over_seeds, stage_energies
from multirun_analysis.palette import (
    INK,
    MUTED,
    PARADIGM_COLORS,
    STAGE_COLORS,
    faded,
    paradigm_color,
    stage_color,
    stage_words,
    styled,
)
from multirun_analysis.pareto import energy_class, front_by_class, quality_of
from multirun_analysis.rows import Row, distinct_students, grouped, known, to_rows


@dataclass(frozen=True)
class Quality:
    """A column that says how good a student is."""

    column: str
    title: str
    stderr: str
    """Column of one standard error; empty where none is recorded."""
    higher_is_better: bool
    teacher: str | None
    """Column of the teacher's value; None where the teacher is 1 by definition."""


OM_PERF = Quality(
    "om_perf", "OM_perf: student / teacher accuracy", "om_perf_stderr", True, teacher=None
)
BITS_PER_BYTE = Quality(
    "student_bits_per_byte", "Held-out text, bits per byte", "", False, "teacher_bits_per_byte"
)

ENERGY_TITLES = {
    "own_energy_j": "Energy to build the student",
    "total_amortised_energy_j": "Energy with its share of inherited work",
    "total_energy_j": "Energy with all inherited work",
}

_EDGE = {"width": 1.5, "color": "#fff"}
_HATCH = {"fgcolor": "#fff", "fillmode": "overlay", "size": 6, "solidity": 0.3}


def quality_against_energy(
    runs: pd.DataFrame, *, energy: str = "own_energy_j", quality: Quality = OM_PERF
) -> go.Figure:
    """Students by energy and quality, with the Pareto front of each class of energy.

    A circle is a run, with one standard error; a diamond the mean of two or more seeds, with its
    95 % interval. Open marks are not measured, squares are imported.
    """
    students = known(distinct_students(runs), energy, quality.column)
    joules = [run[energy] for run in students]
    factor, prefix = units.prefix(max(joules, default=1.0))
    higher = quality.higher_is_better
    front = front_by_class(students, energy=energy, quality=quality.column, higher_is_better=higher)
    on_front = {name for names in front.values() for name in names}
    fig = go.Figure()
    for kind, names in front.items():
        points = sorted((r[energy], r[quality.column]) for r in students if r["run"] in names)
        fig.add_scatter(
            x=[energy_j / factor for energy_j, _ in points],
            y=[value for _, value in points],
            mode="lines",
            line={"color": INK, "width": 1.2, "dash": "dot", "shape": "hv"},
            name=f"Pareto front, {kind}",
            hoverinfo="skip",
        )
    for paradigm, rows in by_paradigm(students):
        color = paradigm_color(paradigm)
        kinds = [energy_class(run[quality_of(energy)]) for run in rows]
        # The uncertainty of inherited energy is not recorded.
        error_j = "own_energy_uncertainty_j" if energy == "own_energy_j" else ""
        fig.add_scatter(
            x=[run[energy] / factor for run in rows],
            y=[run[quality.column] for run in rows],
            mode="markers",
            name=escape(paradigm),
            legendgroup=escape(paradigm),
            marker={
                "color": color,
                "size": 8,
                "symbol": [_symbol(run, kind) for run, kind in zip(rows, kinds, strict=True)],
            },
            error_x=_bars([run.get(error_j) for run in rows], factor, faded(color, 0.4), 1),
            error_y=_bars([run.get(quality.stderr) for run in rows], 1, faded(color, 0.4), 1),
            hovertext=[_run_text(run, run["run"] in on_front) for run in rows],
            hoverinfo="text",
        )
        _add_means(fig, rows, energy, quality, factor)
    teachers = _add_teachers(fig, students, quality)
    # Ranges hold the runs with their errors; intervals over two seeds would dwarf them and run off.
    errors = [run.get(quality.stderr) or 0.0 for run in students]
    values = [run[quality.column] for run in students]
    ends = [v + sign * e for v, e in zip(values, errors, strict=True) for sign in (-1, 1)]
    fig.update_yaxes(range=_padded([*ends, *teachers]))
    # From zero where that leaves room to see differences.
    from_zero = bool(joules) and min(joules) < 0.6 * max(joules)
    span = _padded([joule / factor for joule in joules])
    fig.update_xaxes(range=[0.0, span[1]] if from_zero else span)
    return styled(fig, height=420, x=f"{ENERGY_TITLES[energy]}, {prefix}J", y=quality.title)


def _symbol(run: Row, kind: str) -> str:
    return ("square" if run["origin"] else "circle") + ("" if kind == "measured" else "-open")


def _add_means(
    fig: go.Figure, rows: list[Row], energy: str, quality: Quality, factor: float
) -> None:
    """Adds a diamond for each group of two or more seeds of one paradigm."""
    energies, values = over_seeds(rows, energy), over_seeds(rows, quality.column)
    titles = {run["group"]: run["group_label"] for run in rows}
    pairs = [(group, energies[group], value) for group, value in values.items()]
    pairs = [pair for pair in pairs if pair[2].half_width is not None]
    color = paradigm_color(rows[0]["paradigm"])
    fig.add_scatter(
        x=[joules.mean / factor for _, joules, _ in pairs],
        y=[value.mean for _, _, value in pairs],
        mode="markers",
        showlegend=False,
        legendgroup=escape(str(rows[0]["paradigm"])),
        marker={"color": color, "size": 12, "symbol": "diamond", "line": _EDGE},
        error_x=_bars([joules.half_width for _, joules, _ in pairs], factor, color, 2),
        error_y=_bars([value.half_width for _, _, value in pairs], 1, color, 2),
        hovertext=[
            f"<b>{escape(titles[group])}</b><br>mean of {value.num_values} seeds, 95 % interval"
            f"<br>{units.energy(joules.mean, error_j=joules.half_width)}"
            f"<br>{quality.column} {units.with_error(value.mean, value.half_width)}"
            for group, joules, value in pairs
        ],
        hoverinfo="text",
    )


def _padded(values: list[float]) -> list[float]:
    """A range around the values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    padding = 0.1 * (high - low) or 0.1 * abs(high)
    return [low - padding, high + padding]


def _add_teachers(fig: go.Figure, students: list[Row], quality: Quality) -> list[float]:
    """Values of the teachers, each drawn as a line; several pairs have several teachers."""
    lines = {"teacher": 1.0}
    if quality.teacher is not None:
        pairs = grouped(known(students, quality.teacher), "model")
        names = "teacher" if len(pairs) == 1 else "teacher of {}"
        lines = {names.format(pair): rows[0][quality.teacher] for pair, rows in pairs.items()}
    for name, value in lines.items() if students else ():
        font = {"size": 12, "color": MUTED}
        fig.add_hline(value, line={"color": MUTED, "width": 1})
        fig.add_annotation(
            text=escape(name), font=font, x=1, xref="paper", xanchor="right", y=value, yshift=9,
            showarrow=False,
        )  # fmt: skip
    return list(lines.values()) if students else []


def energy_by_stage(runs: pd.DataFrame, stages: pd.DataFrame) -> go.Figure:
    """Stacked energy of each run's stages, all attempts; hatched where the work was reused.

    A reused stage shows what building its artifact once cost, undivided.
    """
    parts = stage_energies(to_rows(runs), to_rows(stages))
    totals = [sum(p["energy_j"] for p in rows) for rows in grouped(parts, "label").values()]
    factor, prefix = units.prefix(max(totals, default=1.0))
    order = list(STAGE_COLORS)
    bars = grouped(parts, lambda part: (part["stage"], part["inherited"]))
    fig = go.Figure()
    for stage, inherited in sorted(bars, key=lambda bar: (_position(order, bar[0]), bar)):
        rows = bars[stage, inherited]
        fig.add_bar(
            x=[part["energy_j"] / factor for part in rows],
            y=[part["label"] for part in rows],
            orientation="h",
            name=escape(stage_words(stage)) + (", reused" if inherited else ""),
            marker={
                "color": stage_color(stage),
                "line": {"color": "#fff", "width": 0.5},
                "pattern": _HATCH | {"shape": "/" if inherited else ""},
            },
            hovertext=[
                f"<b>{escape(part['label'])}</b><br>{escape(stage_words(stage))}: "
                f"{units.energy(part['energy_j'])} ({escape(part['quality'])})<br>{part['how']}"
                for part in rows
            ],
            hoverinfo="text",
        )
    drawn = {part["label"] for part in parts}
    labels = [r["label"] for _, rows in by_paradigm(to_rows(runs)) for r in rows]
    labels = [label for label in labels if label in drawn]
    fig.update_layout(barmode="stack", legend_traceorder="normal")
    styled(fig, height=150 + 38 * len(labels), x=f"Energy, {prefix}J")
    return _named_rows(fig, labels[::-1])


def energy_per_token(runs: pd.DataFrame) -> go.Figure:
    """Joules per token served, student (filled) against its teacher (ring): prefill and decode.

    Runs of one setting are averaged over seeds.
    """
    phases = ("prefill", "decode")
    fig = make_subplots(2, 1, vertical_spacing=0.2)
    students = known(distinct_students(runs), "student_decode_j_per_token")
    groups = [rows for _, part in by_paradigm(students) for rows in grouped(part, "group").values()]
    for row, phase in enumerate(phases, start=1):
        columns = {subject: f"{subject}_{phase}_j_per_token" for subject in ("student", "teacher")}
        values = [run[column] or 0.0 for run in students for column in columns.values()]
        factor, prefix = units.prefix(max(values, default=1.0), lowest=1e-6)
        for rows in reversed(groups):
            means = {
                subject: mean
                for subject, column in columns.items()
                for mean in over_seeds(rows, column).values()
            }
            label, color = rows[0]["group_label"], paradigm_color(rows[0]["paradigm"])
            quality = "/".join(sorted({str(run["inference_energy_quality"]) for run in rows}))
            fig.add_scatter(
                x=[mean.mean / factor for mean in means.values()],
                y=[label] * len(means),
                mode="lines+markers",
                showlegend=False,
                line={"color": faded(color, 0.5), "width": 2},
                marker={
                    "color": color,
                    "size": 11,
                    "symbol": ["circle" if s == "student" else "circle-open" for s in means],
                    "line": {"width": 2, "color": color},
                },
                error_x=_bars([mean.half_width for mean in means.values()], factor, color, 1.5),
                hovertext=[
                    f"<b>{escape(label)}</b><br>{subject}, {phase}: "
                    f"{units.quantity(mean.mean, 'J/token', error=mean.half_width)}<br>"
                    f"{mean.num_values} seed(s), {escape(quality)}"
                    for subject, mean in means.items()
                ],
                hoverinfo="text",
                xaxis=f"x{row}",
                yaxis=f"y{row}",
            )
        fig.update_xaxes(title_text=f"{phase.capitalize()}, {prefix}J/token", row=row, col=1)
    styled(fig, height=170 + 76 * len(groups))
    fig.update_xaxes(rangemode="tozero")
    return _named_rows(fig, [rows[0]["group_label"] for rows in reversed(groups)])


def _position(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def by_paradigm(runs: list[Row]) -> list[tuple[str, list[Row]]]:
    """Runs of each paradigm, in the palette's order, so that figures list them alike."""
    order = list(PARADIGM_COLORS)
    groups = grouped(runs, lambda run: str(run["paradigm"] or "unknown"))
    return sorted(groups.items(), key=lambda item: (_position(order, item[0]), item[0]))


def _bars(
    errors: list[float | None], factor: float, color: str, thickness: float
) -> dict[str, Any] | None:
    """Error bars; None where no point has one."""
    if all(error is None for error in errors):
        return None
    array = [(error or 0.0) / factor for error in errors]
    return {"type": "data", "array": array, "color": color, "thickness": thickness, "width": 0}


def _named_rows(fig: go.Figure, labels: list[str]) -> go.Figure:
    """The figure with its rows in this order, from below, and names short enough for a phone."""
    texts = []
    for label in labels:
        first, *rest = label.split(" · ")
        second = " · ".join(rest)
        second = second if len(second) <= 26 else f"{second[:12]}…{second[-13:]}"
        second = f"<br><span style='color:{MUTED}'>{escape(second)}</span>" if second else ""
        texts.append(escape(first if len(first) <= 26 else f"{first[:25]}…") + second)
    fig.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=labels,
        tickvals=labels,
        ticktext=texts,
        showgrid=False,
        ticks="",
    )
    return fig


def _run_text(run: Row, is_on_front: bool) -> str:
    own = units.energy(run["own_energy_j"], error_j=run["own_energy_uncertainty_j"])
    lines = [
        f"<b>{escape(run['label'])}</b>",
        f"own {own} ({escape(str(run['own_energy_quality']))})",
        f"with its share of inherited work {units.energy(run['total_amortised_energy_j'])}",
        f"OM_perf {units.with_error(run['om_perf'], run['om_perf_stderr'])}",
        f"bits per byte {units.number(run['student_bits_per_byte'])}, "
        f"teacher {units.number(run['teacher_bits_per_byte'])}",
        escape(str(run["gpu_name"] or run["gpu"])),
    ]
    lines += [escape(run["origin"])] if run["origin"] else []
    return "<br>".join([*lines, "on the Pareto front"] if is_on_front else lines)
