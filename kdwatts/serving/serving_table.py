"""The table that `python -m kdwatts.serving` prints: a line for each load."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdwatts.metrics.significant_digits import significant, with_error
from kdwatts.metrics.student_t import to_half_width
from kdwatts.records.serving_record import Capacity, Figure, ServingPoint, ServingRecord
from kdwatts.runtime.streams import aligned

HEAD = (
    *("load", "verdict", "J/output token", "J/token", "J/request", "W", "tokens/s"),
    *("TTFT p50 s", "TTFT p99 s", "TPOT p50 s", "TPOT p99 s", "done", "failed"),
)


def table(records: Sequence[ServingRecord]) -> str:
    """One block for each server: its loads, its capacity, what it draws when idle."""
    return "\n\n".join(_block(record, len(records) > 1) for record in records)


def _block(record: ServingRecord, numbered: bool) -> str:
    engine = record.engine
    name = f"{engine.name} {engine.version}" if engine.version else engine.name
    number = f", server {record.measurement}" if numbered else ""
    lines = [f"{name}{number}; {_of_joules(record.points)}"]
    lines.append(aligned([HEAD, *map(_line, record.points)]))
    lines += _remarks(record.points)
    lines.append(
        f"idle server: {_number(record.parking_power_w)} W{_lacks(record.parking_power_w)}"
    )
    if record.capacity:
        lines.append(_capacity(record.capacity))
    return "\n".join(lines)


def _remarks(points: Sequence[ServingPoint]) -> list[str]:
    """A line for each remark, with the loads that it is of."""
    loads: dict[str, list[str]] = {}
    for point in points:
        for remark in point.remarks:
            loads.setdefault(remark, []).append(_load(point))
    return [f"- {', '.join(names)}: {remark}" for remark, names in loads.items()]


def _lacks(power: Figure) -> str:
    return ", an estimate from CPU time without idle power" if power.quality == "estimated" else ""


def _load(point: ServingPoint) -> str:
    if point.load == "replay":
        return f"{point.level:.3g}/s replay x{point.speed:g}"
    unit = " at once" if point.load == "closed" else f"/s {point.load}"
    return f"{point.level:g}{unit}"


def _of_joules(points: Sequence[ServingPoint]) -> str:
    """How the joules were obtained, and the error that all of them share."""
    quality = " and ".join(sorted({point.energy_quality for point in points}))
    shares = [
        power.shared_sd / power.value
        for point in points
        if (power := point.power_w).value and power.shared_sd is not None
    ]
    if not shares:
        return f"joules are {quality}"
    percent = significant(100 * max(shares), 2)
    return f"joules are {quality}; all may be off together by {percent} % (one standard deviation)"


def _line(point: ServingPoint) -> tuple[str, ...]:
    return (
        _load(point),
        point.verdict,
        _number(point.j_per_output_token),
        _number(point.j_per_token),
        _number(point.j_per_request),
        _number(point.power_w),
        _number(point.output_tokens_per_s),
        *(_number(one, short=True) for one in (point.ttft_s.p50, point.ttft_s.p99)),
        *(_number(one, short=True) for one in (point.tpot_s.p50, point.tpot_s.p99)),
        str(point.completed),
        str(point.failed),
    )


def _number(figure: Figure, *, short: bool = False) -> str:
    """A value with half of the 95 % interval of what repeats average out; a dash without one.

    `short` leaves the interval out.
    """
    if short or figure.random_sd is None:
        return with_error(figure.value, None)
    return with_error(figure.value, to_half_width(figure.random_sd, figure.degrees or math.inf))


def _capacity(capacity: Capacity) -> str:
    number = len(capacity.tried)
    tried = f"{number} more {'rate' if number == 1 else 'rates'} tried"
    rate, above = capacity.requests_per_s, capacity.first_too_much_per_s
    match capacity.verdict:
        case "found":
            return f"capacity: {rate:.3g} requests/s keep the SLO, {above:.3g} do not ({tried})"
        case "above":
            return f"capacity: at least {rate:.3g} requests/s, all rates kept the SLO ({tried})"
        case "none":
            return f"capacity: no rate kept the SLO, down to {above:.3g} requests/s ({tried})"
    return f"capacity: undecided; {capacity.remark or 'rates between were not decided'} ({tried})"
