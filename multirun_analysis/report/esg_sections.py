"""The figure that has to survive an audit: what was drawn, its CO2e, and what may be avoided."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from kdwatts.metrics.break_even import apart_from_serving
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.footprint import J_PER_KWH, UNSTATED, co2e_kg, water_l
from kdwatts.metrics.quantity import Quantity, add, scaled
from kdwatts.records.quantized_model import without_bits
from multirun_analysis.narrative.site_words import provenance_words, several_words, site_words
from multirun_analysis.report.cells import Cell
from multirun_analysis.report.render import Values
from multirun_analysis.report.study import Study
from multirun_analysis.statistics.accuracy_words import at_chance_words, kept_words
from multirun_analysis.statistics.loop_words import loop_words
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.repayment import Repayment, repayments
from multirun_analysis.statistics.savings import saving
from multirun_analysis.statistics.seeds import top_windows
from multirun_analysis.statistics.site import Site, all_sites, counts_words, stated_sites
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
    "quantize_student": "Rounding to few bits",
    "quantize_teacher": "Rounding to few bits",
    "evaluate_student": "Evaluation",
    "evaluate_teacher": "Evaluation",
    "inference_student": "Serving benchmark",
    "inference_teacher": "Serving benchmark",
    "serving_student": "Serving under load",
    "serving_teacher": "Serving under load",
}
"""Stage to the kind of work that it is."""


def energy_drawn(runs: pd.DataFrame, stages: pd.DataFrame) -> list[Drawn]:
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
            lambda w: (
                WORK.get(without_bits(w["stage"]), "Other stages"),
                energy_class(w["energy_quality"]),
            ),
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
    total = add(Quantity(w["energy_j"], unit="J", quality=w["energy_quality"]) for w in windows)
    return total.value


def footprint(study: Study) -> Values | None:
    """A summary of one printed page: kWh, CO2e and water by work, and what they rest on."""
    runs, stages, site = study.runs, study.collected.stages, study.site
    lines = energy_drawn(runs, stages)
    if not lines:
        return None
    sums = []
    for kind in sorted({line.energy_class for line in lines} - {"missing"}):
        same = [line for line in lines if line.energy_class == kind]
        total = add(Quantity(line.energy_j, unit="J", quality=kind) for line in same)
        sums.append(Drawn("Sum", kind, total.value, sum(line.num_windows for line in same)))
    days = sorted(str(time)[:10] for time in stages["start_utc"].dropna())
    return {
        "num_runs": len(runs),
        "period": (days[0], days[-1]) if days else None,
        "lines": [(line, _amounts(line, site)) for line in lines],
        "sums": [(line, _amounts(line, site)) for line in sums],
        "site": site,
        **_basis(site, study),
    }


def _amounts(line: Drawn, site: Site | None) -> list[str]:
    """kWh, kWh with overhead, kg CO2e and litres."""
    kwh = None if line.energy_j is None else line.energy_j / J_PER_KWH
    with_overhead = kwh * site.pue if site and kwh is not None else None
    litres = site and water_l(line.energy_j, wue_l_per_kwh=site.wue_l_per_kwh)
    return [_figure(value) for value in (kwh, with_overhead, _kg(site, line.energy_j), litres)]


def _figure(value: float | None) -> str:
    """Also below a millionth, which a small study's kilograms are."""
    if value is None:
        return units.MISSING
    return f"{value:.2e}" if 0 < abs(value) < 1e-4 else units.significant(value)


def _basis(site: Site | None, study: Study) -> Values:
    """Where the site is from, and what its factor counts."""
    students = study.students
    if site is None:
        return {"site_words": several_words(students) if stated_sites(students) else ""}
    return {
        "site_words": site_words(study.rows) or site.name,
        "counts_words": counts_words(site),
        "provenance_words": provenance_words(site),
        "is_older": _is_older(site),
        "num_silent": sum(not stated_sites([run]) for run in students),
        "num_students": len(students),
    }


def _is_older(site: Site) -> bool:
    """Whether records leave unstated what conf/site has learned to state."""
    shipped = [other for other in all_sites() if other.figures == site.figures]
    return bool(shipped) and UNSTATED in site.counts and UNSTATED not in shipped[0].counts


def avoided(study: Study) -> Values | None:
    """What serving a year by each setting, and not by its teacher, would draw less."""
    groups = grouped(study.students, "group")
    tokens = units.DAYS_A_YEAR * study.tokens_per_day
    settings = []
    for r in repayments(study.runs, study.collected.train):
        joules = _avoided_j(r, tokens)
        if joules.value is None:
            continue
        verdict = r.tokens.verdict
        if verdict == "reached" and not joules.is_bounded:
            verdict = "unresolved"
        kwh, kg = Cell(verdict), Cell(units.MISSING)
        if verdict == "reached":
            kwh = _with_ends(joules, lambda found: found / J_PER_KWH)
            kg = _with_ends(joules, partial(_kg, study.site))
        rows = groups[r.group]
        kept = "; ".join(filter(None, (kept_words(rows), at_chance_words(rows))))
        settings.append(
            {"group": r.group, "label": r.label, "cells": [Cell(kept), kwh, kg],
             "energy_class": r.energy_class}
        )  # fmt: skip
    found = {"settings": settings, "tokens_per_day": study.tokens_per_day}
    found["loop_words"] = loop_words(study.rows)
    return found if settings else None


def _avoided_j(r: Repayment, tokens: float) -> Interval:
    """Joules that serving draws less than with the teacher, the student's building deducted."""
    building = apart_from_serving(r.built, same_meter=r.same_meter)
    taken = add([building, scaled(r.student, tokens, unit="J")])
    return saving(taken, scaled(r.teacher, tokens, unit="J")).joules


def _kg(site: Site | None, joules: float | None) -> float | None:
    if site is None:
        return None
    return co2e_kg(joules, pue=site.pue, grid_gco2e_per_kwh=site.grid_gco2e_per_kwh)


def _with_ends(joules: Interval, turned: Callable[[float], float | None]) -> Cell:
    """A figure of the joules, and below it the same of both ends of their interval."""
    value, low, high = (
        None if end is None else turned(end) for end in (joules.value, joules.low, joules.high)
    )
    if value is None:
        return Cell(units.MISSING)
    return Cell(_figure(value), f"{_figure(low)} to {_figure(high)}")
