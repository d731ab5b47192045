"""Servers under load: a figure for each setup, and for providers teacher and student by load."""

from __future__ import annotations

from kdwatts.metrics.fieller import Interval
from multirun_analysis.figures.under_load import HOW_TO_READ, load_names, own_words
from multirun_analysis.narrative.server_methods import apart_from_the_loop
from multirun_analysis.report.cells import Cell
from multirun_analysis.report.render import Values
from multirun_analysis.report.study import Study
from multirun_analysis.report.typeset import mark_of
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.server_words import engine_words, remark_words, setup_words
from multirun_analysis.statistics.serving_curves import (
    Beside,
    Curve,
    Setup,
    apart_of,
    pairs_of,
    setups,
    side_by_side,
    verdict_words,
)
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, to_rows


def load(study: Study) -> Values | None:
    """The figures, each below a heading that names its engine; nothing where none was measured."""
    shown = {name: study.shown[name] for name in load_names(study.shown)}
    if not shown:
        return None
    found = _setups(study)
    figures = [
        {
            "name": name,
            "exhibit": exhibit,
            "heading": _heading(setup, found),
            "words": own_words(setup),
        }
        for (name, exhibit), setup in zip(shown.items(), found, strict=True)
    ]
    remarks = [words for setup in found for words in remark_words(setup)]
    return {
        "figures": figures,
        "remarks": remarks,
        "how_to_read": HOW_TO_READ,
        "apart": apart_from_the_loop(study.rows),
    }


def load_by_model(study: Study) -> Values | None:
    """A table for each student and its teacher behind one engine, and why others have none."""
    found = _setups(study)
    tables = [
        _pair(setup, teacher, student, found)
        for setup in found
        for teacher, student in pairs_of(setup)
    ]
    apart = [
        f"No ratio for the {student.name} behind {engine_words(setup.first)}: its teacher was "
        f"served in another way. The student: {setup_words(setup)}. The teacher: "
        f"{setup_words(other)}."
        for setup, student, other in apart_of(found)
    ]
    return {"tables": tables, "apart": apart} if tables or apart else None


def _setups(study: Study) -> list[Setup]:
    return setups(to_rows(study.collected.serving), study.rows)


def _heading(setup: Setup, found: list[Setup]) -> str:
    """The engine and the bits; with the kind of load where several setups have the same of both."""
    name = _served_as(setup)
    same = [other for other in found if _served_as(other) == name]
    kind = "closed loop" if setup.is_closed else "open loop"
    return f"{name}, {kind}" if len(same) > 1 else name


def _served_as(setup: Setup) -> str:
    bits = setup.first["quantization"]
    return f"{engine_words(setup.first)}, {bits}" if bits else engine_words(setup.first)


def _pair(setup: Setup, teacher: Curve, student: Curve, found: list[Setup]) -> Values:
    heading = _heading(setup, found)
    names = {"student": student.name, "teacher": teacher.name}
    unit = "at once" if setup.is_closed else "a second"
    rows = []
    for beside in side_by_side(teacher, student):
        for curve, row in ((student, beside.student), (teacher, beside.teacher)):
            if row is not None:
                cells = [*_cells(row), _ratio(beside) if curve is student else Cell("")]
                name = names[curve.subject]
                rows.append({"load": f"{beside.level:g} {unit}", "name": name, "cells": cells})
    return {"heading": heading, "rows": rows, "setup": setup_words(setup)}


def _cells(row: Row) -> list[Cell]:
    sign = mark_of({"energy_class": energy_class(row["energy_quality"])})
    joules = [_figure(row, name, "J", sign) for name in ("j_per_output_token", "j_per_request")]
    seconds = [_figure(row, name, "s") for name in ("ttft_p99_s", "tpot_p99_s")]
    rest = [_figure(row, "goodput_per_s"), _figure(row, "power_w", "W", sign)]
    return [*joules, *seconds, *rest, Cell(verdict_words(row["verdict"]))]


def _figure(row: Row, name: str, unit: str = "", sign: str = "") -> Cell:
    """A figure with its unit, and below it the ends of its interval in the same prefix."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return Cell(units.MISSING)
    factor, prefix = units.prefix(value, lowest=1e-6) if unit else (1.0, "")
    text = f"{units.significant(value / factor)} {prefix}{unit}".strip() + sign
    ends = [None if end is None else units.significant(end / factor) for end in (low, high)]
    if ends[0] and ends[1]:
        return Cell(text, " to ".join(end for end in ends if end))
    return Cell(text, f"at least {ends[0]}" if ends[0] else f"at most {ends[1]}" if ends[1] else "")


def _ratio(beside: Beside) -> Cell:
    if beside.why_no_ratio:
        return Cell(units.MISSING, beside.why_no_ratio)
    times: Interval = beside.times
    if times.value is None:
        return Cell(units.MISSING)
    value = units.significant(times.value)
    if times.low is None or times.high is None:
        return Cell(value, "interval unknown")
    return Cell(value, f"{units.significant(times.low)} to {units.significant(times.high)}")
