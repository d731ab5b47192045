"""`choose --rate` and `choose --replay`: the fleet to serve with, in words or as a record."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from kdwatts.metrics.break_even import BreakEven
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.quantity import Quantity
from multirun_analysis.collect.collection import Collected
from multirun_analysis.commands.load_options import limits_asked, point_asked
from multirun_analysis.narrative.fleet_words import fleet_choice_words
from multirun_analysis.statistics.candidates import building_j, whole_j
from multirun_analysis.statistics.choice import Gate
from multirun_analysis.statistics.fleet_choice import FleetChoice, choose_fleet
from multirun_analysis.statistics.fleets import fleets
from multirun_analysis.statistics.measured_replicas import measured_replicas
from multirun_analysis.statistics.one_fleet import Fleet
from multirun_analysis.statistics.operating_point import OperatingPoint, limits_of
from multirun_analysis.statistics.rent import rent_of
from multirun_analysis.statistics.savings import absolute_interval, whole_saving
from multirun_analysis.statistics.site import Site
from multirun_analysis.values.rows import to_rows


def answer(
    collected: Collected, options: argparse.Namespace, gate: Gate, site: Site | None
) -> FleetChoice:
    """Prints which fleet to serve with."""
    serving, runs = to_rows(collected.serving), to_rows(collected.runs)
    measured_replicas(serving, runs)  # What was never measured has no limits either.
    point = point_asked(options, limits_of(limits_asked(options), serving))
    rent = rent_of(options.price_per_card_hour or ())
    found = fleets(serving, runs, point, rent=rent, site=site)
    chosen = choose_fleet(found, runs, gate=gate, days=options.days)
    if options.json:
        unfinished = [run["run"] for run in runs if not run["finished"]]
        record = _record(chosen, point, site, asdict(gate) | {"days": options.days})
        print(json.dumps(record | {"unfinished": unfinished}, indent=2))
    else:
        print(fleet_choice_words(chosen, site, gate))
    return chosen


def _record(
    chosen: FleetChoice, point: OperatingPoint, site: Site | None, asked: dict[str, Any]
) -> dict[str, Any]:
    choice, log = chosen.choice, point.log
    best = chosen.best
    return {
        "schema": 1,
        **asked,
        "source": point.source,
        "rate_per_s": point.rate_per_s,
        "peak_per_s": point.peak_per_s,
        "requests_per_day": point.requests_per_day,
        "slo": asdict(point.limits),
        "log": None if log is None else {"sha256": log.sha256, "format": log.log_format},
        "site": None if site is None else asdict(site),
        "verdict": choice.verdict,
        "reasons": choice.reasons,
        "recommended": None if best is None else _fleet_record(chosen, best),
        "teacher": _fleet_record(chosen, teacher)
        if best is not None and (teacher := chosen.teacher_of(best)) is not None
        else None,
        "others": [_fleet_record(chosen, chosen.fleets[c.label]) for c in choice.enough[1:]],
        "too_little": [_fleet_record(chosen, chosen.fleets[c.label]) for c in choice.too_little],
        "cannot_tell": [c.label for c in choice.cannot_tell],
        "cannot_tell_in_accuracy": [c.label for c in choice.as_accurate],
        "teacher_at_chance": [
            {"label": c.label, "benchmarks": c.teacher_at_chance} for c in choice.teacher_at_chance
        ],
        "not_judged": [
            {**_fleet_record(chosen, chosen.fleets[label]), "why": why}
            for label, why in chosen.not_judged.items()
        ],
        "not_served": chosen.not_served,
    }


def _fleet_record(chosen: FleetChoice, fleet: Fleet) -> dict[str, Any]:
    first, capacity = fleet.replica.first, fleet.capacity
    return {
        "label": fleet.label,
        "subject": fleet.replica.subject,
        "runs": fleet.replica.runs,
        "quantization": fleet.quantization,
        "engine": first["engine"],
        "engine_version": first["engine_version"],
        "gpus_a_replica": fleet.replica.gpus,
        "replicas": fleet.num_replicas,
        "gpus": fleet.num_gpus,
        "capacity_requests_per_s": capacity.requests_per_s,
        "capacity_is_lower_bound": capacity.is_lower_bound,
        "capacity_from": capacity.words,
        "energy_quality": fleet.energy_class,
        "parked_w": fleet.parked_w.value,
        **_amount("j_per_request", fleet.j_per_request),
        **_amount("j_per_day", fleet.joules_per_day),
        **_amount("j_per_output_token", fleet.j_per_output_token),
        **_amount("j_per_token", fleet.j_per_token),
        "prompt_tokens_a_request": fleet.tokens.prompt,
        "output_tokens_a_request": fleet.tokens.output,
        **{name: fleet.latency_s(name).value for name in vars(fleet.point.limits)},
        "latencies_at_requests_per_s": None if fleet.at_peak is None else fleet.at_peak["level"],
        "rent_usd_per_million_output_tokens": fleet.price.rent_usd,
        "electricity_usd_per_million_output_tokens": fleet.price.electricity_usd,
        "co2e_g_per_request": fleet.co2e_g_per_request.value,
        "co2e_interval_g_per_request": _ends(fleet.co2e_g_per_request),
        "water_l_per_request": fleet.water_l_per_request.value,
        "reference": fleet.reference,
        **_repaid("requests", fleet.requests),
        **_repaid("tokens", fleet.repaid_tokens),
        **_repaid("days", fleet.days),
        "break_even": fleet.requests.verdict,
        "why_no_break_even": fleet.why_no_break_even,
        "why_no_joules": fleet.why_not,
        "doubts": fleet.doubts,
        "remarks": fleet.remarks,
        **_candidate_record(chosen, fleet),
    }


def _candidate_record(chosen: FleetChoice, fleet: Fleet) -> dict[str, Any]:
    """What the ranking knows of a fleet; null for what was not judged."""
    placed = [*chosen.choice.enough, *chosen.choice.too_little]
    found = next((c for c in placed if c.label == fleet.label), None)
    names = ("accuracy_kept", "accuracy_kept_low", "accuracy_kept_high", "om_perf", "build_j",
             "whole_j", "whole_interval_j", "saved_share", "saved_interval")  # fmt: skip
    if found is None:
        return dict.fromkeys(names)
    kept, saved = found.accuracy, whole_saving(found)
    return {
        "accuracy_kept": kept.value,
        "accuracy_kept_low": kept.low,
        "accuracy_kept_high": kept.high,
        "om_perf": found.om_perf.value,
        "build_j": building_j(found).value,
        "whole_j": whole_j(found).value,
        "whole_interval_j": _ends(absolute_interval(whole_j(found))),
        "saved_share": saved.share.value if saved.is_resolved else None,
        "saved_interval": _ends(saved.share),
    }


def _amount(name: str, amount: Quantity) -> dict[str, Any]:
    ends = None if amount.value is None else _ends(absolute_interval(amount))
    return {name: amount.value, f"{name}_interval": ends}


def _repaid(name: str, found: BreakEven) -> dict[str, Any]:
    return {
        f"{name}_to_break_even": found.value,
        f"{name}_to_break_even_low": found.low,
        f"{name}_to_break_even_high": found.high,
    }


def _ends(found: Interval) -> list[float | None] | None:
    return [found.low, found.high] if found.is_bounded else None
