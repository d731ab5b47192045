"""When distilling pays: tokens and students that repay a setting, and its efficiency later."""

from __future__ import annotations

from kdwatts.metrics.break_even import BreakEven
from multirun_analysis.report.cells import Cell
from multirun_analysis.report.render import Values
from multirun_analysis.report.study import Study
from multirun_analysis.statistics.loop_words import loop_words
from multirun_analysis.statistics.repayment import (
    LIFETIMES,
    Repayment,
    count_words,
    efficiency,
    repayments,
)
from multirun_analysis.values import units


def repayment(study: Study) -> Values | None:
    """A table of when each setting pays; nothing where no run can tell."""
    settings = [
        {
            "group": r.group,
            "label": r.label,
            "cells": [
                _break_even(r.tokens),
                _break_even(r.students),
                *(_efficiency(r, tokens) for tokens in LIFETIMES.values()),
            ],
        }
        for r in repayments(study.runs, study.collected.train)
    ]
    if not settings:
        return None
    loop = loop_words(study.rows)
    return {"settings": settings, "lifetimes": list(LIFETIMES), "loop_words": loop}


def _efficiency(r: Repayment, tokens: float) -> Cell:
    found = efficiency(r, tokens)
    if found.value is None:
        return Cell(units.MISSING)
    if found.low is None or found.high is None:
        return Cell("unresolved")
    ends = f"{units.number(found.low)} to {units.number(found.high)}"
    return Cell(units.number(found.value), ends)


def _break_even(found: BreakEven) -> Cell:
    if found.value is not None:
        ends = f"{count_words(found.low)} to {count_words(found.high)}"
        return Cell(count_words(found.value), ends)
    if found.verdict == "unresolved" and found.low:
        return Cell("unresolved", f"not before {count_words(found.low)}")
    return Cell(units.MISSING if found.verdict == "unknown" else found.verdict)
