"""The section of the page that says when distilling pays."""

from __future__ import annotations

import pandas as pd

from kdwatts.metrics.break_even import BreakEven
from multirun_analysis.figures.looks import hue_of
from multirun_analysis.report.html import facet, row_head, section, table
from multirun_analysis.statistics.repayment import (
    LIFETIMES,
    Repayment,
    count_words,
    efficiency,
    repayments,
)
from multirun_analysis.values import units
from multirun_analysis.values.rows import to_rows


def repayment_section(runs: pd.DataFrame, train: pd.DataFrame) -> str:
    """A table of when each setting pays; nothing where no run can tell."""
    found = repayments(runs, train)
    if not found:
        return ""
    hue = hue_of(to_rows(runs))
    heads = (
        "<th>Setting</th><th>Tokens served<small>until its joules are repaid</small></th>"
        "<th>Students of one teacher<small>until it is repaid</small></th>"
    ) + "".join(f"<th>Efficiency<small>after {words} tokens</small></th>" for words in LIFETIMES)
    body = "".join(
        f"<tr{facet(r.group)}>{row_head(r.label, hue(r.group))}"
        f"<td>{_words(r.tokens)}</td><td>{_words(r.students)}</td>"
        + "".join(f"<td>{_efficiency_words(r, tokens)}</td>" for tokens in LIFETIMES.values())
        + "</tr>"
        for r in found
    )
    return section(
        "When it pays",
        "Tokens served in the teacher's place until building the student and its share of inherited"
        " work are repaid; students that must share the inherited work until distilling each costs "
        "less than fine-tuning to the same held-out quality (not reached: fine-tuning never got "
        "there); and OM_perf times the teacher's joules over the student's, its building included. "
        "Below a number is its 95 % interval, by Fieller; the efficiency's holds "
        "that of OM_perf too. unresolved: the gain is not told from "
        "nothing, and below it stands how many it takes at least.",
        table(heads, body),
    )


def _efficiency_words(r: Repayment, tokens: float) -> str:
    found = efficiency(r, tokens)
    if found.value is None:
        return units.MISSING
    if found.low is None or found.high is None:
        return "unresolved"
    ends = f"{units.number(found.low)} to {units.number(found.high)}"
    return f"{units.number(found.value)}<small>{ends}</small>"


def _words(found: BreakEven) -> str:
    if found.value is not None:
        ends = f"{count_words(found.low)} to {count_words(found.high)}"
        return f"{count_words(found.value)}<small>{ends}</small>"
    if found.verdict == "unresolved" and found.low:
        return f"unresolved<small>not before {count_words(found.low)}</small>"
    return units.MISSING if found.verdict == "unknown" else found.verdict
