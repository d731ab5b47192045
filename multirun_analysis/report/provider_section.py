"""What a service costs with each student: electricity and break-even at so many tokens a day.

Money and days follow the joules: what they do not resolve is called so. Settings stand in the order
of accuracy kept, then of whole joules, measured before estimated.
"""

from __future__ import annotations

from kdwatts.metrics.break_even import BreakEven
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.footprint import J_PER_KWH, cost_usd
from multirun_analysis.narrative.choice_words import UNRESOLVED, point_words
from multirun_analysis.report.cells import Cell
from multirun_analysis.report.render import Values
from multirun_analysis.report.study import Study
from multirun_analysis.statistics.accuracy_words import NOT_TOLD, share_and_ends
from multirun_analysis.statistics.candidates import (
    Candidate,
    building_j,
    candidates_by_machine,
    serving_j,
    teacher_j,
    whole_j,
)
from multirun_analysis.statistics.loop_words import loop_words
from multirun_analysis.statistics.pareto import CLASSES
from multirun_analysis.statistics.repayment import repayments
from multirun_analysis.statistics.savings import absolute_interval, saving
from multirun_analysis.statistics.served import served
from multirun_analysis.statistics.site import Site
from multirun_analysis.values import units
from multirun_analysis.values.order import in_order
from multirun_analysis.values.rows import Row


def provider(study: Study) -> Values | None:
    """A table of a year's service by each setting; nothing where no student was served.

    Nothing either where servers answer for a load: `service_section` has that answer.
    """
    found = candidates_of(study)
    if not found or study.service is not None:
        return None
    # By run: with the machine that a setting was served on.
    repaid = {
        run: r.tokens for r in repayments(study.runs, study.collected.train) for run in r.runs
    }
    points = {c.point for c in found}
    (point,) = points if len(points) == 1 else (None,)
    return {
        "settings": [
            {
                "group": c.group,
                "label": c.label,
                "at": f"at {point_words(c.point)}" if len(points) > 1 and c.point else "",
                "cells": _cells(c, repaid.get(c.runs[0]), study),
            }
            for c in found
        ],
        "site": study.site,
        "tokens_per_day": study.tokens_per_day,
        "point": point and point_words(point),
        "loop_words": loop_words(study.rows),
        "several_machines": len({(c.group, c.energy_quality) for c in found}) < len(found),
        "kinds": sorted({c.energy_quality for c in found}, key=CLASSES.index),
    }


def candidates_of(study: Study) -> list[Candidate]:
    """Settings that were served, with their year of tokens, in the order of the table."""
    students = [run for run in study.students if _is_served(run)]
    tokens = units.DAYS_A_YEAR * study.tokens_per_day
    return sorted(candidates_by_machine(in_order(students), tokens), key=_place)


def _is_served(run: Row) -> bool:
    return all(served(run, subject).value for subject in ("student", "teacher"))


def _place(candidate: Candidate) -> tuple[int, bool, float, float]:
    kept = candidate.accuracy.value
    kind = CLASSES.index(candidate.energy_quality)
    return kind, kept is None, -(kept or 0.0), whole_j(candidate).value or 0.0


def _cells(c: Candidate, repaid: BreakEven | None, study: Study) -> list[Cell]:
    saved = saving(serving_j(c), teacher_j(c)).joules
    kwh = [
        _with_ends(absolute_interval(joules), 1 / J_PER_KWH)
        for joules in (serving_j(c), teacher_j(c), building_j(c))
    ]
    return [
        _kept(c),
        *kwh,
        _days(repaid, saved, study.tokens_per_day),
        _money(absolute_interval(serving_j(c)), study.site),
        _money(saved, study.site),
    ]


def _kept(c: Candidate) -> Cell:
    if c.accuracy.value is None:
        if not c.teacher_at_chance:
            return Cell(units.MISSING)
        return Cell(NOT_TOLD, f"teacher at chance on {', '.join(c.teacher_at_chance)}")
    value, ends = share_and_ends(c.accuracy)
    notes = [ends]
    if c.student_at_chance:
        notes.append(f"at chance on {', '.join(c.student_at_chance)}")
    return Cell(value, "; ".join(notes))


def _money(joules: Interval, site: Site | None) -> Cell:
    """US dollars for joules and for both ends of their interval; none without an interval."""
    if site is None or site.price_usd_per_kwh is None or joules.value is None:
        return Cell(units.MISSING)
    if not joules.is_bounded:
        return Cell(UNRESOLVED)
    usd = cost_usd(1.0, pue=site.pue, price_usd_per_kwh=site.price_usd_per_kwh)
    return _with_ends(joules, usd or 0.0)


def _with_ends(found: Interval, factor: float) -> Cell:
    if found.value is None:
        return Cell(units.MISSING)
    text = units.significant(factor * found.value)
    if found.low is None or found.high is None:
        return Cell(text, "interval unknown")
    low, high = (units.significant(factor * end) for end in (found.low, found.high))
    return Cell(text, "" if low == high else f"{low} to {high}")


def _days(found: BreakEven | None, saved: Interval, tokens_per_day: float) -> Cell:
    if found is None or found.verdict == "unknown":
        return Cell(units.MISSING)
    if found.value is not None and not saved.is_bounded:
        return Cell(UNRESOLVED)
    ends = (None if end is None else end / tokens_per_day for end in (found.low, found.high))
    low, high = (None if end is None else units.significant(end, 2) for end in ends)
    if found.value is None:
        is_open = found.verdict == UNRESOLVED and low is not None
        return Cell(found.verdict, f"not before {low}" if is_open else "")
    return Cell(units.significant(found.value / tokens_per_day, 2), f"{low} to {high}")
