"""What can be told apart: a student's joules from its teacher's, and settings from each other.

A meter's calibration multiplies all that it reads. So it widens a saving in joules, but never turns
it into none. It has no part in a comparison on one kind of machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kdwatts.metrics.break_even import UNSHARED, apart_from_serving
from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.quantity import Quantity, add, difference, interval_95, ratio
from kdwatts.metrics.student_t import to_half_width
from multirun_analysis.statistics.candidates import (
    Candidate,
    building_j,
    serving_j,
    teacher_j,
)


@dataclass(frozen=True)
class Saving:
    """Joules that a student saves against its teacher. Below 0 it draws more."""

    share: Interval
    """The saving over the teacher's joules. Its ends are None where the joules are unresolved."""
    joules: Interval

    @property
    def is_resolved(self) -> bool:
        """Whether the saving can be told from 0."""
        return self.joules.is_bounded


def saving(taken: Quantity, teacher: Quantity, *, same_meter: bool = True) -> Saving:
    """The joules saved, and their share by Fieller.

    Where two meters read them, calibration is one more random error of each.

    There are no ends where the interval includes 0. In joules the two random errors make the ends,
    and 0 is between them if and only if it is in Fieller's interval of the share. Calibration is
    added to the distances as logarithms.
    """
    if not same_meter:
        taken, teacher = _calibration_as_random(taken), _calibration_as_random(teacher)
    found = ratio(taken, teacher)
    if found.value is None:
        return Saving(Interval(None), Interval(None))
    less, halves = (
        difference(teacher, taken),
        [one.random_half_width for one in (taken, teacher)],
    )
    half = None if None in halves else math.hypot(*(each or 0.0 for each in halves))
    joules = positive_interval(less.value or 0.0, half, less.shared_sd)
    if joules.is_bounded and found.low is not None and found.high is not None:
        return Saving(Interval(1 - found.value, 1 - found.high, 1 - found.low), joules)
    return Saving(Interval(1 - found.value), Interval(joules.value))


def whole_saving(candidate: Candidate) -> Saving:
    """Joules saved by building the student and serving with it, instead of its teacher."""
    taken = add([apart_from_serving(building_j(candidate)), serving_j(candidate)])
    return saving(taken, teacher_j(candidate), same_meter=candidate.same_meter_as_teacher)


def _calibration_as_random(one: Quantity) -> Quantity:
    if one.value is None or one.shared_sd is None or one.random_sd is None:
        return one
    return add(
        [replace(one, shared_sd=0.0), Quantity(0.0, one.shared_sd, 0.0, one.unit, one.quality)]
    )


def absolute_interval(one: Quantity) -> Interval:
    """An amount with the ends of its 95 % interval, calibration included."""
    if one.value is None:
        return Interval(None)
    return positive_interval(one.value, one.random_half_width, one.shared_sd)


def positive_interval(value: float, half: float | None, shared_sd: float | None) -> Interval:
    """An interval with ends of the value's sign, from its random half width and its shared error.

    None where the random error is unknown or reaches 0.
    """
    size = abs(value)
    if half is None or half >= size:
        return Interval(value)
    calibration = to_half_width(shared_sd or 0.0) / size
    low = size * math.exp(-math.hypot(math.log(size / (size - half)), calibration))
    high = size * math.exp(math.hypot(math.log((size + half) / size), calibration))
    return Interval(value, low, high) if value > 0 else Interval(value, -high, -low)


def more_joules(one: Candidate, other: Candidate) -> Quantity:
    """Joules that `one` draws more than `other` in whole.

    Students that serve alike have one figure of serving. They differ in what building took.
    """
    more = more_to_build(one, other)
    if one.serving_key is not None and one.serving_key == other.serving_key:
        return more
    serving = difference(serving_j(one), serving_j(other), same_meter=_is_one_meter(one, other))
    return add([apart_from_serving(more), serving])


def more_to_build(one: Candidate, other: Candidate) -> Quantity:
    """Joules that building `one` took more. What both inherited is the same in both.

    An estimate states no random error, but it is not exact. Two kinds of work load one machine
    differently, so the part of the model's error that they do not share counts as random.
    """
    same_meter = _is_one_meter(one, other)
    parts = [one.own, other.own]
    if one.inherits == other.inherits and one.inherited.value == other.inherited.value:
        more = difference(one.own, other.own, same_meter=same_meter)
    else:
        more = difference(building_j(one), building_j(other), same_meter=same_meter)
        parts.append(difference(one.inherited, other.inherited))
    if more.random_sd is None:
        return more
    unshared = (UNSHARED[one.quality] * (one.value or 0.0) for one in parts if _is_bare(one))
    return replace(more, random_sd=math.hypot(more.random_sd, *unshared))


def _is_bare(one: Quantity) -> bool:
    """Whether it is an estimate that states no random error."""
    return one.quality in ("estimated", "mixed") and not one.random_sd


def surely_more(one: Candidate, other: Candidate, more: Quantity) -> bool:
    """Whether the 95 % interval of what `one` took more is above 0."""
    ends = interval_95(more, calibration=not _is_one_meter(one, other))
    return ends is not None and ends[0] > 0


def differ_in_joules(one: Candidate, other: Candidate, more: Quantity) -> bool:
    """Whether the 95 % interval of a difference in joules excludes 0."""
    ends = interval_95(more, calibration=not _is_one_meter(one, other))
    return ends is not None and not ends[0] <= 0 <= ends[1]


def differ_in_accuracy(one: Candidate, other: Candidate) -> bool:
    """Whether the accuracy that two settings keep differs by more than their intervals allow."""
    if None in (one.accuracy.value, other.accuracy.value):
        return _shares_differ(one.om_perf, other.om_perf)
    return _shares_differ(one.accuracy, other.accuracy)


def _shares_differ(one: Interval, other: Interval) -> bool:
    """By square-and-add, which keeps intervals that are lopsided (Newcombe 1998, Zou 2008)."""
    ends = (one.value, one.low, one.high, other.value, other.low, other.high)
    if None in ends:
        return False
    upper, lower = (one, other) if (one.value or 0) >= (other.value or 0) else (other, one)
    assert upper.value is not None and upper.low is not None
    assert lower.value is not None and lower.high is not None
    apart = upper.value - lower.value
    return apart > math.hypot(upper.value - upper.low, lower.high - lower.value)


def _is_one_meter(one: Candidate, other: Candidate) -> bool:
    machines = one.machines | other.machines
    return len(machines) == 1 and all(host is not None for host, *_ in machines)
