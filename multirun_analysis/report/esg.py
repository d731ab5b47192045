"""The figure that has to survive an audit: what was drawn, its CO2e, and what may be avoided."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from html import escape

import pandas as pd

from kdwatts.metrics.break_even import apart_from_serving
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.footprint import J_PER_KWH, co2e_kg, water_l
from kdwatts.metrics.grid_facts import UNSTATED
from kdwatts.metrics.quantity import Quantity, add, scaled
from multirun_analysis.collect.siting import several_words, site_words
from multirun_analysis.figures.looks import hue_of
from multirun_analysis.report.html import facet, row_head, section, table
from multirun_analysis.statistics.accuracy_words import at_chance_words, kept_words
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.repayment import Repayment, repayments
from multirun_analysis.statistics.savings import saving
from multirun_analysis.statistics.seeds import top_windows
from multirun_analysis.statistics.site import (
    Site,
    all_sites,
    counts_words,
    provenance_words,
    stated_sites,
)
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, distinct_students, grouped, known, to_rows


@dataclass(frozen=True)
class Drawn:
    """Energy of one kind of work, obtained in one way."""

    work: str
    energy_class: str
    """measured, estimated or mixed; missing where windows have no figure."""
    energy_j: float | None
    num_windows: int


WORK = {
    "distill": "Building students",
    "teacher": "Teacher: text and signals",
    "generate": "Teacher: text and signals",
    "shards": "Preparing data",
    "contamination": "Preparing data",
    "evaluate_student": "Evaluation",
    "evaluate_teacher": "Evaluation",
    "inference_student": "Serving benchmark",
    "inference_teacher": "Serving benchmark",
}
"""Stage to the kind of work that it is."""


def footprint(runs: pd.DataFrame, stages: pd.DataFrame) -> list[Drawn]:
    """What these runs drew, by work and by how it was obtained: never added over the two.

    All attempts and failed runs count, reuse costs nothing here, so that nothing counts twice. What
    was built before these runs, such as a teacher's training, is a line of its own, once and
    undivided.
    """
    windows = [w for w in top_windows(to_rows(stages)) if w["outcome"] != "reused"]
    found = [
        Drawn(name, kind, _sum_j(rows), len(rows))
        for (name, kind), rows in grouped(
            windows,
            lambda w: (WORK.get(w["stage"], "Other stages"), energy_class(w["energy_quality"])),
        ).items()
    ]
    built = {window["key"] for window in windows}
    earlier: dict[str, tuple[float | None, str]] = {}
    for run in known(distinct_students(runs), "inherited_energy_by_artifact_j"):
        for key, energy_j in json.loads(run["inherited_energy_by_artifact_j"]).items():
            if key not in built:
                earlier[key] = (energy_j, run["inherited_energy_quality"])
    for kind in sorted({energy_class(quality) for _, quality in earlier.values()}):
        parts = [joules for joules, quality in earlier.values() if energy_class(quality) == kind]
        total = add(Quantity(joules, unit="J", quality=kind) for joules in parts)
        found.append(Drawn("Inherited from earlier work", kind, total.value, len(parts)))
    return found


def _sum_j(windows: list[Row]) -> float | None:
    return add(
        Quantity(w["energy_j"], unit="J", quality=w["energy_quality"]) for w in windows
    ).value


def esg_sections(
    runs: pd.DataFrame,
    stages: pd.DataFrame,
    train: pd.DataFrame,
    site: Site | None,
    *,
    tokens_per_day: float,
) -> str:
    """A summary of one printed page, and what may be avoided."""
    return _summary(runs, stages, site) + _avoided(runs, train, site, tokens_per_day=tokens_per_day)


def _summary(runs: pd.DataFrame, stages: pd.DataFrame, site: Site | None) -> str:
    drawn = footprint(runs, stages)
    if not drawn:
        return ""
    heads = (
        '<th>Work</th><th class="left">Obtained</th><th>Windows</th><th>kWh</th>'
        "<th>kWh with overhead<small>times PUE</small></th><th>kg CO2e</th><th>Water, L</th>"
    )
    body = "".join(_drawn_row(line, site) for line in drawn)
    for kind in sorted({line.energy_class for line in drawn} - {"missing"}):
        same = [line for line in drawn if line.energy_class == kind]
        total = add(Quantity(line.energy_j, unit="J", quality=kind) for line in same)
        whole = Drawn("Sum", kind, total.value, sum(line.num_windows for line in same))
        body += _drawn_row(whole, site, row_class="sum")
    days = sorted(str(time)[:10] for time in stages["start_utc"].dropna())
    period = f"from {days[0]} to {days[-1]}, " if days else ""
    return section(
        "Energy and emissions of this work",
        f"{len(runs)} runs {escape(period)}all attempts, failed ones included; each piece of work "
        "once. Measured and estimated figures are never added. Boundary: processors and memory as "
        "their own sensors see them, named under Methods; power supplies, cooling beyond PUE, "
        "networks, the making of hardware and staff are outside. Location-based.",
        table(heads, body) + f'<dl class="basis">{_basis(site, to_rows(runs))}</dl>',
        anchor="summary",
    )


def _drawn_row(line: Drawn, site: Site | None, *, row_class: str = "") -> str:
    kwh = None if line.energy_j is None else line.energy_j / J_PER_KWH
    grams = site and co2e_kg(
        line.energy_j, pue=site.pue, grid_gco2e_per_kwh=site.grid_gco2e_per_kwh
    )
    litres = site and water_l(line.energy_j, wue_l_per_kwh=site.wue_l_per_kwh)
    cells = [kwh, kwh * site.pue if site and kwh is not None else None, grams, litres]
    return (
        f'<tr class="{row_class}"><th scope="row">{escape(line.work)}</th>'
        f'<td class="left">{escape(line.energy_class)}</td><td>{line.num_windows}</td>'
        + "".join(f"<td>{_small(value)}</td>" for value in cells)
        + "</tr>"
    )


def _small(value: float | None) -> str:
    """Also below a millionth, which a small study's kilograms are."""
    if value is None:
        return units.MISSING
    return f"{value:.2e}" if 0 < abs(value) < 1e-4 else units.significant(value)


def _basis(site: Site | None, runs: list[Row]) -> str:
    students = distinct_students(runs)
    if site is None:
        text = "The runs were given no common site; name one with --site to have kg CO2e."
        if stated_sites(students):
            text = several_words(students)
        return f"<dt>Site</dt><dd>{escape(text)}</dd>"
    silent = [run for run in students if not stated_sites([run])]
    uncounted = (
        f" {len(silent)} of {len(students)} runs state none: their joules are counted at it too."
        if silent
        else ""
    )
    unknown = "stated by the runs; conf/site has another figure by now"
    lines = {
        "Site": f"{site_words(runs) or site.name}{uncounted}",
        "Grid factor": f"{site.grid_gco2e_per_kwh:g} gCO2e/kWh: {site.grid_source or unknown}",
        "It counts": f"{counts_words(site)}; {provenance_words(site)}{_stated_by_now(site)}",
        "PUE": f"{site.pue:g}: {site.pue_source or unknown}",
        "Water": "no figure is published for this site, so litres are unknown"
        if site.wue_l_per_kwh is None
        else f"{site.wue_l_per_kwh:g} L/kWh at the site: {site.wue_source or unknown}",
        "Formula": "kg CO2e = kWh times PUE times g/kWh over 1000",
    }
    return "".join(f"<dt>{term}</dt><dd>{escape(text)}</dd>" for term, text in lines.items())


def _kept(rows: list[Row]) -> str:
    return "; ".join(filter(None, (kept_words(rows), at_chance_words(rows))))


def _stated_by_now(site: Site) -> str:
    """What to do where records leave unstated what conf/site has learned to state."""
    shipped = [other for other in all_sites() if other.figures == site.figures]
    if not shipped or UNSTATED not in site.counts or UNSTATED in shipped[0].counts:
        return ""
    return f". The records are older than that; --site {site.name} takes what conf/site states"


def _avoided_j(r: Repayment, tokens: float) -> Interval:
    """Joules that serving draws less than with the teacher, the student's building deducted."""
    building = apart_from_serving(r.built, same_meter=r.same_meter)
    taken = add([building, scaled(r.student, tokens, unit="J")])
    return saving(taken, scaled(r.teacher, tokens, unit="J")).joules


def _kwh(joules: float) -> float:
    return joules / J_PER_KWH


def _kg(site: Site | None, joules: float) -> float | None:
    if site is None:
        return None
    return co2e_kg(joules, pue=site.pue, grid_gco2e_per_kwh=site.grid_gco2e_per_kwh)


def _with_ends(joules: Interval, turned: Callable[[float], float | None]) -> str:
    """A figure of the joules, and below it the same of both ends of their interval."""
    value, low, high = (
        None if end is None else turned(end) for end in (joules.value, joules.low, joules.high)
    )
    if value is None:
        return units.MISSING
    return f"{_small(value)}<small>{_small(low)} to {_small(high)}</small>"


def _avoided(
    runs: pd.DataFrame, train: pd.DataFrame, site: Site | None, *, tokens_per_day: float
) -> str:
    tokens = units.DAYS_A_YEAR * tokens_per_day
    groups = grouped(distinct_students(runs), "group")
    body, hue = "", hue_of(to_rows(runs))
    for r in repayments(runs, train):
        avoided_j = _avoided_j(r, tokens)
        if avoided_j.value is None:
            continue
        verdict = r.tokens.verdict
        if verdict == "reached" and not avoided_j.is_bounded:
            verdict = "unresolved"
        told = verdict == "reached"
        body += (
            f"<tr{facet(r.group)}>{row_head(r.label, hue(r.group))}"
            f"<td>{escape(_kept(groups[r.group]))}</td>"
            f"<td>{_with_ends(avoided_j, _kwh) if told else escape(verdict)}</td>"
            f"<td>{_with_ends(avoided_j, partial(_kg, site)) if told else units.MISSING}</td>"
            f'<td class="left">{escape(r.energy_class)}</td></tr>'
        )
    heads = (
        "<th>Setting</th><th>Accuracy kept<small>95 % interval</small></th>"
        "<th>kWh avoided<small>building deducted</small></th>"
        '<th>kg CO2e avoided</th><th class="left">Obtained</th>'
    )
    return body and section(
        "Emissions that may be avoided",
        f"Assumed: the student answers {units.quantity(tokens_per_day, 'tokens')} a day for "
        f"{units.DAYS_A_YEAR} days that its teacher would have answered otherwise, on the same "
        "device and with the batch and lengths that were measured; demand does not grow because it "
        "is cheaper; the answers are as useful where less than all accuracy is kept. Building and "
        "its share of inherited work are deducted. Below a number is its 95 % interval; "
        "unresolved: the joules do not tell the saving from none. This is a scenario, not a "
        "measurement, and no offset.",
        table(heads, body),
        anchor="avoided",
    )
