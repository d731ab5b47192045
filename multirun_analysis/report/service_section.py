"""What to serve at a load and an SLO: the answer, the traffic, each candidate, and what is open."""

from __future__ import annotations

from collections.abc import Iterator

from multirun_analysis.figures.fleet_over_load import look_of_fleet
from multirun_analysis.narrative.fleet_words import fleet_choice_words, not_judged_lines
from multirun_analysis.narrative.traffic_words import traffic_words
from multirun_analysis.report import fleet_cells
from multirun_analysis.report.cells import Cell
from multirun_analysis.report.render import Values
from multirun_analysis.report.study import FREE, Study
from multirun_analysis.report.typeset import MARKS, mark_of
from multirun_analysis.statistics.fleet_building import building_of
from multirun_analysis.statistics.fleet_choice import FleetChoice
from multirun_analysis.statistics.one_fleet import Fleet
from multirun_analysis.statistics.operating_point import Limits
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.savings import saving
from multirun_analysis.values import units
from multirun_analysis.values.rows import grouped

NOTHING_BUILT = "nothing was built"


def service(study: Study) -> Values | None:
    """The values of the section; None for a study without a load."""
    found, asked = study.fleet_choice, study.service
    if found is None or asked is None:
        return None
    point = asked.point
    built = [one for one in _in_order(found) if one.why_no_break_even != NOTHING_BUILT]
    answer, reasons = answer_and_reasons(study)
    kinds = {mark_of({"energy_class": fleet.energy_class}) for fleet in found.fleets.values()}
    return {
        "title": f"What to serve at {units.significant(point.rate_per_s)} requests a second",
        "answer": answer,
        "reasons": reasons,
        "point": point,
        "site": study.site,
        "has_rent": asked.rent != FREE,
        "traffic": study.shown.get("traffic_by_hour"),
        "traffic_words": traffic_words(point.log) if point.log else [],
        "latencies": _latencies(point.limits),
        "rows": [_needs(fleet, found, study) for fleet in _in_order(found)],
        "marks": [f"{mark} {meaning}." for mark, meaning in MARKS.values() if mark in kinds],
        "repaid": [_repaid(fleet, found, study) for fleet in built if fleet.reference],
        "figure": study.shown.get("fleet_over_load"),
        "unknown": [*not_judged_lines(found), *_open_words(found)],
    }


def answer_and_reasons(study: Study) -> tuple[list[str], list[str]]:
    """What `choose` says of the service: the first two sentences, and all that follow.

    What was not judged is left out of them. Both are empty without a load.
    """
    found, asked = study.fleet_choice, study.service
    if found is None or asked is None:
        return [], []
    apart = set(not_judged_lines(found))
    lines = fleet_choice_words(found, study.site, asked.gate).split("\n")
    lines = [line for line in lines if line not in apart]
    first = 1 if found.best is None else 2
    return lines[:first], lines[first:]


def _latencies(limits: Limits) -> dict[str, str]:
    """The percentiles of the table, with their heads; the last token's where it has a limit."""
    last = {} if limits.e2e_p99_s is None else {"e2e_p99_s": "Last token"}
    return {"ttft_p99_s": "First token", "tpot_p99_s": "Later tokens"} | last


def _in_order(found: FleetChoice) -> list[Fleet]:
    """The fleets as they are ranked, and then those that are not."""
    choice = found.choice
    ranked = [*choice.enough, *choice.too_little, *choice.teacher_at_chance]
    names = dict.fromkeys([c.label for c in ranked])
    return [found.fleets[name] for name in (names | dict.fromkeys(found.fleets))]


def _named(fleet: Fleet, study: Study) -> Values:
    setting = fleet.replica.setting
    look = look_of_fleet(fleet.replica.subject, setting, study.look)
    return {"group": setting, "label": fleet.label, "look": look}


def _needs(fleet: Fleet, found: FleetChoice, study: Study) -> Values:
    choice = found.choice
    ranked = [*choice.enough, *choice.too_little, *choice.teacher_at_chance]
    candidate = next((c for c in ranked if c.label == fleet.label), None)
    names = _latencies(fleet.point.limits)
    is_best = found.best is not None and found.best.label == fleet.label
    return _named(fleet, study) | {
        "below": "recommended" if is_best else "",
        "needs": [
            fleet_cells.kept(candidate, is_reference=fleet.is_reference),
            fleet_cells.size(fleet),
            fleet_cells.joules(fleet.j_per_request, fleet.energy_class),
            *(fleet_cells.seconds(fleet.latency_s(name)) for name in names),
            fleet_cells.parked(fleet),
            fleet_cells.price(fleet),
            fleet_cells.carbon(fleet),
        ],
    }


def _repaid(fleet: Fleet, found: FleetChoice, study: Study) -> Values:
    teacher = found.teacher_of(fleet)
    saved = Cell(units.MISSING)
    if teacher is not None:
        saved = fleet_cells.saved(saving(fleet.j_per_request, teacher.j_per_request).joules)
    building = building_of(fleet.replica, study.rows).whole
    return _named(fleet, study) | {
        "against": f"against {fleet.reference}",
        "cells": [
            fleet_cells.joules(building, energy_class(building.quality)),
            saved,
            *(fleet_cells.repaid(one) for one in (fleet.requests, fleet.repaid_tokens, fleet.days)),
        ],
    }


def _open_words(found: FleetChoice) -> Iterator[str]:
    """What to bear in mind of the others, and why repayment is not known: each sentence once."""
    said = []
    for fleet in _in_order(found):
        why = fleet.why_no_break_even
        if why not in (None, NOTHING_BUILT, fleet.why_not):
            words = f"When building is repaid is not known: {why}."
            said.append({"of": fleet.label, "words": words})
        if fleet is not found.best:  # Its own stand among the reasons.
            said += [{"of": fleet.label, "words": words} for words in fleet.remarks]
    for words, same in grouped(said, "words").items():
        yield f"{', '.join(row['of'] for row in same)}: {words}"
