"""What a service costs with each student: electricity and break-even at so many tokens a day.

Money and days follow the joules: what they do not resolve is called so. Settings stand in the order
of accuracy kept, then of whole joules, measured before estimated.
"""

from __future__ import annotations

from html import escape

import pandas as pd

from kdwatts.metrics.break_even import BreakEven
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.footprint import J_PER_KWH, cost_usd
from kdwatts.metrics.quantity import Quantity
from multirun_analysis.figures.looks import hue_of
from multirun_analysis.narrative.choice_words import UNRESOLVED, point_words
from multirun_analysis.report.html import facet, row_head, section, table
from multirun_analysis.statistics.accuracy_words import percent_words
from multirun_analysis.statistics.candidates import (
    Candidate,
    building_j,
    candidates_by_machine,
    serving_j,
    teacher_j,
    whole_j,
)
from multirun_analysis.statistics.pareto import CLASSES
from multirun_analysis.statistics.repayment import repayments
from multirun_analysis.statistics.savings import absolute_interval, saving
from multirun_analysis.statistics.served import served
from multirun_analysis.statistics.site import Site
from multirun_analysis.values import units
from multirun_analysis.values.order import in_order
from multirun_analysis.values.rows import Row, distinct_students, to_rows

_COLUMNS = {
    "Accuracy kept": "above chance, 95 % interval",
    "Student": "kWh a year",
    "Its teacher": "kWh a year",
    "Building": "kWh, once",
    "Repaid after": "days, 95 % interval",
    "Electricity": "USD a year, student",
    "Saved": "USD a year",
}


def provider_section(
    runs: pd.DataFrame, train: pd.DataFrame, site: Site | None, *, tokens_per_day: float
) -> str:
    """A table of a year's service by each setting; nothing where no student was served."""
    students = [run for run in distinct_students(runs) if _is_served(run)]
    found = candidates_by_machine(in_order(students), units.DAYS_A_YEAR * tokens_per_day)
    if not found:
        return ""
    found.sort(key=_place)
    days, hue = _repaid_after(runs, train), hue_of(to_rows(runs))
    points = {candidate.point for candidate in found}
    heads = "".join(f"<th>{title}<small>{small}</small></th>" for title, small in _COLUMNS.items())
    body = "".join(
        _row(c, hue(c.group), site, days.get(c.runs[0]), tokens_per_day, len(points) > 1)
        for c in found
    )
    several = len({(c.group, c.energy_quality) for c in found}) < len(found)
    machines = ", so seeds served on several machines have a row for each" if several else ""
    kinds = sorted({c.energy_quality for c in found}, key=CLASSES.index)
    return section(
        f"A year of {units.quantity(tokens_per_day, 'tokens')} a day{_at(points)}",
        f"Prompt and generated tokens together. "
        f"{_price_words(site)} Joules are of the computers, {' and '.join(kinds)}; electricity "
        "includes the site's overhead (PUE), and neither hardware nor staff. Joules per token are "
        f"those of all measurements of what serves alike{machines}. Below a number is its 95 % "
        f"interval; {UNRESOLVED} is what the joules do not tell from nothing, or one measurement "
        "alone. The order is that of accuracy kept, then of joules. Ask for other numbers with "
        "--tokens-per-day and --site.",
        table(f"<th>Setting</th>{heads}", body),
        anchor="provider",
    )


def _is_served(run: Row) -> bool:
    return all(served(run, subject).value for subject in ("student", "teacher"))


def _place(candidate: Candidate) -> tuple[int, bool, float, float]:
    kept = candidate.accuracy.value
    kind = CLASSES.index(candidate.energy_quality)
    return kind, kept is None, -(kept or 0.0), whole_j(candidate).value or 0.0


def _repaid_after(runs: pd.DataFrame, train: pd.DataFrame) -> dict[str, BreakEven]:
    """Run to the tokens that repay its setting, with the machine that it was served on."""
    return {run: r.tokens for r in repayments(runs, train) for run in r.runs}


def _at(points: set) -> str:
    """The point that answers, where it is one and known."""
    (point,) = points if len(points) == 1 else (None,)
    return f" at {point_words(point)}" if point else ""


def _price_words(site: Site | None) -> str:
    if site is None:
        return "The runs were given no common site, so there is no price; name one with --site."
    if site.price_usd_per_kwh is None:
        return f"Of site {escape(site.name)} no price is known."
    source = f" ({escape(site.price_source)})" if site.price_source else ""
    return (
        f"Price at {escape(site.name)}: {site.price_usd_per_kwh:g} USD/kWh{source}, "
        f"PUE {site.pue:g}."
    )


def _row(
    c: Candidate,
    hue: str,
    site: Site | None,
    repaid: BreakEven | None,
    tokens_per_day: float,
    shows_point: bool,
) -> str:
    saved = saving(serving_j(c), teacher_j(c)).joules
    cells = [
        _kept(c),
        _kwh(serving_j(c)),
        _kwh(teacher_j(c)),
        _kwh(building_j(c)),
        _days(repaid, saved, tokens_per_day),
        _money(absolute_interval(serving_j(c)), site),
        _money(saved, site),
    ]
    at = f"at {point_words(c.point)}" if shows_point and c.point else ""
    columns = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr{facet(c.group)}>{row_head(c.label, hue, at)}{columns}</tr>"


def _kept(c: Candidate) -> str:
    if c.accuracy.value is None:
        if not c.teacher_at_chance:
            return units.MISSING
        where = escape(", ".join(c.teacher_at_chance))
        return f"cannot be told<small>teacher at chance on {where}</small>"
    words = percent_words(c.accuracy.value, c.accuracy.low, c.accuracy.high)
    value, _, ends = words.partition(" (")
    notes = [ends.rstrip(")")]
    if c.student_at_chance:
        notes.append(f"at chance on {escape(', '.join(c.student_at_chance))}")
    return value + _small("; ".join(notes))


def _small(text: str) -> str:
    return f"<small>{text}</small>" if text else ""


def _kwh(joules: Quantity) -> str:
    found = absolute_interval(joules)
    return _with_ends(found, 1 / J_PER_KWH)


def _money(joules: Interval, site: Site | None) -> str:
    """US dollars for joules and for both ends of their interval; none without an interval."""
    if site is None or site.price_usd_per_kwh is None or joules.value is None:
        return units.MISSING
    if not joules.is_bounded:
        return UNRESOLVED
    usd = cost_usd(1.0, pue=site.pue, price_usd_per_kwh=site.price_usd_per_kwh)
    return _with_ends(joules, usd or 0.0)


def _with_ends(found: Interval, factor: float) -> str:
    if found.value is None:
        return units.MISSING
    text = units.significant(factor * found.value)
    if found.low is None or found.high is None:
        return text + _small("of unknown spread")
    low, high = (units.significant(factor * end) for end in (found.low, found.high))
    return text if low == high else text + _small(f"{low} to {high}")


def _days(found: BreakEven | None, saved: Interval, tokens_per_day: float) -> str:
    if found is None or found.verdict == "unknown":
        return units.MISSING
    if found.value is not None and not saved.is_bounded:
        return UNRESOLVED
    ends = (None if end is None else end / tokens_per_day for end in (found.low, found.high))
    low, high = (None if end is None else units.significant(end, 2) for end in ends)
    if found.value is None:
        is_open = found.verdict == UNRESOLVED and low is not None
        return found.verdict + _small(f"not before {low}" if is_open else "")
    middle = units.significant(found.value / tokens_per_day, 2)
    return middle + _small(f"{low} to {high}")
