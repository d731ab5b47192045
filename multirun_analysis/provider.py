"""What a service costs with each student: electricity and break-even at so many tokens a day."""

from __future__ import annotations

from html import escape

import pandas as pd

from kdwatts.metrics.break_even import BreakEven
from kdwatts.metrics.footprint import J_PER_KWH, cost_usd
from multirun_analysis import units
from multirun_analysis.page import facet, section, table
from multirun_analysis.palette import paradigm_color
from multirun_analysis.repayment import Repayment, repayments
from multirun_analysis.site import Site

_COLUMNS = {
    "OM_perf": "accuracy kept",
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
    served = [r for r in repayments(runs, train) if r.student.value and r.teacher.value]
    served.sort(key=lambda r: r.student.value or 0.0)
    if not served:
        return ""
    heads = "".join(f"<th>{title}<small>{small}</small></th>" for title, small in _COLUMNS.items())
    body = "".join(_row(r, site, tokens_per_day) for r in served)
    kinds = sorted({r.energy_class for r in served})
    return section(
        f"A year of {units.quantity(tokens_per_day, 'tokens')} a day",
        f"Prompt and generated tokens together, at the batch and lengths that were measured. "
        f"{_price_words(site)} Joules are of the computers, {' and '.join(kinds)}; electricity "
        "includes the site's overhead (PUE), and neither hardware nor staff. Ask for other numbers "
        "with --tokens-per-day and --site.",
        table(f"<th>Setting</th>{heads}", body),
        anchor="provider",
    )


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


def _row(r: Repayment, site: Site | None, tokens_per_day: float) -> str:
    tokens = units.DAYS_A_YEAR * tokens_per_day
    student_j, teacher_j = (
        None if each.value is None else tokens * each.value for each in (r.student, r.teacher)
    )
    usd, teacher_usd = _usd(student_j, site), _usd(teacher_j, site)
    saved = None if usd is None or teacher_usd is None else teacher_usd - usd
    cells = [
        units.number(r.kept),
        _kwh(student_j),
        _kwh(teacher_j),
        _kwh(r.built.value),
        _days(r.tokens, tokens_per_day),
        _money(usd),
        _money(saved),
    ]
    return (
        f'<tr{facet(r.group)}><th scope="row"><span class="dot" '
        f'style="--hue:{paradigm_color(r.paradigm)}"></span>{escape(r.label)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _usd(energy_j: float | None, site: Site | None) -> float | None:
    if site is None or site.price_usd_per_kwh is None:
        return None
    return cost_usd(energy_j, pue=site.pue, price_usd_per_kwh=site.price_usd_per_kwh)


def _kwh(energy_j: float | None) -> str:
    return units.number(None if energy_j is None else energy_j / J_PER_KWH)


def _money(amount_usd: float | None) -> str:
    return units.MISSING if amount_usd is None else units.significant(amount_usd)


def _days(found: BreakEven, tokens_per_day: float) -> str:
    if found.value is None or found.low is None or found.high is None:
        return units.MISSING if found.verdict == "unknown" else found.verdict
    middle, low, high = (
        units.significant(tokens / tokens_per_day, 2)
        for tokens in (found.value, found.low, found.high)
    )
    return f"{middle}<small>{low} to {high}</small>"
