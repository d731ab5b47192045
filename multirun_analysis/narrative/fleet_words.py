"""A choice of what to serve at a load and a latency, in plain sentences."""

from __future__ import annotations

from kdwatts.metrics.break_even import BreakEven
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.fleet import USED_SHARE
from multirun_analysis.narrative.choice_words import (
    ends_words,
    kept_lines,
    saved_lines,
    short_words,
    too_little_lines,
    verdict_line,
)
from multirun_analysis.statistics.candidates import Candidate, building_j, whole_j
from multirun_analysis.statistics.choice import Gate, listed
from multirun_analysis.statistics.fleet_choice import FleetChoice
from multirun_analysis.statistics.one_fleet import Fleet
from multirun_analysis.statistics.operating_point import DAY_S, Limits, OperatingPoint
from multirun_analysis.statistics.replica_names import engine_name, hardware_words
from multirun_analysis.statistics.savings import absolute_interval, whole_saving
from multirun_analysis.statistics.site import Site
from multirun_analysis.values import units

LATENCIES = {
    "ttft_p99_s": "the first token",
    "tpot_p99_s": "each later token",
    "e2e_p99_s": "the last token",
}


def fleet_choice_words(found: FleetChoice, site: Site | None, gate: Gate) -> str:
    """What to serve, on what, and why; what is not known, and why."""
    best, choice = found.best, found.choice
    if best is None:
        lines = [f"No recommendation: {_why_none(found)}."]
        lines += [load_words(fleet.point) for fleet in list(found.fleets.values())[:1]]
    else:
        lines = _reasons(found, best, site, gate)
    lines += too_little_lines(choice.too_little, gate)
    lines += [
        f"What {c.label} keeps is not known: its teacher is at chance on "
        f"{', '.join(c.teacher_at_chance)}."
        for c in choice.teacher_at_chance
    ]
    return "\n".join([*lines, *not_judged_lines(found)])


def _why_none(found: FleetChoice) -> str:
    if found.choice.teacher_at_chance:
        return "no teacher is better than guessing"
    if all(fleet.why_not is not None for fleet in found.fleets.values()):
        return "for no model is it known how many replicas it needs"
    return "nothing was measured that can be held against its teacher"


def not_judged_lines(found: FleetChoice) -> list[str]:
    """What has no place in the ranking, each with the reason."""
    lines = [f"Not judged: {label}: {why}." for label, why in found.not_judged.items()]
    if found.not_served:
        names = ", ".join(found.not_served)
        lines.append(f"Not judged: {names}: no server was measured in an open loop.")
    return lines


def _reasons(found: FleetChoice, best: Fleet, site: Site | None, gate: Gate) -> list[str]:
    choice = found.choice
    candidate, *others = choice.enough
    lines = [f"Serve {best.label} on {size_words(best)}.", verdict_line(choice)]
    lines += ["It is the teacher itself."] if best.is_reference else kept_lines(candidate, gate)
    lines += [load_words(best.point), _capacity_line(best), *_latency_lines(best)]
    lines += joules_lines(best, site)
    if not best.is_reference:
        lines += [_building_line(best, candidate, found.days), repaid_line(best)]
        lines += saved_lines(candidate, whole_saving(candidate), who="It")
    teacher = found.teacher_of(best)
    if teacher is not None and teacher.label not in [c.label for c in others[:1]]:
        lines.append(_beside_line("Beside it", teacher))
    if choice.cannot_tell:
        lines.append(
            f"Its energy does not differ clearly from that of {listed(choice.cannot_tell)}. Of "
            "these it is the cheapest to build, then the one that keeps most accuracy, as far as "
            "intervals tell."
        )
    for other in others[:1]:
        fleet = found.fleets[other.label]
        keeps = "the teacher itself" if fleet.is_reference else short_words(other, gate)
        lines.append(_beside_line("Second choice", fleet, keeps))
    return [*lines, *best.remarks]


def size_words(fleet: Fleet) -> str:
    """Such as `2 replicas, each on 1 x NVIDIA L4 (2 GPUs), behind vllm 0.32.0`."""
    number = units.count(fleet.num_replicas or 0, "replica")
    gpus = f" ({units.count(fleet.num_gpus, 'GPU')})" if fleet.num_gpus else ""
    each = "each on " if (fleet.num_replicas or 0) > 1 else "on "
    hardware = hardware_words(fleet.replica)
    return f"{number}, {each}{hardware}{gpus}, behind {engine_name(fleet.replica)}"


def load_words(point: OperatingPoint) -> str:
    """The load of a day, its peak, and the objective."""
    load = "The load that you ask for is"
    if point.log is not None:
        load = f"The load of the log, which spans {_span(point)}, is"
    return (
        f"{load} {point.rate_per_s:.3g} requests/s on average and "
        f"{point.peak_per_s:.3g} at its peak. 99 of 100 requests must have "
        f"{limits_words(point.limits)}."
    )


def _span(point: OperatingPoint) -> str:
    assert point.log is not None
    how = "whose mean day is taken" if point.log.span_s > DAY_S else "is repeated to fill a day"
    return f"{units.duration(point.log.span_s)} and {how}"


def limits_words(limits: Limits) -> str:
    """Such as `the first token within 0.5 s and each later token within 0.05 s`."""
    return " and ".join(
        f"{words} within {seconds:g} s"
        for name, words in LATENCIES.items()
        if (seconds := getattr(limits, name)) is not None
    )


def _capacity_line(fleet: Fleet) -> str:
    capacity = fleet.capacity
    least = "at least " if capacity.is_lower_bound else ""
    return (
        f"One replica carries {least}{capacity.requests_per_s:.3g} requests/s ({capacity.words}), "
        f"and the peak may take {100 * USED_SHARE:g} % of that."
    )


def _latency_lines(fleet: Fleet) -> list[str]:
    row = fleet.at_peak
    if row is None:
        return []
    said = [
        f"{words} came within {_with_ends(fleet.latency_s(name), 's')}"
        for name, words in LATENCIES.items()
        if fleet.latency_s(name).value is not None
    ]
    if not said:
        return []
    part = fleet.point.peak_per_s / (fleet.num_replicas or 1)
    return [
        f"At the peak a replica gets {part:.3g} requests/s. At {row['level']:g}, the nearest "
        f"measured load that is no lower, in 99 of 100 requests {_listed(said)}."
    ]


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def joules_lines(fleet: Fleet, site: Site | None) -> list[str]:
    """Joules of a request and of a day, parked power, price, CO2e and water."""
    request, day = fleet.j_per_request, fleet.joules_per_day
    lines = [
        f"A request takes {units.quantity(request.value, 'J')} "
        f"({ends_words(absolute_interval(request), 'J')}), {fleet.energy_class}, and a day "
        f"{units.energy(day.value)} ({units.watt_hours(day.value)}). {_parked_words(fleet)}"
    ]
    if fleet.tokens.output:
        lines.append(
            f"A request reads {fleet.tokens.prompt:.3g} and writes {fleet.tokens.output:.3g} "
            f"tokens. A token written takes {units.quantity(fleet.j_per_output_token.value, 'J')}, "
            f"one read or written {units.quantity(fleet.j_per_token.value, 'J')}."
        )
    if price := price_words(fleet, site):
        lines.append(f"A million tokens written cost {price}.")
    if site is not None and fleet.co2e_g_per_request.value is not None:
        water = fleet.water_l_per_request
        also = "" if water.value is None else f" and {_with_ends(water, 'l')} of water"
        lines.append(
            f"At site {site.name} ({site.grid_gco2e_per_kwh:g} gCO2e/kWh, PUE {site.pue:g}) a "
            f"request causes {_with_ends(fleet.co2e_g_per_request, 'gCO2e')}{also}."
        )
    return lines


def _parked_words(fleet: Fleet) -> str:
    who, draw = ("its replica", "draws") if fleet.num_replicas == 1 else ("its replicas", "draw")
    if fleet.energy_class == "estimated":
        return f"What {who} {draw} with nothing to do is not known."
    if fleet.parked_w.value is None:
        return f"What {who} {draw} with nothing to do was not measured."
    together = "" if fleet.num_replicas == 1 else " together"
    power = _with_ends(absolute_interval(fleet.parked_w), "W")
    return f"With nothing to do, {who}{together} {draw} {power}."


def price_words(fleet: Fleet, site: Site | None) -> str:
    """Rent and electricity apart; empty where neither is known."""
    rent, electricity = fleet.price.rent_usd, fleet.electricity_usd
    parts = []
    if rent is not None:
        parts.append(f"{units.significant(rent)} USD of rent")
    if electricity.value is not None and site is not None:
        parts.append(f"{_with_ends(electricity, 'USD', plain=True)} of electricity")
    both = "; rent often holds the electricity" if len(parts) == 2 else ""
    return " and ".join(parts) + both


def _building_line(fleet: Fleet, candidate: Candidate, days: float) -> str:
    whole, building_joules = whole_j(candidate), units.energy(building_j(candidate).value)
    span = f"{days:g} day{'s' * (days != 1)}"
    built = f"Building it took {building_joules}, its share of inherited work included"
    if fleet.replica.subject == "teacher":
        built = f"Rounding it to {fleet.quantization} took {building_joules}"
    return (
        f"{built}. With {units.plain_count(candidate.units)} requests in {span} that makes "
        f"{units.energy(whole.value)} ({ends_words(absolute_interval(whole), 'J')})."
    )


def repaid_line(fleet: Fleet) -> str:
    """After how many requests, tokens and days building is repaid, or why that is not known."""
    if fleet.why_no_break_even:
        return f"When building is repaid is not known: {fleet.why_no_break_even}."
    found = fleet.requests
    against = f"Held against {fleet.reference}"
    if found.value is None:
        words = {
            "never": f"{against}, building is never repaid: a request takes no less.",
            "unresolved": f"{against}, when building is repaid is unresolved: the saving of a "
            "request cannot be told from 0",
        }.get(found.verdict, f"{against}, building is repaid: {found.verdict}.")
        if found.verdict == "unresolved":
            least = found.low
            words += f"; not before {units.plain_count(least)} requests." if least else "."
        return words
    return (
        f"{against}, building is repaid after {_counted(found)} requests, "
        f"{_counted(fleet.repaid_tokens)} tokens or {_days(fleet.days)} days."
    )


def _counted(found: BreakEven) -> str:
    ends = f"{units.plain_count(found.low)} to {units.plain_count(found.high)}"
    return f"{units.plain_count(found.value)} ({ends})"


def _days(found: BreakEven) -> str:
    low, high = (units.number(end) for end in (found.low, found.high))
    return f"{units.number(found.value)} ({low} to {high})"


def _beside_line(head: str, fleet: Fleet, keeps: str = "") -> str:
    kept = f" ({keeps})" if keeps else ""
    joules = ends_words(absolute_interval(fleet.j_per_request), "J")
    rent = fleet.price.rent_usd
    price = "" if rent is None else f", {units.significant(rent)} USD of rent a million tokens"
    return (
        f"{head}: {fleet.label}{kept}, on {size_words(fleet)}. A request takes "
        f"{units.quantity(fleet.j_per_request.value, 'J')} ({joules}){price}. "
        f"{_parked_words(fleet)}"
    )


def _with_ends(found: Interval, unit: str, *, plain: bool = False) -> str:
    def said(value: float | None) -> str:
        if plain:
            return f"{units.number(value)} {unit}"
        return units.quantity(value, unit)

    if found.low is None or found.high is None:
        return said(found.value)
    return f"{said(found.value)} ({said(found.low)} to {said(found.high)})"
