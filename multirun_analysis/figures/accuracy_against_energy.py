"""Accuracy kept, or held-out text, against the energy of building: the students and their front."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics.quantity import mean_of
from multirun_analysis.figures.exhibit import NOT_MEASURED, Exhibit
from multirun_analysis.figures.looks import Look, look_of, looks
from multirun_analysis.figures.marks import (
    EDGE,
    error_bars,
    facets,
    legend_px,
    padded,
    points,
    symbol,
)
from multirun_analysis.figures.palette import INK, MUTED, faded, styled
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.accuracy_words import (
    KEPT,
    at_chance_words,
    kept_words,
    mean_interval_of,
)
from multirun_analysis.statistics.pareto import CLASSES, energy_class, front_by_class, quality_of
from multirun_analysis.statistics.seeds import draws_of, draws_words
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


ACCURACY_KEPT = Quality(KEPT, "Accuracy kept, above chance", True, teacher=None)
BITS_PER_BYTE = Quality(
    "student_bits_per_byte", "Held-out text, bits per byte", False, "teacher_bits_per_byte"
)

ENERGY_TITLES = {
    "own_energy_j": "Energy to build the student",
    "total_amortised_energy_j": "Energy with its share of inherited work",
    "total_energy_j": "Energy with all inherited work",
}


def quality_against_energy(
    runs: pd.DataFrame, *, energy: str = "own_energy_j", quality: Quality = ACCURACY_KEPT
) -> Exhibit:
    """Students by energy and quality, with the Pareto front of each class of energy."""
    draws = draws_of(distinct_students(runs))
    better = "higher is better" if quality.higher_is_better else "lower is better"
    return Exhibit(
        f"{quality.title}, {better}, against {ENERGY_TITLES[energy].lower()}",
        f"Small marks are runs, large ones are means over {draws}, a dot marks imported runs. "
        "Vertical lines are 95 % intervals and may leave the figure. A run has one over benchmark "
        f"samples. A mean has the wider of two, over {draws} and over benchmark samples. The "
        "dotted line joins the students that no other beats in both quality and energy. "
        f"{NOT_MEASURED}",
        _table(runs, energy, quality),
        partial(_draw, runs=runs, energy=energy, quality=quality),
    )


def _table(runs: pd.DataFrame, energy: str, quality: Quality) -> pd.DataFrame:
    """Runs, then means over two or more seeds, with energy in J, quality, and their errors.

    `mark` says which: the energy's error of a run is one standard deviation, that of a mean half of
    its 95 % interval. Quality has 95 % intervals, a run's over the benchmarks' samples, a mean's
    the wider of those over seeds and over samples. Seeds measured and seeds estimated have means of
    their own.
    """
    students = known(distinct_students(runs), energy, quality.column)
    better = quality.higher_is_better
    fronts = front_by_class(
        students, energy=energy, quality=quality.column, higher_is_better=better
    )
    on_front = {name for names in fronts.values() for name in names}
    kept = ("run", "group", "label", "paradigm", "model", "gpu", "seed")
    found = [
        {key: run[key] for key in kept}
        | {
            "mark": "run",
            energy: run[energy],
            # The uncertainty of what was inherited is not recorded.
            "energy_error_j": run["own_energy_uncertainty_j"] if energy == "own_energy_j" else None,
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
            value = mean_interval_of(members, quality.column)
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


def _draw(table: pd.DataFrame, runs: pd.DataFrame, energy: str, quality: Quality) -> go.Figure:
    """A small mark is a run, with its 95 % interval over samples; a large one the mean of two or
    more seeds, with its own. Open marks are not measured, those with a dot are imported.
    """
    drawn: Any = table.rename(columns={energy: "energy_j", quality.column: "quality"})
    for arm, end in (("up", "quality_high"), ("down", "quality_low")):
        drawn[arm] = (drawn[end].astype("float64") - drawn["quality"]).abs()
    marks = to_rows(drawn)
    of_runs = [mark for mark in marks if mark["mark"] == "run"]
    joules = [mark["energy_j"] for mark in of_runs]
    factor, prefix = units.prefix(max(joules, default=1.0))
    fig = go.Figure()
    _add_fronts(fig, of_runs, factor)
    rows = to_rows(runs)
    by_run, own = {run["run"]: run for run in rows}, looks(rows)
    for look, alike in grouped(marks, lambda mark: look_of(mark, own)).items():
        kinds = grouped(alike, "mark")
        members = {mark["run"]: by_run[mark["run"]] for mark in kinds["run"]}
        _add_runs(fig, kinds["run"], members, look, factor)
        if "mean" in kinds:
            draws = draws_words(list(members.values()))[1]
            _add_means(fig, kinds["mean"], draws, look, factor, quality)
    drawn_runs = {mark["run"] for mark in of_runs}
    teachers = _add_teachers(fig, [run for run in rows if run["run"] in drawn_runs], quality)
    # Ranges hold the runs with their errors; intervals over two seeds would dwarf them and run off.
    keys = ("quality", "quality_low", "quality_high")
    ends = [mark[key] for mark in of_runs for key in keys if mark[key] is not None]
    fig.update_yaxes(range=padded([*ends, *teachers]))
    # From zero where that leaves room to see differences.
    from_zero = bool(joules) and min(joules) < 0.6 * max(joules)
    span = padded([joule / factor for joule in joules])
    fig.update_xaxes(range=[0.0, span[1]] if from_zero else span)
    height = 420 + max(0, legend_px(fig, letters=48) - 28)
    return styled(fig, height=height, x=f"{ENERGY_TITLES[energy]}, {prefix}J", y=quality.title)


def _add_fronts(fig: go.Figure, marks: list[Row], factor: float) -> None:
    """Adds a line for each class of energy: measured never meets estimated."""
    fronts = grouped((mark for mark in marks if mark["on_front"]), "energy_class")
    for kind in sorted(fronts, key=CLASSES.index):
        ends = sorted(fronts[kind], key=itemgetter("energy_j", "quality", "run"))
        fig.add_scatter(
            x=[end["energy_j"] / factor for end in ends],
            y=[end["quality"] for end in ends],
            mode="lines",
            line={"color": INK, "width": 1.2, "dash": "dot", "shape": "hv"},
            name=f"Pareto front, {kind}",
            hoverinfo="skip",
            customdata=[end["run"] for end in ends],
            meta={"front": kind},
        )


def _add_runs(
    fig: go.Figure, marks: list[Row], members: dict[str, Row], look: Look, factor: float
) -> None:
    dots = ["-dot" if members[mark["run"]]["origin"] else "" for mark in marks]
    kinds = [symbol(look.shape, mark["energy_class"]) for mark in marks]
    bars = {"color": faded(look.color, 0.4), "thickness": 1}
    fig.add_scatter(
        **points(
            marks, x="energy_j", y="quality", x_factor=factor, of="run",
            text=lambda mark: _run_text(members[mark["run"]], mark["on_front"]),
        ),
        mode="markers",
        error_x=error_bars(marks, "energy_error_j", factor=factor, **bars),
        error_y=error_bars(marks, "up", "down", **bars),
        name=escape(look.name),
        legendgroup=escape(look.name),
        marker={
            "color": look.color,
            "size": 9,
            "symbol": [kind + dot for kind, dot in zip(kinds, dots, strict=True)],
            # The dot has the colour of the edge.
            "line": {"width": 1.5 if any(dots) else 0, "color": "#fff"},
        },
    )  # fmt: skip


def _add_means(
    fig: go.Figure, means: list[Row], draws: str, look: Look, factor: float, quality: Quality
) -> None:
    """Adds a large mark for each setting of one look that has two or more of the runs drawn."""
    bars = {"color": look.color, "thickness": 2}
    open_edge = {"width": 2, "color": look.color}
    edges = [EDGE if mean["energy_class"] == "measured" else open_edge for mean in means]
    fig.add_scatter(
        **points(
            means, x="energy_j", y="quality", x_factor=factor, of="group",
            text=lambda mean: _mean_text(mean, quality, draws),
        ),
        mode="markers",
        error_x=error_bars(means, "energy_error_j", factor=factor, **bars),
        error_y=error_bars(means, "up", "down", **bars),
        showlegend=False,
        legendgroup=escape(look.name),
        marker={
            "color": look.color,
            "size": 15,
            "symbol": [symbol(look.shape, mean["energy_class"]) for mean in means],
            "line": {key: [edge[key] for edge in edges] for key in ("width", "color")},
        },
    )  # fmt: skip


def _mean_text(mean: Row, quality: Quality, draws: str) -> str:
    joules = units.energy(mean["energy_j"], error_j=mean["energy_error_j"])
    ends = ""
    if mean["quality_low"] is not None:
        low, high = (units.significant(mean[end]) for end in ("quality_low", "quality_high"))
        ends = f" ({low} to {high}; {mean['interval']})"
    return (
        f"<b>{escape(mean['label'])}</b><br>mean of {mean['num_seeds']} {draws}"
        f"<br>{joules} (95 % interval, {mean['energy_class']})"
        f"<br>{escape(quality.title)}: {units.significant(mean['quality'])}{ends}"
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
        f"own energy {own} ({escape(str(run['own_energy_quality']))})",
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
