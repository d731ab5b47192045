"""How many tokens, or students of one teacher, repay distilling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics.break_even import BreakEven
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.quantity import add, interval_95, scaled
from multirun_analysis.figures.exhibit import NOT_MEASURED, Exhibit
from multirun_analysis.figures.looks import Look, look_by_group
from multirun_analysis.figures.marks import (
    EDGE,
    MAX_LINES,
    MAX_MARKS,
    braceless,
    coordinates,
    dash,
    error_bars,
    in_template,
    log_axis,
    points,
    symbol,
    with_left_out,
)
from multirun_analysis.figures.palette import MUTED, faded, styled
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.loop_words import loop_words
from multirun_analysis.statistics.repayment import (
    Repayment,
    count_words,
    efficiency,
    joules_ratio,
    repayments,
    verdict_words,
)
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, grouped, known, to_rows

MAX_BANDS = 8
"""Settings up to which each has a band; more would lie over one another."""

NUM_STUDENTS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)

_POINTS = 61
_TABLE_DECADES = 2

_SETTING = ["group", "setting", "paradigm", "energy_class", "verdict"]
_ENDS = ("", "_low", "_high")


def break_even_over_tokens(runs: pd.DataFrame) -> Exhibit:
    """Joules saved, ratios, and T* with its verdict, for each setting and number of tokens served.

    `joules_ratio` is the teacher's joules for so many tokens over the student's, with building and
    inherited share included. `lifetime_efficiency` is OM_perf times this ratio.
    """
    found = [
        r
        for r in repayments(runs, pd.DataFrame())
        if None not in (r.built.value, r.teacher.value, r.student.value)
    ]
    decades = _decades_around(found)
    drawn = found[:MAX_LINES] if decades else []
    rows = [
        _about(r, "tokens")
        | {"tokens_served": count, "joules_saved": _saved_j(r, count)}
        | dict(zip(("joules_ratio", "low", "high"), astuple(joules_ratio(r, count)), strict=True))
        | {"lifetime_efficiency": efficiency(r, count).value}
        for r in found
        for count in decades
    ]
    loop = loop_words(to_rows(runs))
    by = f" by {loop}" if loop else ""
    columns = [*_SETTING, *(f"break_even_tokens{end}" for end in _ENDS), "tokens_served"]
    columns += ["joules_saved", "joules_ratio", "low", "high", "lifetime_efficiency"]
    return Exhibit(
        "Tokens served until building is repaid",
        f"Energy of the teacher / energy of the student, for so many tokens served{by}. The "
        "student's energy includes building and its share of inherited work. Above 1 the student "
        "has repaid its building. The mark is this break-even, with its 95 % interval. never: the "
        "student saves nothing per token. unresolved: the interval of the saving includes 0, or is "
        f"not known. Accuracy does not count here. {NOT_MEASURED}",
        pd.DataFrame(rows, columns=columns),
        partial(_draw_tokens, looks=_looks_of(runs), left_out=len(found) - len(drawn)),
        curves=_curves(drawn, "tokens", joules_ratio, decades[:1] + decades[-1:]),
    )


def _about(r: Repayment, of: str) -> Row:
    """The setting and its answer in tokens or students, which stand in each of its rows."""
    answer: BreakEven = getattr(r, of)
    about = (r.group, r.label, r.paradigm, r.energy_class, answer.verdict)
    numbers = zip(_ENDS, (answer.value, answer.low, answer.high), strict=True)
    return dict(zip(_SETTING, about, strict=True)) | {
        f"break_even_{of}{end}": value for end, value in numbers
    }


def _decades_around(found: list[Repayment]) -> list[float]:
    """Powers of ten from well below the first break-even to well above the last."""
    scales = [s for s in map(_scale_tokens, found) if s > 0]
    if not scales:
        return []
    first = math.floor(math.log10(min(scales))) - _TABLE_DECADES
    last = math.ceil(math.log10(max(scales))) + _TABLE_DECADES
    return [10.0**power for power in range(max(0, first), max(0, last) + 1)]


def _scale_tokens(r: Repayment) -> float:
    """Tokens at which serving costs as much as building did: where the curve bends."""
    built_j, student_j = r.built.value or 0.0, r.student.value or 0.0
    return built_j / student_j if student_j > 0 else 0.0


def _saved_j(r: Repayment, tokens: float) -> float:
    assert r.built.value is not None
    assert r.teacher.value is not None and r.student.value is not None
    return tokens * (r.teacher.value - r.student.value) - r.built.value


def break_even_over_students(runs: pd.DataFrame, train: pd.DataFrame) -> Exhibit:
    """Joules per student, and N*, for each setting and number of students of one teacher.

    The settings are the distilled ones that inherit something and whose fine-tuning was read on
    held-out text while it trained.
    """
    found = [
        r
        for r in repayments(runs, train)
        if r.students.verdict != "unknown" and None not in (r.inherited.value, r.own.value)
    ]
    drawn = found[:MAX_LINES]
    furthest = max([100.0, *(4 * (r.students.value or 0.0) for r in drawn)])
    rows = [
        _about(r, "students")
        | {"num_students": count, "j_per_student": _j_per_student(r, count).value}
        | {"baseline_j": r.baseline.value, "baseline_sd_j": r.baseline.random_sd}
        for r in found
        for count in NUM_STUDENTS
    ]
    columns = [*_SETTING, *(f"break_even_students{end}" for end in _ENDS)]
    columns += ["num_students", "j_per_student", "baseline_j", "baseline_sd_j"]
    return Exhibit(
        "How many students must share a teacher",
        "Energy of building one student, its part of the inherited work included. The more "
        "students share that work, the less each one pays. The dashed line is fine-tuning without "
        "a teacher to the same quality on held-out text. The mark is the break-even, with its 95 % "
        f"interval. not reached: fine-tuning never became that good. {NOT_MEASURED}",
        pd.DataFrame(rows, columns=columns),
        partial(_draw_students, looks=_looks_of(runs), left_out=len(found) - len(drawn)),
        curves=_curves(drawn, "students", _j_per_student, [1.0, furthest]),
    )


def _j_per_student(r: Repayment, count: float) -> Interval:
    """Joules of one student of so many, with a 95 % interval on a logarithmic scale.

    Calibration is left out: fine-tuning, which it is drawn beside, has the same.
    """
    whole = add([r.own, scaled(r.inherited, 1 / count)])
    ends = interval_95(whole, calibration=False)
    if not whole.value or ends is None:
        return Interval(whole.value)
    spread = math.exp((ends[1] - whole.value) / whole.value)
    return Interval(whole.value, whole.value / spread, whole.value * spread)


def _curves(
    drawn: list[Repayment],
    of: str,
    value: Callable[[Repayment, float], Interval],
    ends: list[float],
) -> pd.DataFrame:
    """A value of each setting with its interval, at places evenly apart on a logarithmic axis.

    `level` is the value at which the answer stands; None where there is nothing to stand on.
    """
    rows = []
    for r in drawn:
        answer: BreakEven = getattr(r, of)
        about = {"group": r.group, "setting": r.label, "energy_class": r.energy_class}
        about |= {"words": _answer_words(answer, of), "answer": answer.value}
        about |= {"answer_low": answer.low, "answer_high": answer.high}
        about |= {"level": 1.0 if of == "tokens" else r.baseline.value}
        span = math.log10(ends[1] / ends[0])
        for place in (ends[0] * 10 ** (span * i / (_POINTS - 1)) for i in range(_POINTS)):
            point = value(r, place)
            rows.append(
                about | {"place": place, "value": point.value, "low": point.low, "high": point.high}
            )
    columns = ["group", "setting", "energy_class", "words", "answer", "answer_low", "answer_high"]
    return pd.DataFrame(rows, columns=[*columns, "level", "place", "value", "low", "high"])


def _answer_words(answer: BreakEven, of: str) -> str:
    """An answer for a legend: how many, or why there is none."""
    if answer.value is None:
        return verdict_words(answer)
    if of == "students" and answer.value <= 1:
        return "from the first student"
    return f"{verdict_words(answer)} {of}"


def _draw_tokens(curves: pd.DataFrame, looks: Callable[[Row], Look], *, left_out: int) -> go.Figure:
    """A line for each setting, with a 95 % band. Above 1 the joules are repaid: the mark at 1 is
    T*, with its interval. Where there is none the legend says why. Dotted lines are not measured.
    """
    fig, lines = go.Figure(), _settings(curves)
    for rows in lines:
        _add_line(fig, rows, looks(rows[0]), has_band=len(lines) <= MAX_BANDS)
        _add_answer(fig, rows[0], looks(rows[0]), "tokens served")
    fig.add_hline(1.0, line={"color": MUTED, "width": 1})
    if lines:
        highest = max([1.0, *(row["high"] for rows in lines for row in known(rows, "high"))])
        fig.update_xaxes(**log_axis(lines[0][0]["place"], lines[0][-1]["place"], prefixed=True))
        fig.update_yaxes(**log_axis(0.1, min(highest, 1e4)))
    with_left_out(fig, left_out, "settings")
    return styled(fig, height=430, x="Tokens served", y="Energy of teacher / energy of student")


def _draw_students(
    curves: pd.DataFrame, looks: Callable[[Row], Look], *, left_out: int
) -> go.Figure:
    """A line for each setting.

    The dashed line of the same colour is fine-tuning to the same held-out quality; the mark where
    they cross is N*, with its interval. Where there is none the legend says why.
    """
    plain = _settings(curves)
    factor, prefix = units.prefix(max((rows[0]["value"] for rows in plain), default=1.0))
    joules = ["value", "low", "high", "level"]
    fig, lines = go.Figure(), _settings(curves.assign(**curves[joules].astype(float) / factor))
    for rows in lines:
        first, look = rows[0], looks(rows[0])
        _add_line(fig, rows, look, has_band=len(lines) <= MAX_BANDS)
        if first["level"] is not None:
            name = in_template(f"fine-tuning as good as {first['setting']}")
            fig.add_scatter(
                x=coordinates([rows[0]["place"], rows[-1]["place"]]),
                y=coordinates([first["level"], first["level"]]),
                mode="lines",
                showlegend=False,
                line={"color": look.color, "width": 1.5, "dash": "dash"},
                hovertemplate=f"{name}: %{{y:.3g}} {prefix}J<extra></extra>",
                **_of(first),
            )
            _add_answer(fig, first, look, "students")
    with_left_out(fig, left_out, "settings")
    if lines:
        ends_j = [row["value"] for rows in plain for row in (rows[0], rows[-1])]
        ends_j += [rows[0]["level"] for rows in plain if rows[0]["level"]]
        fig.update_xaxes(**log_axis(1, lines[0][-1]["place"]))
        fig.update_yaxes(**log_axis(0.8 * min(ends_j) / factor, max(ends_j) / factor))
    y = f"Energy of one student, {prefix}J"
    return styled(fig, height=430, x="Students that share the inherited work", y=y)


def _settings(curves: pd.DataFrame) -> list[list[Row]]:
    """The rows of each setting; of one with measured and estimated seeds those of each."""
    keys = ("group", "setting", "energy_class")
    return list(grouped(to_rows(curves), lambda row: tuple(row[key] for key in keys)).values())


def _looks_of(runs: pd.DataFrame) -> Callable[[Row], Look]:
    """A function that tells how a setting looks; its name holds what tells its seeds apart."""
    rows = to_rows(runs)
    own, labels = look_by_group(rows), {run["group"]: run["group_label"] for run in rows}

    def look(row: Row) -> Look:
        mine = own[row["group"]]
        return replace(mine, name=mine.name + row["setting"].removeprefix(labels[row["group"]]))

    return look


def _of(row: Row) -> dict[str, Any]:
    """By what the page tells whose trace it is."""
    return {"legendgroup": row["group"], "meta": {"group": row["group"]}}


def _add_line(fig: go.Figure, rows: list[Row], look: Look, *, has_band: bool) -> None:
    # Where an end is missing, or has no place on a logarithmic axis, there is no band.
    band = [row for row in known(rows, "low", "high") if 0 < row["low"] < row["high"]]
    if has_band and band:
        turned = list(reversed(band))
        fig.add_scatter(
            x=coordinates([row["place"] for row in band + turned]),
            y=coordinates([row["high"] for row in band] + [row["low"] for row in turned]),
            fill="toself",
            fillcolor=faded(look.color, 0.12),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            **_of(rows[0]),
        )
    kind = rows[0]["energy_class"]
    name = f"{escape(look.name)}: {rows[0]['words']}"
    fig.add_scatter(
        x=coordinates([row["place"] for row in rows]),
        y=coordinates([row["value"] for row in rows]),
        mode="lines+markers",
        name=name + ("" if kind == "measured" else f" ({kind})"),
        line={"color": look.color, "width": 2, "dash": dash(kind, look.dash)},
        marker={"size": 6, "symbol": symbol(look.shape, kind), "maxdisplayed": MAX_MARKS},
        hovertemplate=f"<b>{braceless(name)}</b><br>%{{y:.3g}} at %{{x:.3g}}<extra></extra>",
        **_of(rows[0]),
    )


def _add_answer(fig: go.Figure, row: Row, look: Look, what: str) -> None:
    """Adds the mark of a break-even that is reached, with its interval along the axis."""
    count = row["answer"]
    if not count:
        return
    text = (
        f"<b>{escape(row['setting'])}</b><br>repaid after {count_words(count)} {what}"
        f"<br>95 % interval {count_words(row['answer_low'])} to {count_words(row['answer_high'])}"
    )
    # Only what costs less than its own error may be repaid at once; 0 has no place on the axis.
    arms = {"up": (row["answer_high"] or 0) - count, "down": count - (row["answer_low"] or count)}
    fig.add_scatter(
        **points([row], x="answer", y="level", of="group", text=lambda _: text),
        mode="markers",
        showlegend=False,
        marker={"color": look.color, "size": 13, "symbol": look.shape, "line": EDGE},
        error_x=error_bars([arms], "up", "down", color=look.color, thickness=1.5, width=4),
        **_of(row),
    )
