"""Figures for deciding: how many tokens, or students of one teacher, repay distilling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple
from html import escape

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics.break_even import BreakEven
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.quantity import add, interval_95, scaled
from multirun_analysis.figures.looks import Look, look_of, looks
from multirun_analysis.figures.marks import MAX_LINES, coordinates, log_axis, say_left_out
from multirun_analysis.figures.palette import MUTED, faded, styled
from multirun_analysis.statistics.repayment import (
    Repayment,
    count_words,
    efficiency,
    joules_ratio,
    repayments,
    verdict_words,
)
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, to_rows

MAX_BANDS = 8
"""Settings up to which each has a band; more would lie over one another."""

_POINTS = 61
_TABLE_DECADES = 2


def break_even_over_tokens_table(runs: pd.DataFrame) -> pd.DataFrame:
    """For each setting and number of tokens served: joules saved, ratios, and T* with its verdict.

    `joules_ratio` is the teacher's joules for so many tokens over the student's, building and
    inherited share included; `lifetime_efficiency` is OM_perf times it.
    """
    found = _serving(runs)
    tokens = _decades_around(found)
    rows = [
        _setting_columns(r, "tokens", r.tokens)
        | {"tokens_served": count, "joules_saved": _saved_j(r, count)}
        | dict(zip(("joules_ratio", "low", "high"), astuple(joules_ratio(r, count)), strict=True))
        | {"lifetime_efficiency": efficiency(r, count).value}
        for r in found
        for count in tokens
    ]
    columns = [*_SETTING, *(f"break_even_tokens{end}" for end in ("", "_low", "_high"))]
    columns += ["tokens_served", "joules_saved", "joules_ratio", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "lifetime_efficiency"])


_SETTING = ["group", "setting", "paradigm", "energy_class", "verdict"]


def _setting_columns(r: Repayment, of: str, answer: BreakEven) -> Row:
    about = (r.group, r.label, r.paradigm, r.energy_class, answer.verdict)
    numbers = {"": answer.value, "_low": answer.low, "_high": answer.high}
    return dict(zip(_SETTING, about, strict=True)) | {
        f"break_even_{of}{end}": value for end, value in numbers.items()
    }


def _serving(runs: pd.DataFrame) -> list[Repayment]:
    """Settings whose building, student and teacher all have joules."""
    return [
        r
        for r in repayments(runs, pd.DataFrame())
        if None not in (r.built.value, r.teacher.value, r.student.value)
    ]


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


def break_even_over_tokens(runs: pd.DataFrame) -> go.Figure:
    """Teacher's joules over the student's, its building included, over tokens served.

    A line for each setting, with a 95 % band. Above 1 the joules are repaid: the mark at 1 is T*,
    with its interval. Where there is none the legend says why. Dotted lines are not measured.
    """
    found = _serving(runs)
    ends = _decades_around(found)
    drawn, look_of_setting = found[:MAX_LINES] if ends else [], _looks_of(runs)
    fig = go.Figure()
    lowest, highest = 0.1, 1.0
    for r in drawn:
        steps = range(_POINTS)
        span = math.log10(ends[-1] / ends[0])
        tokens = [ends[0] * 10 ** (span * i / (_POINTS - 1)) for i in steps]
        curve = [joules_ratio(r, count) for count in tokens]
        highest = max([highest, *(each.high for each in curve if each.high is not None)])
        look = look_of_setting(r)
        words = _words(r.tokens, "tokens")
        _add_line(fig, r, look, tokens, curve, words=words, bands=len(drawn))
        _add_answer(fig, r, look.color, r.tokens, at=1.0, what="tokens served")
    fig.add_hline(1.0, line={"color": MUTED, "width": 1})
    if drawn:
        fig.update_xaxes(**log_axis(ends[0], ends[-1], prefixed=True))
        fig.update_yaxes(**log_axis(lowest, min(highest, 1e4)))
    say_left_out(fig, len(found) - len(drawn), "settings")
    return styled(fig, height=430, x="Tokens served", y="Teacher's joules / student's, all in")


def _words(answer: BreakEven, what: str) -> str:
    """An answer for a legend: how many, or why there is none."""
    if answer.value is None:
        return verdict_words(answer)
    if what == "students" and answer.value <= 1:
        return "from the first student"
    return f"{verdict_words(answer)} {what}"


def _looks_of(runs: pd.DataFrame) -> Callable[[Repayment], Look]:
    """A function that tells how a setting looks; its name holds what tells its seeds apart."""
    rows = to_rows(runs)
    known_looks, first_of = looks(rows), {run["group"]: run for run in reversed(rows)}

    def look(r: Repayment) -> Look:
        own = look_of(first_of[r.group], known_looks)
        return Look(own.name + r.apart, own.color)

    return look


def _add_line(fig, r: Repayment, look: Look, x, curve, *, words: str, bands: int) -> None:
    color, name = look.color, f"{escape(look.name)}: {words}"
    # Where an end is missing, or has no place on a logarithmic axis, there is no band.
    band = [
        (at, each.low, each.high)
        for at, each in zip(x, curve, strict=True)
        if each.low is not None and each.high is not None and 0 < each.low < each.high
    ]
    if bands <= MAX_BANDS and band:
        turned = list(reversed(band))
        fig.add_scatter(
            x=coordinates([at for at, _, _ in band] + [at for at, _, _ in turned]),
            y=coordinates([high for _, _, high in band] + [low for _, low, _ in turned]),
            fill="toself",
            fillcolor=faded(color, 0.12),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            legendgroup=r.group,
            meta={"group": r.group},
        )
    dotted = r.energy_class != "measured"
    fig.add_scatter(
        x=coordinates(x),
        y=coordinates([each.value for each in curve]),
        mode="lines",
        name=name + (f" ({r.energy_class})" if dotted else ""),
        legendgroup=r.group,
        line={"color": color, "width": 2, "dash": "dot" if dotted else "solid"},
        hovertemplate=f"<b>{_braceless(name)}</b><br>%{{y:.3g}} at %{{x:.3g}}<extra></extra>",
        meta={"group": r.group},
    )


def _add_answer(
    fig, r: Repayment, color: str, answer: BreakEven, *, at: float | None, what: str
) -> None:
    """Adds the mark of a break-even that is reached, with its interval along the axis."""
    if not answer.value or at is None:
        return
    # Only what costs less than its own error may be repaid at once; 0 has no place on the axis.
    low = answer.low or answer.value
    fig.add_scatter(
        x=[answer.value],
        y=[at],
        mode="markers",
        showlegend=False,
        legendgroup=r.group,
        marker={"color": color, "size": 11, "symbol": "diamond", "line": {"width": 1.5,
                "color": "#fff"}},
        error_x={
            "type": "data", "symmetric": False, "array": [(answer.high or 0) - answer.value],
            "arrayminus": [answer.value - low], "color": color, "thickness": 1.5, "width": 4,
        },
        hovertext=[
            f"<b>{escape(r.label)}</b><br>repaid after {count_words(answer.value)} {what}"
            f"<br>95 %: {count_words(answer.low)} to {count_words(answer.high)}"
        ],
        hoverinfo="text",
        customdata=[r.group],
        meta={"group": r.group},
    )  # fmt: skip


def _braceless(text: str) -> str:
    """Text for a hover template, in which braces are variables."""
    return text.replace("{", "(").replace("}", ")")


def break_even_over_students_table(runs: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """For each setting and number of students of one teacher: joules per student, and N*."""
    rows = [
        _setting_columns(r, "students", r.students)
        | {"num_students": count, "j_per_student": _j_per_student(r, count).value}
        | {"baseline_j": r.baseline.value, "baseline_sd_j": r.baseline.random_sd}
        for r in _sharing(runs, train)
        for count in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
    ]
    columns = [*_SETTING, *(f"break_even_students{end}" for end in ("", "_low", "_high"))]
    columns += ["num_students", "j_per_student", "baseline_j", "baseline_sd_j"]
    return pd.DataFrame(rows, columns=columns)


def _sharing(runs: pd.DataFrame, train: pd.DataFrame) -> list[Repayment]:
    """Distilled settings with a question: they inherit, and fine-tuning was read as it went."""
    return [
        r
        for r in repayments(runs, train)
        if r.students.verdict != "unknown" and None not in (r.inherited.value, r.own.value)
    ]


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


def _scaled(one: Interval, factor: float) -> Interval:
    return Interval(*(None if end is None else factor * end for end in astuple(one)))


def break_even_over_students(runs: pd.DataFrame, train: pd.DataFrame) -> go.Figure:
    """Joules of one student over the number of students that share a teacher, a line a setting.

    The dashed line of the same colour is fine-tuning to the same held-out quality; the mark where
    they cross is N*, with its interval. Where there is none the legend says why.
    """
    found = _sharing(runs, train)
    drawn, look_of_setting = found[:MAX_LINES], _looks_of(runs)
    furthest = max([100.0, *(4 * (r.students.value or 0.0) for r in drawn)])
    counts = [furthest ** (i / (_POINTS - 1)) for i in range(_POINTS)]
    most = max((_j_per_student(r, 1).value or 0.0 for r in drawn), default=1.0)
    factor, prefix = units.prefix(most)
    fig = go.Figure()
    for r in drawn:
        curve = [_scaled(_j_per_student(r, count), 1 / factor) for count in counts]
        look = look_of_setting(r)
        words = _words(r.students, "students")
        _add_line(fig, r, look, counts, curve, words=words, bands=len(drawn))
        if r.baseline.value is not None:
            _add_baseline(fig, r, look.color, counts, r.baseline.value / factor, prefix)
            level = r.baseline.value / factor
            _add_answer(fig, r, look.color, r.students, at=level, what="students")
    say_left_out(fig, len(found) - len(drawn), "settings")
    if drawn:
        levels = [_j_per_student(r, n).value or 0.0 for r in drawn for n in (1, furthest)]
        levels += [r.baseline.value for r in drawn if r.baseline.value]
        fig.update_xaxes(**log_axis(1, furthest))
        fig.update_yaxes(**log_axis(0.8 * min(levels) / factor, max(levels) / factor))
    y = f"Energy of one student, {prefix}J"
    return styled(fig, height=430, x="Students that share one teacher's work", y=y)


def _add_baseline(fig, r: Repayment, color: str, counts, level: float, prefix: str) -> None:
    name = _braceless(f"fine-tuning as good as {escape(r.label)}")
    fig.add_scatter(
        x=coordinates([counts[0], counts[-1]]),
        y=coordinates([level, level]),
        mode="lines",
        showlegend=False,
        legendgroup=r.group,
        line={"color": color, "width": 1.5, "dash": "dash"},
        hovertemplate=f"{name}: %{{y:.3g}} {prefix}J<extra></extra>",
        meta={"group": r.group},
    )
