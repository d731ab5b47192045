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
from multirun_analysis.labels import distinct_students
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
from multirun_analysis.pareto import energy_class, front_by_class


@dataclass(frozen=True)
class Quality:
    """A column that says how good a student is."""

    column: str
    title: str
    stderr: str | None
    higher_is_better: bool
    teacher: str | None
    """Column of the teacher's value; None where the teacher is 1 by definition."""


OM_PERF = Quality(
    "om_perf", "OM_perf: student / teacher accuracy", "om_perf_stderr", True, teacher=None
)
BITS_PER_BYTE = Quality(
    "student_bits_per_byte", "Held-out text, bits per byte", None, False, "teacher_bits_per_byte"
)

ENERGY_TITLES = {
    "own_energy_j": "Energy to build the student",
    "total_amortised_energy_j": "Energy with its share of inherited work",
    "total_energy_j": "Energy with all inherited work",
}


def quality_against_energy(
    runs: pd.DataFrame, *, energy: str = "own_energy_j", quality: Quality = OM_PERF
) -> go.Figure:
    """Students by energy and quality, with the Pareto front of each class of energy.

    A circle is a run, with one standard error; a diamond the mean of two or more seeds, with its
    95 % interval. Open circles are not measured.
    """
    energy_quality = "own_energy_quality" if energy == "own_energy_j" else "total_energy_quality"
    runs = distinct_students(runs)
    runs = runs[runs[energy].notna() & runs[quality.column].notna()]
    top_j = runs[energy].max() if len(runs) else 1.0
    factor, prefix = units.prefix(top_j)
    front = front_by_class(
        runs,
        energy=energy,
        quality=quality.column,
        energy_quality=energy_quality,
        higher_is_better=quality.higher_is_better,
    )
    fig = go.Figure()
    for kind, rows in runs[front].groupby(runs[energy_quality].map(energy_class)):
        rows = rows.sort_values([energy, quality.column])
        fig.add_scatter(
            x=rows[energy] / factor,
            y=rows[quality.column],
            mode="lines",
            line={"color": INK, "width": 1.2, "dash": "dot", "shape": "hv"},
            name=f"Pareto front, {kind}",
            hoverinfo="skip",
        )
    for paradigm, rows in _by_paradigm(runs):
        color = paradigm_color(paradigm)
        sensors = rows[energy_quality].map(energy_class) == "measured"
        own_error = rows["own_energy_uncertainty_j"] / factor if energy == "own_energy_j" else None
        fig.add_scatter(
            x=rows[energy] / factor,
            y=rows[quality.column],
            mode="markers",
            name=escape(paradigm),
            legendgroup=paradigm,
            marker={
                "color": color,
                "size": 8,
                "symbol": ["circle" if sensor else "circle-open" for sensor in sensors],
            },
            error_x=_bars(own_error, faded(color, 0.4), 1),
            error_y=_bars(rows[quality.stderr] if quality.stderr else None, faded(color, 0.4), 1),
            hovertext=[_run_text(run, front[index]) for index, run in rows.iterrows()],
            hoverinfo="text",
        )
        _add_means(fig, rows, energy, quality, factor)
    _add_teachers(fig, runs, quality)
    # From zero where that leaves room to see differences.
    if len(runs) and runs[energy].min() < 0.6 * top_j:
        fig.update_xaxes(rangemode="tozero")
    return styled(fig, height=420, x=f"{ENERGY_TITLES[energy]}, {prefix}J", y=quality.title)


def _add_means(
    fig: go.Figure, rows: pd.DataFrame, energy: str, quality: Quality, factor: float
) -> None:
    """Adds a diamond for each group of two or more seeds of one paradigm."""
    energies, values = over_seeds(rows, energy), over_seeds(rows, quality.column)
    titles = dict(zip(rows["group"], rows["group_label"], strict=True))
    groups = [group for group, value in values.items() if value.half_width is not None]
    color = paradigm_color(rows["paradigm"].iloc[0])
    fig.add_scatter(
        x=[energies[group].mean / factor for group in groups],
        y=[values[group].mean for group in groups],
        mode="markers",
        showlegend=False,
        legendgroup=str(rows["paradigm"].iloc[0]),
        marker={
            "color": color,
            "size": 12,
            "symbol": "diamond",
            "line": {"width": 1.5, "color": "#fff"},
        },
        error_x=_bars([(energies[group].half_width or 0.0) / factor for group in groups], color, 2),
        error_y=_bars([values[group].half_width for group in groups], color, 2),
        hovertext=[
            f"<b>{escape(titles[group])}</b><br>mean of {values[group].num_values} seeds, "
            f"95 % interval<br>{units.energy(energies[group].mean, error_j=energies[group].half_width)}"
            f"<br>{quality.column} {units.with_error(values[group].mean, values[group].half_width)}"
            for group in groups
        ],
        hoverinfo="text",
    )


def _add_teachers(fig: go.Figure, runs: pd.DataFrame, quality: Quality) -> None:
    """Adds a line at the teacher's value; runs of several pairs have several teachers."""
    if quality.teacher is None:
        values = [("teacher", 1.0)]
    else:
        teachers = runs.dropna(subset=[quality.teacher]).groupby("model", sort=True)
        values = [(model, rows[quality.teacher].iloc[0]) for model, rows in teachers]
        names = "teacher" if len(values) == 1 else "teacher of {}"
        values = [(names.format(model), value) for model, value in values]
    for name, value in values:
        note = {"text": escape(name), "font": {"size": 12, "color": MUTED}, "xanchor": "right"}
        fig.add_hline(value, line={"color": MUTED, "width": 1}, annotation=note)


def energy_by_stage(runs: pd.DataFrame, stages: pd.DataFrame) -> go.Figure:
    """Stacked energy of each run's stages, all attempts; hatched where the work was reused.

    A reused stage shows what building its artifact once cost, undivided.
    """
    parts = stage_energies(runs, stages)
    totals = parts.groupby("label")["energy_j"].sum()
    factor, prefix = units.prefix(totals.max() if len(totals) else 1.0)
    found = parts["stage"].unique()
    known = [stage for stage in STAGE_COLORS if stage in found]
    fig = go.Figure()
    for stage in [*known, *sorted(set(found) - set(known))]:
        for inherited, rows in parts[parts["stage"] == stage].groupby("inherited"):
            fig.add_bar(
                x=rows["energy_j"] / factor,
                y=rows["label"],
                orientation="h",
                name=escape(stage_words(stage)) + (", reused" if inherited else ""),
                marker={
                    "color": stage_color(stage),
                    "line": {"color": "#fff", "width": 0.5},
                    "pattern": {
                        "shape": "/" if inherited else "",
                        "fgcolor": "#fff",
                        "size": 6,
                        "solidity": 0.3,
                        "fillmode": "overlay",
                    },
                },
                hovertext=[
                    f"<b>{escape(row.label)}</b><br>{escape(stage_words(stage))}: "
                    f"{units.energy(row.energy_j)} ({escape(row.quality)})<br>{row.how}"
                    for row in rows.itertuples()
                ],
                hoverinfo="text",
            )
    labels = [label for _, rows in _by_paradigm(runs) for label in rows["label"] if label in totals]
    fig.update_layout(barmode="stack")
    styled(fig, height=150 + 34 * len(labels), x=f"Energy, {prefix}J", y="")
    return _named_rows(fig, labels[::-1])


def energy_per_token(runs: pd.DataFrame) -> go.Figure:
    """Joules per token served, student (filled) against its teacher (ring): prefill and decode.

    Runs of one setting are averaged over seeds.
    """
    runs = distinct_students(runs)
    phases = (
        ("prefill", "Prefill, J per prompt token"),
        ("decode", "Decode, J per generated token"),
    )
    fig = make_subplots(2, 1, subplot_titles=[title for _, title in phases], vertical_spacing=0.2)
    groups = [(key, rows) for _, part in _by_paradigm(runs) for key, rows in part.groupby("group")]
    for row, (phase, _) in enumerate(phases, start=1):
        for group, rows in reversed(groups):
            student = over_seeds(rows, f"student_{phase}_j_per_token").get(str(group))
            teacher = over_seeds(rows, f"teacher_{phase}_j_per_token").get(str(group))
            label, color = rows["group_label"].iloc[0], paradigm_color(rows["paradigm"].iloc[0])
            points = [("student", student), ("teacher", teacher)]
            points = [(subject, value) for subject, value in points if value is not None]
            quality = "/".join(sorted(set(rows["inference_energy_quality"].dropna())))
            fig.add_scatter(
                x=[value.mean for _, value in points],
                y=[label] * len(points),
                mode="lines+markers",
                showlegend=False,
                line={"color": faded(color, 0.5), "width": 2},
                marker={
                    "color": color,
                    "size": 11,
                    "symbol": [
                        "circle" if subject == "student" else "circle-open" for subject, _ in points
                    ],
                    "line": {"width": 2, "color": color},
                    "opacity": 1,
                },
                error_x=_bars([value.half_width or 0.0 for _, value in points], color, 1.5),
                hovertext=[
                    f"<b>{escape(label)}</b><br>{subject}, {phase}: "
                    f"{units.quantity(value.mean, 'J/token', error=value.half_width)}<br>"
                    f"{value.num_values} seed(s), {escape(quality)}"
                    for subject, value in points
                ],
                hoverinfo="text",
                row=row,
                col=1,
            )
    styled(fig, height=170 + 68 * len(groups), x="", y="")
    fig.update_xaxes(rangemode="tozero", title_text="J/token")
    fig.update_layout(margin_t=34)
    fig.update_annotations(x=0, xanchor="left", font={"size": 13, "color": INK})
    return _named_rows(fig, [rows["group_label"].iloc[0] for _, rows in reversed(groups)])


def loss_curves(train: pd.DataFrame, runs: pd.DataFrame, *, term: str = "loss_nats") -> go.Figure:
    """One term of the training loss over target tokens, a line for each distinct student."""
    fig = go.Figure()
    tokens = train["tokens"].max() if "tokens" in train else 1.0
    factor, prefix = units.prefix(tokens if tokens > 0 else 1.0)
    for paradigm, rows in _by_paradigm(distinct_students(runs)):
        in_legend = True
        for _, run in rows.iterrows():
            curve = (
                train[(train["run"] == run["run"]) & train[term].notna()]
                if term in train
                else train[:0]
            )
            if curve.empty:
                continue
            # A resumed attempt repeats steps since its checkpoint: the last word counts.
            curve = curve.drop_duplicates("step", keep="last").sort_values("step")
            curve = curve.iloc[:: max(1, len(curve) // 600)]
            fig.add_scatter(
                x=curve["tokens"] / factor,
                y=curve[term],
                mode="lines",
                name=escape(paradigm),
                legendgroup=paradigm,
                showlegend=in_legend,
                line={"color": paradigm_color(paradigm), "width": 1.4},
                opacity=0.8,
                hovertemplate=f"<b>{escape(run['label'])}</b><br>{escape(term)} %{{y:.4g}} "
                f"at %{{x:.4g}} {prefix}tokens<extra></extra>".replace("{{", "{"),
            )
            in_legend = False
    unit = "nats per target token" if term.endswith("_nats") else "in the term's own unit"
    title = f"{escape(stage_words(term.removesuffix('_nats')))}, {unit}"
    count = {"": "", "k": "thousand ", "M": "million ", "G": "billion "}[prefix]
    return styled(fig, height=400, x=f"Target tokens, {count or 'number'}".strip(), y=title)


def loss_terms(train: pd.DataFrame) -> list[str]:
    """Columns of `train` that are losses: the whole first, then its terms."""
    other = {"run", "step", "tokens", "seconds", "attempt", "learning_rate"}
    unit = ("_s", "_j", "_w", "_gib", "_per_s", "_per_j", "_norm", "_share", "_pct", "_tokens")
    terms = [c for c in train if c not in other and not c.endswith(unit) and train[c].notna().any()]
    return sorted(terms, key=lambda term: (term != "loss_nats", term))


def _by_paradigm(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Runs of each paradigm, in the palette's order, so that figures list them alike."""
    named = {str(name): rows for name, rows in runs.groupby("paradigm", dropna=False)}
    order = list(PARADIGM_COLORS)
    return sorted(
        named.items(), key=lambda item: (item[0] not in order, [*order, item[0]].index(item[0]))
    )


def _bars(values: Any, color: str, thickness: float) -> dict[str, Any] | None:
    if values is None:
        return None
    return {
        "type": "data",
        "array": list(values),
        "color": color,
        "thickness": thickness,
        "width": 0,
    }


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


def _run_text(run: pd.Series, is_on_front: bool) -> str:
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
    return "<br>".join([*lines, "on the Pareto front"] if is_on_front else lines)
