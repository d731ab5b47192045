"""When serving repays what building took: requests, tokens and days of its fleet.

A student, or a teacher in few bits, is held against the teacher as it was trained, on the same
hardware and behind the same engine. Of several such fleets, as with other flags, the one that draws
least counts. Where there is none, it is the one that draws least on any hardware, and the fleet
says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdwatts.metrics.break_even import requests_to_break_even
from multirun_analysis.statistics.fleet_building import building_of
from multirun_analysis.statistics.one_fleet import Fleet
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.values.rows import Row

PLACE = ("gpus", "cpu", "engine", "engine_version")
"""What must be equal for a teacher to be on the same hardware and engine."""


def with_break_even(fleet: Fleet, every: Sequence[Fleet], runs: Sequence[Row]) -> Fleet:
    """The fleet with its reference, and the requests, tokens and days until building is repaid.

    `every` are all fleets of the operating point, `runs` the finished runs.
    """
    if fleet.is_reference:
        return replace(fleet, why_no_break_even="nothing was built")
    if fleet.replica.subject == "model":
        return replace(fleet, why_no_break_even="it was measured without a run")
    reference, remark = reference_of(fleet, every)
    if reference is not None:
        remarks = (*fleet.remarks, remark) if remark else fleet.remarks
        fleet = replace(fleet, reference=reference.label, remarks=remarks)
    if reference is None:
        return replace(fleet, why_no_break_even=remark)
    if fleet.why_not is not None:
        return replace(fleet, why_no_break_even=fleet.why_not)
    building = building_of(fleet.replica, runs)
    found = requests_to_break_even(
        building.whole,
        reference.j_per_request,
        fleet.j_per_request,
        same_meter=is_one_meter(fleet, reference, building.rows),
    )
    why = None
    if found.verdict == "unknown":
        bits = f", in {fleet.quantization}," if fleet.quantization else ""
        why = f"the energy of building it{bits} is not known"
    length = (fleet.tokens.prompt or 0.0) + (fleet.tokens.output or 0.0)
    return replace(
        fleet,
        requests=found,
        repaid_tokens=found.times(length) if length else replace(found, verdict="unknown"),
        days=found.times(1 / fleet.point.requests_per_day),
        why_no_break_even=why,
    )


def reference_of(fleet: Fleet, every: Sequence[Fleet]) -> tuple[Fleet | None, str]:
    """The teacher's fleet that it is held against, and what to say of it; or why there is none."""
    teachers = [
        other
        for other in every
        if other.is_reference and other.replica.model == fleet.replica.model
    ]
    if not teachers:
        return None, "its teacher was not measured in an open loop as it was trained"
    alike = [other for other in teachers if other.replica.workload == fleet.replica.workload]
    if not alike:
        return None, "its teacher was measured with other lengths"
    answered = [other for other in alike if other.why_not is None]
    if not answered:
        return None, f"of its teacher, {alike[0].why_not}"
    same_class = [other for other in answered if other.energy_class == fleet.energy_class]
    if not same_class:
        kinds = f"{fleet.energy_class} and its teacher's {answered[0].energy_class}"
        return None, f"its joules are {kinds}"
    here = [other for other in same_class if _place(other) == _place(fleet)]
    best = min(here or same_class, key=lambda other: other.joules_per_day.number)
    if here:
        return best, ""
    return best, (
        f"Its teacher was not measured on the same hardware behind the same engine, so it is held "
        f"against the teacher's fleet that draws least: {best.label}."
    )


def _place(fleet: Fleet) -> tuple:
    return tuple(fleet.replica.first[name] for name in PLACE)


def is_one_meter(fleet: Fleet, reference: Fleet, rows: Sequence[Row]) -> bool:
    """Whether one machine, in one way, read the joules of building and of both fleets."""
    ways = {fleet.energy_class, reference.energy_class}
    ways |= {energy_class(run["total_energy_quality"]) for run in rows}
    machines = {fleet.replica.machine, reference.replica.machine, *map(machine_of, rows)}
    return len(machines) == len(ways) == 1 and fleet.replica.machine[0] is not None


def machine_of(run: Row) -> tuple[str | None, str | None, int]:
    """Host, kind of GPU and number of a run, as `Replica.machine` has them."""
    return run.get("host"), run.get("gpu_name"), int(run.get("num_gpus") or 0)
