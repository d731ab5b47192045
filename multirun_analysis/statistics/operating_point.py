"""The operating point of a decision: a load, and the latencies that answers must keep to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kdwatts.metrics.fleet import Stretch
from kdwatts.traffic.traffic_summary import TrafficSummary
from multirun_analysis.statistics.serving_curves import SLO
from multirun_analysis.values.rows import Row

DAY_S = 86_400.0
LEAST_PER_S, MOST_PER_S = 1e-12, 1e12
"""Requests a second, on average and at the peak, that are taken for those of a service."""


@dataclass(frozen=True)
class Limits:
    """Service-level objective: what 99 of 100 requests must keep to. None sets no limit."""

    ttft_p99_s: float | None = None
    """Seconds until the first token."""
    tpot_p99_s: float | None = None
    """Seconds between two tokens of an answer, on average over the answer."""
    e2e_p99_s: float | None = None
    """Seconds until the last token."""

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return any(value is not None for value in vars(self).values())

    def are_as_strict_as(self, others: Limits) -> bool:
        """Whether what keeps these limits keeps `others` too."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return all(its is None or (mine is not None and mine <= its) for mine, its in pairs)


@dataclass(frozen=True)
class OperatingPoint:
    """A load of a day and its objective."""

    source: str
    """rate, or replay where a log says it."""
    stretches: tuple[Stretch, ...]
    """A day: one stretch for a rate; of a log its hours, each as long as its part of a day."""
    peak_per_s: float
    """Requests a second that the fleet must carry; at least the greatest of the stretches."""
    limits: Limits
    prompt_tokens: float | None = None
    """Mean of the log; None for a rate, and where the log does not say."""
    output_tokens: float | None = None
    """Mean of the log; None for a rate, and where the log does not say."""
    log: TrafficSummary | None = None
    """None for a rate."""

    @property
    def requests_per_day(self) -> float:
        """Requests of the whole fleet in a day."""
        return math.fsum(one.duration_s * one.rate_per_s for one in self.stretches)

    @property
    def rate_per_s(self) -> float:
        """Mean requests a second of the whole fleet."""
        return self.requests_per_day / DAY_S


def of_rate(
    rate_per_s: float, limits: Limits, *, peak_factor: float | None = None
) -> OperatingPoint:
    """The operating point of a rate that is the same all day.

    The peak is `peak_factor` times the rate; None is 1. Raises ValueError for a rate that is no
    number above 0, for a factor below 1, and for a load that no service gets.
    """
    _check_factor(peak_factor)
    if not 0 < rate_per_s < math.inf:
        raise ValueError(f"--rate {rate_per_s:g} is no load; give a number above 0")
    day = (Stretch(DAY_S, rate_per_s),)
    return _checked(OperatingPoint("rate", day, rate_per_s * (peak_factor or 1.0), limits))


def of_log(
    log: TrafficSummary, limits: Limits, *, peak_factor: float | None = None
) -> OperatingPoint:
    """The operating point of a log: its hours, repeated until they fill a day.

    A log of several days gives their mean day. The peak is `peak_factor` times the mean rate; None
    takes the log's busiest 5 minutes. A peak below the busiest hour is that of the busiest hour.
    Raises ValueError for a factor below 1, and for a load that no service gets.
    """
    _check_factor(peak_factor)
    hours = log.hours
    hours_s = math.fsum(hour.duration_s for hour in hours)
    day = tuple(replace(hour, duration_s=hour.duration_s * DAY_S / hours_s) for hour in hours)
    found = OperatingPoint("replay", day, 0.0, limits, _mean(log.prompt_tokens),
                           _mean(log.output_tokens), log)  # fmt: skip
    peak = log.peak_rate_per_s if peak_factor is None else peak_factor * found.rate_per_s
    busiest = max(hour.rate_per_s for hour in hours)
    return _checked(replace(found, peak_per_s=max(peak, busiest)))


def _checked(point: OperatingPoint) -> OperatingPoint:
    if point.rate_per_s >= LEAST_PER_S and point.peak_per_s <= MOST_PER_S:
        return point
    raise ValueError(
        f"the load is {point.rate_per_s:g} requests/s on average and {point.peak_per_s:g} at its "
        f"peak, which no service gets; give one from {LEAST_PER_S:g} to {MOST_PER_S:g}"
    )


def _mean(lengths) -> float | None:
    return None if lengths is None else lengths.mean


def _check_factor(peak_factor: float | None) -> None:
    if peak_factor is not None and not 1 <= peak_factor < math.inf:
        raise ValueError(
            f"--peak-factor {peak_factor:g} is below 1, so the peak would be less than the mean; "
            "give 1 or more"
        )


def limits_of(asked: Limits, serving: Iterable[Row]) -> Limits:
    """The objective that was asked for; without one, that of all records of open loops.

    Raises ValueError for a limit that is no number above 0, and where the records have none, or
    several.
    """
    for name, seconds in vars(asked).items():
        if seconds is not None and not 0 < seconds < math.inf:
            option = f"--slo-{name.replace('_', '-')}"
            raise ValueError(f"{option} {seconds:g} is no limit; give seconds above 0")
    if asked.is_set:
        return asked
    stated = {Limits(*(row[name] for name in SLO)) for row in serving if row["load"] != "closed"}
    if len(stated) == 1 and (only := next(iter(stated))).is_set:
        return only
    found = f"have {len(stated)} different SLOs" if len(stated) > 1 else "have no SLO to take"
    raise ValueError(
        f"no limit of a latency was given, and the measurements {found}; give --slo-ttft-p99-s, "
        "--slo-tpot-p99-s or --slo-e2e-p99-s"
    )
