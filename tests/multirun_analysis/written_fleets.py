"""Servers of known power, P = P0 + e x rate, as serving.json has them, for fleets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdwatts.metrics.fleet import Stretch
from kdwatts.records.serving_record import Capacity, ServingPoint, ServingRecord
from kdwatts.traffic.traffic_summary import TokenLengths, TrafficSummary
from multirun_analysis.collect.collection import collect
from multirun_analysis.statistics.fleets import Fleet, fleets
from multirun_analysis.statistics.operating_point import Limits, OperatingPoint, of_rate
from multirun_analysis.values.rows import to_rows
from tests.multirun_analysis.written_serving import SLO, capacity, figure, point, record

LIMITS = Limits(SLO["ttft_p99_s"], SLO["tpot_p99_s"])
"""The objective of all records."""
RATES = (1.0, 2.0, 4.0, 8.0)


def loads(
    parked_w: float,
    j_a_request: float,
    rates: Sequence[float] = RATES,
    *,
    half: float = 0.01,
    output_tokens: float = 32,
    **changes: Any,
) -> list[ServingPoint]:
    """Open loads at which the server draws `parked_w` + `j_a_request` x rate.

    The 95 % interval of each power is `half` of it to a side.
    """
    found = []
    for rate in rates:
        watts = parked_w + j_a_request * rate
        requests = round(rate * 3000)
        written = {"completed": requests, "prompt_tokens": 48 * requests}
        written |= {"output_tokens": round(output_tokens * requests), "load": "poisson"}
        found.append(
            point(rate, watts / (rate * 32), tokens_per_s=32 * rate,
                  **({**written, "power_w": figure(watts, half=half * watts)} | changes))
        )  # fmt: skip
    return found


def server(
    subject: str,
    parked_w: float,
    j_a_request: float,
    carries_per_s: float | None,
    *,
    half: float = 0.01,
    rates: Sequence[float] = RATES,
    found: Capacity | None = None,
    of_points: dict[str, Any] | None = None,
    **changes: Any,
) -> ServingRecord:
    """A server of known power and capacity; `changes` are of the record."""
    told: dict[str, Any] = {"parking_power_w": figure(parked_w, half=half * parked_w)}
    told |= {"capacity": found or capacity(carries_per_s), "host": "node7"}
    points = loads(parked_w, j_a_request, rates, half=half, **(of_points or {}))
    return record(subject, points, **(told | changes))


def summary(hours: Sequence[float], **changes: Any) -> TrafficSummary:
    """A log of whole hours with these rates; its busiest 5 minutes are twice the busiest hour."""
    stretches = tuple(Stretch(3600.0, rate) for rate in hours)
    lengths = (TokenLengths(48.0, 48.0, 48.0, 48.0), TokenLengths(32.0, 32.0, 32.0, 32.0))
    known: dict[str, Any] = {
        "log_format": "kdwatts", "sha256": "0" * 64, "num_requests": round(3600 * sum(hours)),
        "num_left_out": 0, "span_s": 3600.0 * len(hours), "hours": stretches,
        "peak_rate_per_s": 2 * max(hours), "peak_span_s": 300.0, "dispersion": 1.0, "gap_cv": 1.0,
        "prompt_tokens": lengths[0], "output_tokens": lengths[1], "num_sessions": None,
    }  # fmt: skip
    return TrafficSummary(**(known | changes))


def fleets_of(folder: Path, at: OperatingPoint | float, **more: Any) -> dict[str, Fleet]:
    """The fleets of the runs below a folder, by their labels; a number is a rate."""
    found = collect([folder])
    asked = at if isinstance(at, OperatingPoint) else of_rate(at, LIMITS)
    each = fleets(to_rows(found.serving), to_rows(found.runs), asked, **more)
    return {fleet.label: fleet for fleet in each}
