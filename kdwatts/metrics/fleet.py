"""A fleet of equal replicas under a load: how many, what they draw, and what they cost.

A replica is one server with its GPUs. Every replica gets an equal part of the load, and all of them
stay up when there is little to do: what idles is provisioned, and draws its parked power.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdwatts.metrics.footprint import J_PER_KWH
from kdwatts.metrics.quantity import Quantity, add, mean_of, scaled

USED_SHARE = 0.75
"""Share of a replica's capacity that the peak may take.

Waits grow as u / (1 - u) with the share u that is used (Kingman 1961), so the rest is head-room for
what the mean rate does not show. The share is our judgement.
"""
_ROUNDING = 1e-9
"""Share by which a peak may exceed what is carried: 0.9 is not more than 0.75 x 1.2."""


@dataclass(frozen=True)
class Knot:
    """The power of one replica at one rate; at rate 0 it is parked."""

    rate_per_s: float
    power_w: Quantity
    by_server: Mapping[Hashable, float] = field(default_factory=dict)
    """Watts of each server that was measured at this rate; empty where that is not known."""


@dataclass(frozen=True)
class Stretch:
    """A time with one mean rate of the whole fleet, such as an hour of a day."""

    duration_s: float
    rate_per_s: float


def replicas(peak_per_s: float, capacity_per_s: float, *, used_share: float = USED_SHARE) -> int:
    """The least number of replicas whose capacity, used up to a share, carries the peak.

    n = ceil(peak / (used_share x capacity)), at least 1. Raises ValueError for numbers that are not
    above 0.
    """
    if not (peak_per_s > 0 and capacity_per_s > 0 and used_share > 0):
        raise ValueError(
            f"replicas: peak_per_s={peak_per_s:g}, capacity_per_s={capacity_per_s:g} and "
            f"used_share={used_share:g} given; give numbers above 0"
        )
    return max(1, math.ceil(peak_per_s / (used_share * capacity_per_s) * (1 - _ROUNDING)))


def fleet_energy(
    knots: Sequence[Knot], stretches: Sequence[Stretch], num_replicas: int
) -> Quantity:
    """Joules of all replicas over the stretches: the sum of n P(L/n) times the duration.

    P is a straight line between two neighbouring knots, which rise in rate. So the energy is a
    weighted sum of the knots' powers. Errors of one knot add up over the stretches that use it, and
    the meter's calibration is the same in all. Errors of two knots of one server are independent.
    Several servers differ by more than that, and one that draws more may do so at each rate: then
    the energy's error is at least that of the mean over the energies of each server.

    The quantity has no value where a rate lies below the first knot, as where the parked power is
    not known. Raises ValueError for a rate above the last knot: nothing is known of it.
    """
    weights = [0.0] * len(knots)
    for one in stretches:
        rate = one.rate_per_s / num_replicas
        if rate < knots[0].rate_per_s:
            return Quantity(None, unit="J", quality="missing")
        for place, share in _between(knots, rate):
            weights[place] += num_replicas * one.duration_s * share
    used = [(knot, weight) for knot, weight in zip(knots, weights, strict=True) if weight]
    parts = [scaled(knot.power_w, weight, unit="J") for knot, weight in used]
    return _over_servers(add(parts, unit="J"), parts, used)


def _over_servers(
    energy: Quantity, parts: Sequence[Quantity], used: Sequence[tuple[Knot, float]]
) -> Quantity:
    """The energy with the error that its servers tell, where they are several.

    Where not all of them were measured at each rate, the errors of the knots add as they are.
    """
    servers = {frozenset(knot.by_server) for knot, _ in used}
    if max(map(len, servers)) < 2 or energy.value is None or energy.random_sd is None:
        return energy
    if len(servers) == 1:
        whole = mean_of(
            [
                math.fsum(weight * knot.by_server[one] for knot, weight in used)
                for one in next(iter(servers))
            ]
        )
        among = replace(energy, random_sd=whole.random_sd, degrees=whole.degrees)
    else:
        random_sd = math.fsum(part.random_sd or 0.0 for part in parts)
        degrees = min((part.degrees for part in parts if part.random_sd), default=math.inf)
        among = replace(energy, random_sd=random_sd, degrees=degrees)
    return max(energy, among, key=lambda one: one.random_half_width or 0.0)


def _between(knots: Sequence[Knot], rate_per_s: float) -> list[tuple[int, float]]:
    """The places of the two knots around a rate, and the weight of each."""
    rates = [knot.rate_per_s for knot in knots]
    if rate_per_s > rates[-1]:
        raise ValueError(
            f"fleet_energy: a replica would get {rate_per_s:g} requests/s, but it was measured up "
            f"to {rates[-1]:g}; measure a greater rate, or take more replicas"
        )
    upper = next(place for place, rate in enumerate(rates) if rate >= rate_per_s)
    if rates[upper] == rate_per_s:
        return [(upper, 1.0)]
    share = (rate_per_s - rates[upper - 1]) / (rates[upper] - rates[upper - 1])
    return [(upper - 1, 1.0 - share), (upper, share)]


@dataclass(frozen=True)
class Price:
    """US dollars of a million output tokens, in two parts: rent often holds electricity."""

    rent_usd: float | None
    """Of the GPUs by the hour; None without a price."""
    electricity_usd: float | None
    """None without a price or without joules."""


def price_of_a_million(
    *,
    num_gpus: int,
    seconds: float,
    output_tokens: float,
    energy_j: float | None,
    usd_per_gpu_hour: float | None,
    pue: float,
    usd_per_kwh: float | None,
) -> Price:
    """The price of 10^6 output tokens that `num_gpus` wrote in `seconds` and for `energy_j`.

    Rent is GPUs x hours x price. Electricity is kWh x PUE x price, PUE being the energy of the
    whole building over that of its computers.
    """
    per_million = 1e6 / output_tokens
    rent = None
    if usd_per_gpu_hour is not None:
        rent = num_gpus * seconds / 3600 * usd_per_gpu_hour * per_million
    electricity = None
    if energy_j is not None and usd_per_kwh is not None:
        electricity = energy_j / J_PER_KWH * pue * usd_per_kwh * per_million
    return Price(rent, electricity)
