"""What the tables of fleets say of each candidate, as cells."""

from __future__ import annotations

from kdwatts.metrics.break_even import BreakEven
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.quantity import Quantity
from multirun_analysis.report.cells import Cell
from multirun_analysis.report.typeset import mark_of
from multirun_analysis.statistics.accuracy_words import NOT_TOLD, share_and_ends
from multirun_analysis.statistics.candidates import Candidate
from multirun_analysis.statistics.one_fleet import Fleet
from multirun_analysis.statistics.savings import absolute_interval
from multirun_analysis.values import units


def kept(candidate: Candidate | None, *, is_reference: bool) -> Cell:
    """Accuracy kept; of the teacher all of it, by definition."""
    if is_reference:
        return Cell("100 %", "by definition")
    if candidate is None or candidate.accuracy.value is None:
        if candidate is None or not candidate.teacher_at_chance:
            return Cell(units.MISSING)
        return Cell(NOT_TOLD, "teacher at chance")
    return Cell(*share_and_ends(candidate.accuracy))


def size(fleet: Fleet) -> Cell:
    """Replicas, and their GPUs below."""
    if fleet.num_replicas is None:
        return Cell(units.MISSING)
    if not fleet.num_gpus:
        return Cell(f"{fleet.num_replicas:,}", "no GPU")
    return Cell(f"{fleet.num_replicas:,}", units.count(fleet.num_gpus, "GPU"))


def joules(amount: Quantity, energy_class: str = "measured") -> Cell:
    """An amount in its prefix, and the ends of its interval in the same one.

    A sign says how joules were obtained that were not measured.
    """
    if amount.value is None:
        return Cell(units.MISSING)
    found = absolute_interval(amount)
    factor, prefix = units.prefix(amount.value, lowest=1e-6)
    unit = f"{prefix}{amount.unit.partition('/')[0]}"
    sign = mark_of({"energy_class": energy_class})
    text = f"{units.significant(amount.value / factor)} {unit}{sign}"
    return Cell(text, _ends(found, 1 / factor))


def saved(found: Interval) -> Cell:
    """Joules that a request saves; below 0 it takes more."""
    if found.value is None:
        return Cell(units.MISSING)
    if not found.is_bounded:
        return Cell("unresolved")
    factor, prefix = units.prefix(abs(found.value), lowest=1e-6)
    return Cell(f"{units.significant(found.value / factor)} {prefix}J", _ends(found, 1 / factor))


def _ends(found: Interval, factor: float = 1.0, digits: int = 3) -> str:
    if found.low is None or found.high is None:
        return "interval unknown"
    low, high = (units.significant(factor * end, digits) for end in (found.low, found.high))
    return "" if low == high else f"{low} to {high}"


def seconds(found: Interval) -> Cell:
    """A percentile, and the ends of its interval as far as there are any."""
    if found.value is None:
        return Cell(units.MISSING)
    ends = [None if end is None else units.significant(end) for end in (found.low, found.high)]
    text = f"{units.significant(found.value)} s"
    if ends[0] and ends[1]:
        return Cell(text, f"{ends[0]} to {ends[1]}")
    return Cell(text, f"at least {ends[0]}" if ends[0] else "")


def parked(fleet: Fleet) -> Cell:
    """Power of all replicas with nothing to do. An estimate has no idle power, so it has none."""
    if fleet.parked_w.value is None or fleet.energy_class == "estimated":
        return Cell(units.MISSING)
    return Cell(f"{units.significant(fleet.parked_w.value)} W")


def price(fleet: Fleet) -> Cell:
    """US dollars of a million output tokens: rent, and electricity below it."""
    rent, electricity = fleet.price.rent_usd, fleet.electricity_usd.value
    below = "" if electricity is None else f"{units.significant(electricity)} electricity"
    if rent is None:
        return Cell(units.MISSING, below)
    return Cell(units.significant(rent), below)


def carbon(fleet: Fleet) -> Cell:
    """CO2e of a request, and the water that the site evaporates for it."""
    grams, litres = fleet.co2e_g_per_request.value, fleet.water_l_per_request.value
    water = "" if litres is None else f"{units.quantity(litres, 'l')} water"
    return Cell(units.quantity(grams, "g"), water)


def repaid(found: BreakEven, *, digits: int = 3) -> Cell:
    """A number of requests, tokens or days, or the word that stands for it."""
    if found.verdict == "unknown":
        return Cell(units.MISSING)
    if found.value is None:
        is_open = found.verdict == "unresolved" and found.low is not None
        return Cell(found.verdict, f"not before {_count(found.low, digits)}" if is_open else "")
    ends = (_count(end, digits) for end in (found.low, found.high))
    return Cell(_count(found.value, digits), " to ".join(ends))


def _count(number: float | None, digits: int) -> str:
    if number is not None and number < 1000:
        return units.significant(number, digits)
    return units.plain_count(number)
