"""Joules of a device: readings added up in tallies, and the difference of two tallies.

A `Tally` holds what a device used since the meter started. The energy of a window is the difference
of two tallies. So the energies of nested and of adjacent windows add up. All functions are pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kdwatts.telemetry.integration import stands_still, step_between_j, trapezoid
from kdwatts.telemetry.readings import Reading, Sensor, may_be_power


class Moved(NamedTuple):
    """The moment when a counter last moved, and the sums of the samples up to then."""

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
    """Joules of power samples where a counter difference was refused."""
    filled_s: float = 0.0
    sampled_j: float = 0.0
    """Joules under all power samples."""
    sampled_s: float = 0.0
    sampled_var_j2: float = 0.0
    """Variance of `sampled_j`: a jump may be anywhere between two samples."""
    checked_counter_j: float = 0.0
    """Joules of the counter where samples exist too. The cross-check compares these."""
    checked_sampled_j: float = 0.0
    num_resets: int = 0
    num_refused: int = 0
    """Number of power samples beyond all bounds."""
    still_s: float = 0.0
    """Seconds in which the counter stood still for too long to be believed."""
    good: Reading | None = None
    """Last counter before those in doubt. None where none is in doubt."""
    doubted_j: float = 0.0
    """The part of `filled_j` since `good`."""
    doubted_s: float = 0.0
    moved: Moved | None = None


def advance(tally: Tally, reading: Reading, sensor: Sensor) -> Tally:
    """The tally after one more reading.

    A valid counter before and after lost readings fills the time between them exactly. A counter
    difference that is not believed may be a reset, which the next reading shows. Its time is then
    filled by the power samples on both sides where these are close, and stays uncovered otherwise.
    The same holds for the time in which a counter stands still. A power sample beyond all bounds is
    ignored.
    """
    num_refused = 0
    if reading.power_w is not None and not may_be_power(reading.power_w, sensor.limit_w):
        reading, num_refused = reading._replace(power_w=None), 1
    sampled_j, sampled_s, sampled_var_j2 = trapezoid(tally.sample, reading, sensor.max_gap_s)
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
    since_good_j = None if tally.good is None else step_between_j(tally.good, reading, sensor)
    if tally.good is not None and since_good_j is not None:
        # What was read in between was wrong, and the samples in its place are not needed. The
        # energy of a running meter never falls.
        tally = tally._replace(
            counter=reading,
            good=None,
            counted_j=tally.counted_j + max(since_good_j, tally.doubted_j),
            counted_s=tally.counted_s + reading.time_s - tally.good.time_s,
            filled_j=tally.filled_j - tally.doubted_j,
            filled_s=tally.filled_s - tally.doubted_s,
            doubted_j=0.0,
            doubted_s=0.0,
        )
        return tally._replace(moved=_moved(tally, reading))
    step_j, moved = step_between_j(before, reading, sensor), tally.moved
    was_still = is_still = False
    if moved is not None:
        limit_w = sensor.limit_w
        was_still = stands_still(0.0, before.time_s - moved.time_s, limit_w=limit_w)
        is_still = stands_still(step_j, reading.time_s - moved.time_s, limit_w=limit_w)
    fill_j, fill_s = fill
    if is_still and moved is not None:
        uncounted_s = 0.0
        if not was_still:
            # It is noticed only now, but it began when the counter last moved.
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
        # A counter that moves again may report joules of all the time it stood still.
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


@dataclass(frozen=True)
class Span:
    """What one device used between two tallies."""

    sensor: Sensor
    energy_j: float
    """Counter differences and fills. Without a counter, the area under the samples."""
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
    """The difference of two tallies of one device. Without a start, nothing is covered."""
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
