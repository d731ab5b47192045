"""Figures, one function each: tables of `collect` in, a plotly figure out, for page or notebook.

Text from run folders is escaped, since plotly reads a little HTML in labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics.quantity import mean_of
from multirun_analysis.figures.looks import Look, look_of, looks
from multirun_analysis.figures.marks import EDGE, error_bars, facets, legend_px, padded
from multirun_analysis.figures.palette import INK, MUTED, faded, styled
from multirun_analysis.statistics.accuracy_words import KEPT, at_chance_words, kept_words, spread_of
from multirun_analysis.statistics.pareto import energy_class, front_by_class, quality_of
from multirun_analysis.statistics.seeds import draws_words
from multirun_analysis.values import units
from multirun_analysis.values.order import by_paradigm
from multirun_analysis.values.rows import Row, distinct_students, grouped, known, to_rows


@dataclass(frozen=True)
class Quality:
    """A column that says how good a student is."""

    column: str
    """Its interval over samples, where one is recorded, is in `column_low` and `column_high`."""
    title: str
    higher_is_better: bool
    teacher: str | None
    """Column of the teacher's value; None where the teacher is 1 by definition."""


ACCURACY_KEPT = Quality(KEPT, "Accuracy kept, chance subtracted", True, teacher=None)
BITS_PER_BYTE = Quality(
    "student_bits_per_byte", "Held-out text, bits per byte", False, "teacher_bits_per_byte"
)

ENERGY_TITLES = {
    "own_energy_j": "Energy to build the student",
    "total_amortised_energy_j": "Energy with its share of inherited work",
    "total_energy_j": "Energy with all inherited work",
}


def quality_against_energy_table(
    runs: pd.DataFrame, *, energy: str = "own_energy_j", quality: Quality = ACCURACY_KEPT
) -> pd.DataFrame:
    """Runs, then means over two or more seeds, with energy in J, quality, and their errors.

    `mark` says which: the energy's error of a run is one standard deviation, that of a mean half of
    its 95 % interval. Quality has 95 % intervals, a run's over the benchmarks' samples, a mean's
    the wider of those over seeds and over samples. Seeds measured and seeds estimated have means of
    their own.
    """
    students = known(distinct_students(runs), energy, quality.column)
    on_front = _names_on_front(students, energy, quality)
    kept = ("run", "group", "label", "paradigm", "model", "gpu", "seed")
    found = [
        {key: run[key] for key in kept}
        | {
            "mark": "run",
            energy: run[energy],
            "energy_error_j": run.get(_error_of(energy)),
            "energy_class": energy_class(run[quality_of(energy)]),
            quality.column: run[quality.column],
            "quality_low": run.get(f"{quality.column}_low"),
            "quality_high": run.get(f"{quality.column}_high"),
            "on_front": run["run"] in on_front,
        }
        for _, rows in by_paradigm(students)
        for run in rows
    ]
    kinds = grouped(found, lambda row: (row["group"], row["energy_class"]))
    by_run = {run["run"]: run for run in students}
    for (_, kind), rows in kinds.items():
        if len(rows) > 1:
            joules = mean_of([row[energy] for row in rows])
            members = [by_run[row["run"]] for row in rows]
            value = spread_of(members, quality.column)
            assert value is not None, "its rows are those that have it"
            about = facets(members)
            found.append(
                {key: about[key] for key in ("group", "paradigm", "model", "gpu", "num_seeds")}
                | {
                    "mark": "mean",
                    "label": about["setting"],
                    energy: joules.number,
                    "energy_error_j": joules.half_width,
                    "energy_class": kind,
                    quality.column: value.value,
                    "quality_low": value.low,
                    "quality_high": value.high,
                    "interval": value.words,
                }
            )
    columns = ["mark", *kept, "num_seeds", energy, "energy_error_j", "energy_class"]
    columns += [quality.column, "quality_low", "quality_high", "interval", "on_front"]
    table = pd.DataFrame(found, columns=columns)
    return table.astype({"seed": "Int64", "num_seeds": "Int64"})


def _error_of(energy: str) -> str:
    """Column of one standard deviation; the uncertainty of inherited energy is not recorded."""
    return "own_energy_uncertainty_j" if energy == "own_energy_j" else ""


def _names_on_front(students: list[Row], energy: str, quality: Quality) -> set[str]:
    return {name for names in _fronts(students, energy, quality).values() for name in names}


def _fronts(students: list[Row], energy: str, quality: Quality) -> dict[str, list[str]]:
    return front_by_class(
        students,
        energy=energy,
        quality=quality.column,
        higher_is_better=quality.higher_is_better,
    )


def quality_against_energy(
    runs: pd.DataFrame, *, energy: str = "own_energy_j", quality: Quality = ACCURACY_KEPT
) -> go.Figure:
    """Students by energy and quality, with the Pareto front of each class of energy.

    A circle is a run, with its 95 % interval over samples; a diamond the mean of two or more seeds,
    with its own. Open marks are not measured, squares are imported.
    """
    students = known(distinct_students(runs), energy, quality.column)
    table = to_rows(quality_against_energy_table(runs, energy=energy, quality=quality))
    joules = [run[energy] for run in students]
    factor, prefix = units.prefix(max(joules, default=1.0))
    by_run = {run["run"]: run for run in students}
    fig = go.Figure()
    for kind, names in _fronts(students, energy, quality).items():
        points = sorted((by_run[n][energy], by_run[n][quality.column], n) for n in names)
        fig.add_scatter(
            x=[energy_j / factor for energy_j, _, _ in points],
            y=[value for _, value, _ in points],
            mode="lines",
            line={"color": INK, "width": 1.2, "dash": "dot", "shape": "hv"},
            name=f"Pareto front, {kind}",
            hoverinfo="skip",
            customdata=[name for _, _, name in points],
            meta={"front": kind},
        )
    known_looks = looks(to_rows(runs))
    by_look = grouped(table, lambda row: look_of(row, known_looks))
    for look, marks in by_look.items():
        rows = [mark for mark in marks if mark["mark"] == "run"]
        means = [mark for mark in marks if mark["mark"] == "mean"]
        color = look.color
        fig.add_scatter(
            x=[row[energy] / factor for row in rows],
            y=[row[quality.column] for row in rows],
            mode="markers",
            name=escape(look.name),
            legendgroup=escape(look.name),
            marker={
                "color": color,
                "size": 8,
                "symbol": [_symbol(by_run[row["run"]], row["energy_class"]) for row in rows],
            },
            error_x=error_bars([r["energy_error_j"] for r in rows], factor, faded(color, 0.4), 1),
            error_y=_quality_bars(rows, quality, faded(color, 0.4), 1),
            hovertext=[_run_text(by_run[row["run"]], row["on_front"]) for row in rows],
            hoverinfo="text",
            customdata=[row["run"] for row in rows],
        )
        if means:
            members = [by_run[row["run"]] for row in rows]
            _add_means(fig, means, energy, quality, factor, look=look, drawn=members)
    teachers = _add_teachers(fig, students, quality)
    # Ranges hold the runs with their errors; intervals over two seeds would dwarf them and run off.
    keys = (quality.column, f"{quality.column}_low", f"{quality.column}_high")
    ends = [run[key] for run in students for key in keys if run.get(key) is not None]
    fig.update_yaxes(range=padded([*ends, *teachers]))
    # From zero where that leaves room to see differences.
    from_zero = bool(joules) and min(joules) < 0.6 * max(joules)
    span = padded([joule / factor for joule in joules])
    fig.update_xaxes(range=[0.0, span[1]] if from_zero else span)
    height = 420 + max(0, legend_px(fig, letters=48) - 28)
    return styled(fig, height=height, x=f"{ENERGY_TITLES[energy]}, {prefix}J", y=quality.title)


def _quality_bars(
    marks: list[Row], quality: Quality, color: str, thickness: float
) -> dict[str, Any] | None:
    """Bars to both ends of the intervals, which need not be symmetric; None where none is known."""
    if not known(marks, "quality_low", "quality_high"):
        return None
    ups, downs = (
        [
            0.0 if mark["quality_low"] is None else abs(mark[end] - mark[quality.column])
            for mark in marks
        ]
        for end in ("quality_high", "quality_low")
    )
    bars = {"type": "data", "symmetric": False, "array": ups, "arrayminus": downs}
    return bars | {"color": color, "thickness": thickness, "width": 0}


def _symbol(run: Row, kind: str) -> str:
    return ("square" if run["origin"] else "circle") + ("" if kind == "measured" else "-open")


def _add_means(
    fig: go.Figure,
    means: list[Row],
    energy: str,
    quality: Quality,
    factor: float,
    *,
    look: Look,
    drawn: list[Row],
) -> None:
    """Adds a diamond for each setting of one look that has two or more of the runs drawn."""
    color, (_, draws) = look.color, draws_words(drawn)
    is_measured = [mean["energy_class"] == "measured" for mean in means]
    fig.add_scatter(
        x=[mean[energy] / factor for mean in means],
        y=[mean[quality.column] for mean in means],
        mode="markers",
        showlegend=False,
        legendgroup=escape(look.name),
        marker={
            "color": color,
            "size": 12,
            "symbol": ["diamond" if measured else "diamond-open" for measured in is_measured],
            "line": {
                "width": [EDGE["width"] if measured else 2 for measured in is_measured],
                "color": [EDGE["color"] if measured else color for measured in is_measured],
            },
        },
        error_x=error_bars([mean["energy_error_j"] for mean in means], factor, color, 2),
        error_y=_quality_bars(means, quality, color, 2),
        hovertext=[_mean_text(mean, energy, quality, draws) for mean in means],
        hoverinfo="text",
        customdata=[mean["group"] for mean in means],
    )


def _mean_text(mean: Row, energy: str, quality: Quality, draws: str) -> str:
    joules = units.energy(mean[energy], error_j=mean["energy_error_j"])
    ends = ""
    if mean["quality_low"] is not None:
        low, high = (units.significant(mean[end]) for end in ("quality_low", "quality_high"))
        ends = f" ({low} to {high}; {mean['interval']})"
    return (
        f"<b>{escape(mean['label'])}</b><br>mean of {mean['num_seeds']} {draws}"
        f"<br>{joules} (95 % interval, {mean['energy_class']})"
        f"<br>{escape(quality.title)}: {units.significant(mean[quality.column])}{ends}"
    )


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


def _run_text(run: Row, is_on_front: bool) -> str:
    own = units.energy(run["own_energy_j"], error_j=run["own_energy_uncertainty_j"])
    lines = [
        f"<b>{escape(run['label'])}</b>",
        f"own {own} ({escape(str(run['own_energy_quality']))})",
        f"with its share of inherited work {units.energy(run['total_amortised_energy_j'])}",
        *_accuracy_lines(run),
        f"bits per byte {units.number(run['student_bits_per_byte'])}, "
        f"teacher {units.number(run['teacher_bits_per_byte'])}",
        escape(str(run["gpu_name"] or run["gpu"])),
    ]
    lines += [escape(run["origin"])] if run["origin"] else []
    return "<br>".join([*lines, "on the Pareto front"] if is_on_front else lines)


def _accuracy_lines(run: Row) -> list[str]:
    """Accuracy kept, the plain ratio beside it, and on what the student is at chance."""
    marks = at_chance_words([run])
    plain = f"OM_perf {units.with_error(run['om_perf'], run['om_perf_stderr'])}"
    return [
        f"accuracy kept {kept_words([run])}",
        plain,
        *([f"<b>{escape(marks)}</b>"] if marks else []),
    ]
