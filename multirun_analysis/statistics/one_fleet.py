"""One fleet: how many replicas a model needs at an operating point, what they draw and cost.

All figures are of a whole day, so a load that changes is summed, and joules per request are never
averaged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kdwatts.metrics.break_even import BreakEven
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.fleet import Price, fleet_energy, price_of_a_million, replicas
from kdwatts.metrics.footprint import co2e_kg, water_l
from kdwatts.metrics.quantity import Quantity, scaled
from multirun_analysis.statistics.measured_replicas import (
    PowerCurve,
    Replica,
    ReplicaCapacity,
    capacity_of,
    parked_w,
    power_curve,
)
from multirun_analysis.statistics.operating_point import DAY_S, OperatingPoint
from multirun_analysis.statistics.rent import Rent, mean_usd_per_gpu_hour
from multirun_analysis.statistics.requested_tokens import (
    RequestedTokens,
    differs_from_the_log,
    requested_tokens,
)
from multirun_analysis.statistics.savings import absolute_interval
from multirun_analysis.statistics.site import Site
from multirun_analysis.values.rows import Row

_NO_J = Quantity(None, unit="J", quality="missing")
_NO_W = Quantity(None, unit="W", quality="missing")
NO_PRICE, NO_CAPACITY, NO_ENDS = Price(None, None), ReplicaCapacity(None), Interval(None)
UNKNOWN = BreakEven("unknown")

BURSTY = 1.5
"""Variance over mean of the requests in 1 s above which a log is said to come in bursts: Poisson
arrivals have 1."""


@dataclass(frozen=True)
class Fleet:
    """One candidate at an operating point. Figures that are not known are None or have no value."""

    label: str
    replica: Replica
    point: OperatingPoint
    tokens: RequestedTokens
    """Tokens of a request, as measured."""
    why_not: str | None = None
    """Why there are no joules, in words after a colon; None where there are."""
    doubts: tuple[str, ...] = ()
    """Why the answer is not settled, as ends of sentences."""
    remarks: tuple[str, ...] = ()
    """What a reader must know, a sentence each."""
    capacity: ReplicaCapacity = NO_CAPACITY
    num_replicas: int | None = None
    num_gpus: int | None = None
    energy_class: str = "missing"
    """measured, mixed, estimated or missing."""
    parked_w: Quantity = _NO_W
    """Power of all replicas with nothing to do."""
    joules_per_day: Quantity = _NO_J
    j_per_request: Quantity = _NO_J
    j_per_output_token: Quantity = _NO_J
    j_per_token: Quantity = _NO_J
    """Of tokens read and written."""
    at_peak: Row | None = None
    """The measured load from which the latencies are: the least that is no lower than a replica's
    part of the peak."""
    price: Price = NO_PRICE
    """Of a million output tokens."""
    electricity_usd: Interval = NO_ENDS
    """Of a million output tokens, with the interval of the joules. No value without a price."""
    co2e_g_per_request: Interval = NO_ENDS
    """No value where no site is stated."""
    water_l_per_request: Interval = NO_ENDS
    """No value where no site is stated, or it states no water."""
    reference: str | None = None
    """Label of the teacher that it is held against: as it was trained."""
    requests: BreakEven = UNKNOWN
    """Requests until building is repaid; tokens and days follow it."""
    repaid_tokens: BreakEven = UNKNOWN
    """Tokens read and written by the student until then."""
    days: BreakEven = UNKNOWN
    why_no_break_even: str | None = None
    """None where there is an answer, or where nothing was built."""

    @property
    def quantization(self) -> str | None:
        """Such as int4; None for weights as they are."""
        return self.replica.first["quantization"]

    @property
    def is_reference(self) -> bool:
        """Whether it is a teacher as it was trained, which others are held against."""
        return self.replica.subject == "teacher" and self.quantization is None

    def latency_s(self, name: str) -> Interval:
        """The 99th percentile `ttft_p99_s`, `tpot_p99_s` or `e2e_p99_s` at the peak."""
        row = self.at_peak or {}
        return Interval(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"))


def fleet_of(replica: Replica, point: OperatingPoint, rent: Rent, site: Site | None) -> Fleet:
    """The fleet of a replica, without a label and without break-even."""
    power, capacity = power_curve(replica), capacity_of(replica, point.limits)
    tokens = requested_tokens(replica.curve.points, replica.first)
    fleet = Fleet(
        label="",
        replica=replica,
        point=point,
        tokens=tokens,
        doubts=tuple(differs_from_the_log(tokens, replica.first, point)),
        remarks=power.remarks,
        capacity=capacity,
        energy_class=power.energy_class,
    )
    if capacity.requests_per_s is None:
        return replace(fleet, why_not=f"how many replicas it needs is not known: {capacity.words}")
    number = replicas(point.peak_per_s, capacity.requests_per_s)
    fleet = replace(
        fleet,
        num_replicas=number,
        num_gpus=number * len(replica.gpus),
        # An estimate has no idle power, which is not 0 W.
        parked_w=_NO_W
        if power.energy_class == "estimated"
        else scaled(parked_w(replica, power.energy_class), number),
        at_peak=_at_peak(power, point.peak_per_s / number),
        remarks=(
            *power.remarks,
            *_gpu_remarks(replica),
            *_capacity_remarks(capacity, point, number),
        ),
    )
    if why := _why_no_joules(power, point, number):
        return replace(fleet, why_not=why)
    return _with_joules(fleet, power, rent, site)


def _gpu_remarks(replica: Replica) -> list[str]:
    if len(replica.gpus) < 2 or replica.first["num_gpus_of_server"] is not None:
        return []
    return [
        f"How many of the {len(replica.gpus)} GPUs of its job a server takes is not known, so all "
        "count in its joules, its number of GPUs and its rent."
    ]


def _capacity_remarks(
    capacity: ReplicaCapacity, point: OperatingPoint, num_replicas: int
) -> list[str]:
    found = []
    if capacity.is_lower_bound and num_replicas > 1:
        found.append(
            f"A replica carries at least {capacity.requests_per_s:.3g} requests/s "
            f"({capacity.words}), so fewer replicas may be enough."
        )
    dispersion = None if point.log is None else point.log.dispersion
    if dispersion is not None and dispersion > BURSTY:
        found.append(
            f"The log comes in bursts (variance over mean of the requests in 1 s: "
            f"{dispersion:.2g}), and waits are longer than under the Poisson arrivals of a "
            "capacity; replay the busiest hour to see them."
        )
    return found


def _why_no_joules(power: PowerCurve, point: OperatingPoint, num_replicas: int) -> str | None:
    """Why the rates of a replica are outside of what was measured; None where they are inside."""
    if not power.knots:
        return "no load that lasted has joules"
    rates = [one.rate_per_s / num_replicas for one in point.stretches]
    least, greatest = power.knots[0].rate_per_s, power.knots[-1].rate_per_s
    if max(rates) > greatest:
        return (
            f"a replica would get {max(rates):.3g} requests/s, but its power was measured up to "
            f"{greatest:g}; measure a greater rate"
        )
    if min(rates) < least:
        return (
            f"a replica would get {min(rates):.3g} requests/s, but its power was measured from "
            f"{least:g} on, and its parking power is not known; measure a lower rate, or with "
            "eval.serving.parking_s=10"
        )
    return None


def _at_peak(power: PowerCurve, rate_per_s: float) -> Row | None:
    return next((row for row in power.points if row["level"] >= rate_per_s), None)


def _with_joules(fleet: Fleet, power: PowerCurve, rent: Rent, site: Site | None) -> Fleet:
    point, number, tokens = fleet.point, fleet.num_replicas or 0, fleet.tokens
    energy = fleet_energy(power.knots, point.stretches, number)
    energy = replace(energy, quality=power.energy_class)
    request = scaled(energy, 1 / point.requests_per_day, unit="J/request")
    fleet = replace(fleet, joules_per_day=energy, j_per_request=request, **_at_site(request, site))
    if not tokens.output or tokens.prompt is None:
        return fleet
    price = price_of_a_million(
        num_gpus=fleet.num_gpus or 0,
        seconds=DAY_S,
        output_tokens=point.requests_per_day * tokens.output,
        energy_j=energy.value,
        usd_per_gpu_hour=mean_usd_per_gpu_hour(rent, fleet.replica.gpus),
        pue=1.0 if site is None else site.pue,
        usd_per_kwh=None if site is None else site.price_usd_per_kwh,
    )
    usd_per_j = (price.electricity_usd or 0.0) / (energy.value or 1.0)
    return replace(
        fleet,
        j_per_output_token=scaled(request, 1 / tokens.output, unit="J/token"),
        j_per_token=scaled(request, 1 / (tokens.prompt + tokens.output), unit="J/token"),
        price=price,
        electricity_usd=NO_ENDS
        if price.electricity_usd is None
        else absolute_interval(energy).times(usd_per_j),
    )


def _at_site(request: Quantity, site: Site | None) -> dict[str, Interval]:
    """CO2e and water of a request, with the interval of its joules; the factors as they stand."""
    if site is None:
        return {}
    joules = absolute_interval(request)
    kg = co2e_kg(1.0, pue=site.pue, grid_gco2e_per_kwh=site.grid_gco2e_per_kwh) or 0.0
    water = water_l(1.0, wue_l_per_kwh=site.wue_l_per_kwh)
    return {
        "co2e_g_per_request": joules.times(1000 * kg),
        "water_l_per_request": NO_ENDS if water is None else joules.times(water),
    }
