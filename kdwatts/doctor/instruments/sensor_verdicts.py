"""How often counter and power sensor of a GPU are renewed, how late a sensor is, what it sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdwatts.doctor.instruments.fast_looks import Changes, SensorTimes, period_of
from kdwatts.metrics.quantity import Quantity
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry.parts import MIN_NVML_WINDOW_S
from kdwatts.telemetry.readings import MAX_DELTA_S

SEEN = {
    # arXiv 2312.02741: 25 of every 100 ms.
    "A100": (0.1, 0.025),
    "H100": (0.1, 0.025),
}
"""Part of a product's name to the period and the window of its sensor in s, as published."""

SLACK = 1.05
"""Time of a program between two looks adds to a period. A counter is slow only beyond this."""


def period_verdicts(
    counter: Changes, power: Changes, *, interval_s: float, product: str
) -> Iterator[Verdict]:
    """The verdicts on the periods of counter and power sensor, from changes under a load."""
    yield _period(
        "counter_period",
        counter,
        MAX_DELTA_S,
        f"{1e3 * MAX_DELTA_S:.0f} ms, the slowest that the meter waits for at the edge of a window",
        "give windows more time: each edge errs by up to one period",
    )
    published = _published(product)
    most_s = 3 * interval_s
    also = f"; {published[1]}: {1e3 * published[0][0]:.0f} ms" if published else ""
    yield _period(
        "power_sensor_period",
        power,
        most_s,
        f"{1e3 * most_s:.0f} ms, beyond which no line is drawn between two samples{also}",
        "trust the counter alone: between two samples much can happen",
    )


def _period(name: str, changes: Changes, most_s: float, against: str, remedy: str) -> Verdict:
    num = len(changes.times_s)
    if not num:
        is_told = changes.watched_s > 0
        found = f"did not change in {changes.watched_s:.1f} s" if is_told else "cannot be read"
        return Verdict(name, None, f"not known: it {found}")
    look_s = float(np.median(changes.widths_s))
    if look_s > most_s / 2:
        found = f"not known: this program came to look at it only each {1e3 * look_s:.0f} ms"
        return Verdict(name, None, found)
    period = period_of(changes)
    half_s = None if period is None else period.random_half_width
    if period is None or half_s is None:
        if changes.watched_s / (num + 1) <= SLACK * most_s:
            return Verdict(name, None, f"not known: it was watched for {changes.watched_s:.1f} s")
        found = f"renewed {num} times in {changes.watched_s:.1f} s"
        return Verdict(name, "attention", found, against, remedy)
    value, low, high = (
        1e3 * one for one in (period.number, period.number - half_s, period.number + half_s)
    )
    is_right = low <= 1e3 * SLACK * most_s
    return Verdict(
        name,
        "right" if is_right else "attention",
        f"renewed each {value:.1f} ms ({low:.1f} to {high:.1f} ms)",
        against,
        None if is_right else remedy,
        value=value,
        low=low,
        high=high,
        unit="ms",
    )


def sensor_verdicts(
    times: SensorTimes | None, period: Quantity | None, *, product: str
) -> Iterator[Verdict]:
    """The verdicts on lag and window of a power sensor, from changes under an uneven wave."""
    names = "power_sensor_lag", "power_sensor_window"
    if times is None:
        for name in names:
            yield Verdict(
                name, None, "not known: its values are too few, or do not follow the load"
            )
        return
    lag, window = times.lag_s, times.window_s
    whole_s = lag.low + window.low
    is_right = whole_s <= MIN_NVML_WINDOW_S
    yield Verdict(
        names[0],
        "right" if is_right else "attention",
        f"{1e3 * lag.value:.0f} ms late ({1e3 * lag.low:.0f} to {1e3 * lag.high:.0f} ms), beside "
        "what its window averages",
        f"the meter's shortest window, {MIN_NVML_WINDOW_S:.0f} s, for lag and window together",
        None if is_right else "compare no power samples of windows that follow one another",
        value=1e3 * lag.value,
        low=1e3 * lag.low,
        high=1e3 * lag.high,
        unit="ms",
    )
    published = _published(product)
    value, low, high = (1e3 * one for one in (window.value, window.low, window.high))
    found = f"averages {value:.0f} ms ({low:.0f} to {high:.0f} ms)"
    if period is not None:
        found += (
            f" of each {1e3 * period.number:.0f} ms"
            if is_blind(times, period)
            else ", so it sees all"
        )
    word, against = None, None
    if published:
        window_s = published[0][1]
        against = f"{1e3 * window_s:.0f} ms, {published[1]}"
        word = "right" if window.low <= window_s <= window.high else None
        if word is None:
            found += "; drivers differ in what they average"
    yield Verdict(
        names[1],
        word,
        found,
        against,
        value=value,
        low=low,
        high=high,
        unit="ms",
    )


def is_blind(times: SensorTimes | None, period: Quantity | None) -> bool | None:
    """Whether the sensor sees less than all of the time; None where that is not known."""
    if times is None or period is None:
        return None
    return times.window_s.high < 0.9 * period.number


def _published(product: str) -> tuple[tuple[float, float], str] | None:
    """Period and window of this product's sensor in s, and where they were published."""
    for name, seen in SEEN.items():
        if name in product:
            return seen, f"published for the {name} (arXiv 2312.02741)"
    return None
