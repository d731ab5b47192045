"""Joules from readings: what one device used, folded reading by reading. Pure functions.

A `Tally` holds what a device used since the meter started. The energy of a window is the
difference of two tallies, so nested and adjacent windows add up by construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

ACCEPTED_OVER_LIMIT = 1.5
"""Boards overshoot their limit for milliseconds; half as much again is beyond all of them."""

MAX_DELTA_S = 0.1
"""Slowest update of a GPU's counter seen on GPUs in use; taken where none was observed."""

STILL_S = 1.0
"""A counter that has not moved for longer, ten of the slowest updates, has stopped counting."""

UNKNOWN_LIMIT_W = 1500.0
"""Bound for a device that tells no power limit: above every GPU and CPU package sold in 2025."""

EDGE_S = 0.05
"""Reading all devices at the edge of a window takes up to this long."""


# Named tuples, for a tick makes one of each: a frozen dataclass sets field by field in Python.
class Reading(NamedTuple):
    """One device at one moment."""

    time_s: float
    """Monotonic seconds of this host."""
    energy_counter_j: float | None
    power_w: float | None = None
    power_average_w: float | None = None


@dataclass(frozen=True)
class Sensor:
    """What is known of the meter inside one device."""

    kind: str
    """gpu, cpu or dram."""
    label: str
    """UUID or zone, as it appears in messages."""
    method: str
    """nvml_counter, nvml_samples, rapl or tdp_model."""
    limit_w: float
    """Most power the device may draw; infinite for a model, which needs no check."""
    delta_s: float
    """Seconds between two updates of the counter, or between two samples without a counter."""
    max_gap_s: float
    """Samples further apart than this are not joined by a straight line."""
    range_j: float | None = None
    """Where the counter wraps to 0; None where it does not."""


class Moved(NamedTuple):
    """When a counter last moved, and what samples had added up to by then."""

    time_s: float
    sampled_j: float
    sampled_s: float
    checked_sampled_j: float


class Tally(NamedTuple):
    """What one device used since the meter started."""

    counter: Reading | None = None
    """Last reading with a counter."""
    sample: Reading | None = None
    """Last reading with a power."""
    counted_j: float = 0.0
    """Sum of accepted counter differences."""
    counted_s: float = 0.0
    filled_j: float = 0.0
    """Power samples where a counter difference was refused."""
    filled_s: float = 0.0
    sampled_j: float = 0.0
    """Trapezoid of all power samples."""
    sampled_s: float = 0.0
    sampled_var_j2: float = 0.0
    """Variance of `sampled_j`: a jump between two samples may be anywhere between them."""
    checked_counter_j: float = 0.0
    """Counter over the intervals that samples cover too: what the cross-check compares."""
    checked_sampled_j: float = 0.0
    num_resets: int = 0
    num_refused: int = 0
    """Power samples beyond all bounds."""
    still_s: float = 0.0
    """Time that the counter stood still for too long to be believed."""
    good: Reading | None = None
    """Last counter before those that are in doubt; None while none is."""
    doubted_j: float = 0.0
    """The part of `filled_j` since `good`."""
    doubted_s: float = 0.0
    moved: Moved | None = None


def integrate_power_j(
    times_s: Sequence[float], powers_w: Sequence[float], max_gap_s: float | None = None
) -> float:
    """Joules under straight lines between power samples; pairs further apart than the gap add none.

    Raises ValueError for lists of different lengths and for times that go back.
    """
    if len(times_s) != len(powers_w):
        raise ValueError(
            f"integrate_power_j: {len(times_s)} times and {len(powers_w)} powers; "
            "give one power per time"
        )
    energy_j = 0.0
    for index in range(1, len(times_s)):
        step_s = times_s[index] - times_s[index - 1]
        if step_s < 0:
            raise ValueError(
                f"integrate_power_j: time {times_s[index]} s follows {times_s[index - 1]} s; "
                "sort the samples by time"
            )
        if max_gap_s is None or step_s <= max_gap_s:
            energy_j += step_s * (powers_w[index - 1] + powers_w[index]) / 2
    return energy_j


def known_limit_w(told_w: float | None) -> float:
    """The power limit that a device tells, or the general bound where it tells none that may be."""
    is_told = told_w is not None and 0 < told_w <= ACCEPTED_OVER_LIMIT * UNKNOWN_LIMIT_W
    return told_w if is_told and told_w is not None else UNKNOWN_LIMIT_W


def most_w(limit_w: float) -> float:
    """The highest power sample that is believed of a device with this limit."""
    return ACCEPTED_OVER_LIMIT * (limit_w if math.isfinite(limit_w) else UNKNOWN_LIMIT_W)


def may_be_power(power_w: float, limit_w: float) -> bool:
    """Whether a device that is on may draw this: 0 W is what a sensor says that measures nothing.

    Values that are no number fail every comparison.
    """
    return 0 < power_w <= most_w(limit_w)


def counter_step_j(
    before_j: float,
    after_j: float,
    elapsed_s: float,
    *,
    limit_w: float,
    delta_s: float,
    range_j: float | None = None,
) -> float | None:
    """Joules between two counter values, or None when the counter was reset in between.

    Accepted is 0 <= dE <= 1.5 limit (dt + 2 delta): two updates may fall into one tick. A counter
    with a range wraps at most once in the time it takes to fill half the range at the limit;
    after a longer silence the number of wraps is unknown and the step is refused.
    """
    step_j = after_j - before_j
    if range_j is not None:
        if elapsed_s * limit_w > range_j / 2:
            return None
        # Also a value that was misread leaves whole ranges behind in a counter that counts on.
        step_j %= range_j
    # A model has no limit, and two looks at one moment no time: their product is no number.
    most_j = math.inf
    if math.isfinite(limit_w):
        most_j = ACCEPTED_OVER_LIMIT * limit_w * (elapsed_s + 2 * delta_s)
    return step_j if 0 <= step_j <= most_j and step_j < math.inf else None


def advance(tally: Tally, reading: Reading, sensor: Sensor) -> Tally:
    """The tally after one more reading.

    A valid counter on both sides of lost or refused readings fills their time exactly. A refused
    difference may be a reset, which the next reading tells: its time is filled by the samples on
    both sides where they are close, else it stays uncovered. So is the time of a counter that
    stands still. A power sample beyond all bounds is as good as none.
    """
    num_refused = 0
    if reading.power_w is not None and not may_be_power(reading.power_w, sensor.limit_w):
        reading, num_refused = reading._replace(power_w=None), 1
    sampled_j, sampled_s, sampled_var_j2 = _trapezoid(tally.sample, reading, sensor.max_gap_s)
    is_pair = tally.sample is not None and tally.sample is tally.counter
    tally = tally._replace(
        sample=reading if reading.power_w is not None else tally.sample,
        sampled_j=tally.sampled_j + sampled_j,
        sampled_s=tally.sampled_s + sampled_s,
        sampled_var_j2=tally.sampled_var_j2 + sampled_var_j2,
        num_refused=tally.num_refused + num_refused,
    )
    if reading.energy_counter_j is None:
        return tally
    if tally.counter is None:
        return tally._replace(counter=reading, moved=_moved(tally, reading))
    return _count(tally, tally.counter, reading, sensor, (sampled_j, sampled_s) if is_pair else _NO)


_NO = (0.0, 0.0)


def _moved(tally: Tally, reading: Reading) -> Moved:
    return Moved(reading.time_s, tally.sampled_j, tally.sampled_s, tally.checked_sampled_j)


def _count(
    tally: Tally, before: Reading, reading: Reading, sensor: Sensor, fill: tuple[float, float]
) -> Tally:
    """The tally after one more value of the counter; `fill` is what samples say of the interval."""
    if tally.good is not None and (step_j := _step_j(tally.good, reading, sensor)) is not None:
        # What was read in between was wrong, and the samples in its place are not needed. The
        # energy of a running meter never falls.
        tally = tally._replace(
            counter=reading,
            good=None,
            counted_j=tally.counted_j + max(step_j, tally.doubted_j),
            counted_s=tally.counted_s + reading.time_s - tally.good.time_s,
            filled_j=tally.filled_j - tally.doubted_j,
            filled_s=tally.filled_s - tally.doubted_s,
            doubted_j=0.0,
            doubted_s=0.0,
        )
        return tally._replace(moved=_moved(tally, reading))
    step_j, moved = _step_j(before, reading, sensor), tally.moved
    was_still = is_still = False
    if moved is not None and math.isfinite(sensor.limit_w):
        was_still = before.time_s - moved.time_s > STILL_S
        is_still = step_j == 0 and reading.time_s - moved.time_s > STILL_S
    fill_j, fill_s = fill
    if is_still and moved is not None:
        uncounted_s = 0.0
        if not was_still:
            # Found out now, it began when the counter last moved.
            uncounted_s = before.time_s - moved.time_s
            fill_j, fill_s = tally.sampled_j - moved.sampled_j, tally.sampled_s - moved.sampled_s
        return tally._replace(
            counter=reading,
            counted_s=tally.counted_s - uncounted_s,
            filled_j=tally.filled_j + fill_j,
            filled_s=tally.filled_s + fill_s,
            checked_sampled_j=min(tally.checked_sampled_j, moved.checked_sampled_j),
            still_s=tally.still_s + uncounted_s + reading.time_s - before.time_s,
        )
    if step_j is None or was_still:
        # What a counter tells that moves again may be of all the time that it stood.
        tally = tally._replace(
            counter=reading,
            good=None if was_still else tally.good or before,
            filled_j=tally.filled_j + fill_j,
            filled_s=tally.filled_s + fill_s,
            doubted_j=0.0 if was_still else tally.doubted_j + fill_j,
            doubted_s=0.0 if was_still else tally.doubted_s + fill_s,
            num_resets=tally.num_resets + 1,
        )
        return tally._replace(moved=_moved(tally, reading))
    tally = tally._replace(
        counter=reading,
        good=None,
        doubted_j=0.0,
        doubted_s=0.0,
        counted_j=tally.counted_j + step_j,
        counted_s=tally.counted_s + reading.time_s - before.time_s,
        checked_counter_j=tally.checked_counter_j + (step_j if fill_s > 0 else 0.0),
        checked_sampled_j=tally.checked_sampled_j + fill_j,
    )
    return tally if step_j == 0 else tally._replace(moved=_moved(tally, reading))


def _step_j(before: Reading, after: Reading, sensor: Sensor) -> float | None:
    return counter_step_j(
        before.energy_counter_j or 0.0,
        after.energy_counter_j or 0.0,
        after.time_s - before.time_s,
        limit_w=sensor.limit_w,
        # A GPU's updates are not always as close as at the start.
        delta_s=MAX_DELTA_S if sensor.method == "nvml_counter" else sensor.delta_s,
        range_j=sensor.range_j,
    )


def _trapezoid(
    before: Reading | None, after: Reading, max_gap_s: float
) -> tuple[float, float, float]:
    """Joules between two samples, seconds and variance; 0 where one lacks or they are far apart.

    A step of power at an unknown moment between them leaves an error of dP dt / sqrt(12).
    """
    if before is None or before.power_w is None or after.power_w is None:
        return 0.0, 0.0, 0.0
    elapsed_s = after.time_s - before.time_s
    if not 0 <= elapsed_s <= max_gap_s:
        return 0.0, 0.0, 0.0
    energy_j = elapsed_s * (before.power_w + after.power_w) / 2
    return energy_j, elapsed_s, (elapsed_s * (after.power_w - before.power_w)) ** 2 / 12


@dataclass(frozen=True)
class Span:
    """What one device used between two tallies."""

    sensor: Sensor
    energy_j: float
    """Counter differences and fills; the trapezoid of samples where there is no counter."""
    covered_s: float
    filled_s: float
    """The part of `covered_s` that only samples cover."""
    sampled_j: float
    sampled_s: float
    sampled_var_j2: float
    checked_counter_j: float
    checked_sampled_j: float
    num_resets: int
    num_refused: int = 0
    still_s: float = 0.0


def span(sensor: Sensor, start: Tally | None, end: Tally) -> Span:
    """The difference of two tallies of one device; nothing covered without a start."""
    start = end if start is None else start
    sampled_j = end.sampled_j - start.sampled_j
    sampled_s = end.sampled_s - start.sampled_s
    filled_s = end.filled_s - start.filled_s
    counted_s = end.counted_s - start.counted_s
    counts = sensor.method != "nvml_samples"
    energy_j = end.counted_j - start.counted_j + end.filled_j - start.filled_j
    return Span(
        sensor=sensor,
        energy_j=energy_j if counts else sampled_j,
        covered_s=counted_s + filled_s if counts else sampled_s,
        filled_s=filled_s if counts else 0.0,
        sampled_j=sampled_j,
        sampled_s=sampled_s,
        sampled_var_j2=end.sampled_var_j2 - start.sampled_var_j2,
        checked_counter_j=end.checked_counter_j - start.checked_counter_j,
        checked_sampled_j=end.checked_sampled_j - start.checked_sampled_j,
        num_resets=end.num_resets - start.num_resets,
        num_refused=end.num_refused - start.num_refused,
        still_s=end.still_s - start.still_s,
    )


def gap_s(one: Span, duration_s: float) -> float:
    """Seconds of the window that nothing covers; one counter update or less is its edges'."""
    missing_s = duration_s - one.covered_s
    edges_s = EDGE_S if one.num_resets else max(one.sensor.delta_s, EDGE_S)
    return missing_s if missing_s > edges_s else 0.0


def uncertainty_j(
    spans: Sequence[Span],
    duration_s: float,
    *,
    calibration: float,
    idle_power_w: float | None = None,
) -> float:
    """One standard deviation: u^2 = u_quantum^2 + u_gap^2 + u_sampling^2 + u_cal^2.

    u_quantum = P delta / sqrt(6): both edges are uniform within one counter update, and so are
    both sides of a reset, where P is taken as the limit. u_gap bounds the power between idle (0 W
    where it was not measured) and the limit: uncovered time, also that too short for `gap_s`, is
    left out of the energy, so its error is the root mean square of what may be missing,
    t sqrt((i^2 + i l + l^2) / 3); time that only samples fill errs by t (l - i) / sqrt(12).
    u_sampling is that of GPUs without a counter. u_cal is shared by devices of one kind, so it
    adds linearly over them.
    """
    idle_w = (idle_power_w or 0.0) / len(spans)
    squares = 0.0
    for one in spans:
        # A model has no limit, and nothing of it is ever uncovered.
        limit_w = one.sensor.limit_w if math.isfinite(one.sensor.limit_w) else 0.0
        uncovered_s = max(0.0, duration_s - one.covered_s)
        if gap_s(one, duration_s):
            # The last counter before a gap may be as old as an update.
            uncovered_s += one.sensor.delta_s
        if duration_s > 0:
            squares += (one.energy_j / duration_s * one.sensor.delta_s) ** 2 / 6
        squares += one.num_resets * (limit_w * one.sensor.delta_s) ** 2 / 6
        squares += uncovered_s**2 * (idle_w**2 + idle_w * limit_w + limit_w**2) / 3
        squares += (one.filled_s * (limit_w - idle_w)) ** 2 / 12
        if one.sensor.method == "nvml_samples":
            squares += one.sampled_var_j2
    return math.sqrt(squares + (calibration * sum(one.energy_j for one in spans)) ** 2)
