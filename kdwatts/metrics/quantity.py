"""A number with its unit and its two errors: one that repeats average out, and one they share.

All readings of one meter share its calibration error. That error counts in full for an absolute
figure, adds up in a sum, and cancels in a ratio of two readings. So the two errors stay apart until
a figure is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kdwatts.metrics.fieller import Interval, ratio_interval
from kdwatts.metrics.student_t import mean_and_sd, to_half_width

MEASURED = ("measured", "attributed")
"""Qualities that come from a sensor; `estimated` comes from a model."""


@dataclass(frozen=True)
class Quantity:
    """A value with one standard deviation of each of its two errors, all in `unit`."""

    value: float | None
    """The value. None where it was not measured."""
    random_sd: float | None = None
    """The part that differs from one measurement to the next. None where nothing is known of it."""
    shared_sd: float | None = None
    """The part that all readings of one meter have in common. None where nothing is known of it."""
    unit: str = ""
    """The unit, such as J or J/token."""
    quality: str = "measured"
    """measured, attributed, estimated, mixed, reported or missing."""
    degrees: float = math.inf
    """Degrees of freedom of `random_sd`: one less than the number of measurements it is from."""

    @property
    def number(self) -> float:
        """The value in `unit`, for callers who know that there is one."""
        assert self.value is not None, f"a quantity in {self.unit!r} is {self.quality}"
        return self.value

    @property
    def sd(self) -> float | None:
        """One standard deviation of both errors together. None where one of them is unknown."""
        if self.random_sd is None or self.shared_sd is None:
            return None
        return math.hypot(self.random_sd, self.shared_sd)

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval: the halves of both errors, added in squares.

        None where the value or its random error is unknown. An unknown shared error counts as 0.
        """
        half = self.random_half_width
        return None if half is None else math.hypot(half, to_half_width(self.shared_sd or 0.0))

    @property
    def random_half_width(self) -> float | None:
        """Half of the 95 % interval without the shared error: to compare readings of one meter."""
        if self.value is None or self.random_sd is None:
            return None
        return to_half_width(self.random_sd, self.degrees)


MISSING_J = Quantity(None, unit="J", quality="missing")
"""An energy that was not measured."""


def interval_95(one: Quantity, *, calibration: bool = True) -> tuple[float, float] | None:
    """The ends of the 95 % interval. None where the value or its random error is unknown.

    Without `calibration` the shared error is left out: to compare with readings of the same meter.
    """
    half = half_width_of(one, same_meter=not calibration)
    return None if one.value is None or half is None else (one.value - half, one.value + half)


def half_width_of(one: Quantity, *, same_meter: bool) -> float | None:
    """Half of the 95 % interval to compare with readings of the same meter, or of another one."""
    return one.random_half_width if same_meter else one.half_width


def mean_of(values: Sequence[float], *, unit: str = "", quality: str = "measured") -> Quantity:
    """The mean of independent measurements (Student 1908).

    A single one has no known random error.
    """
    if not values:
        return Quantity(None, unit=unit, quality="missing")
    mean, sd = mean_and_sd(values)
    return Quantity(mean, sd, unit=unit, quality=quality, degrees=max(1, len(values) - 1))


def from_whole_sd(
    value: float | None, sd: float | None, shared_sd: float | None, *, unit: str, quality: str
) -> Quantity:
    """The quantity of a record that states its whole error, and the part of it that is shared.

    Older records do not state the shared part. Then the whole error counts as shared: such records
    hold little besides calibration, which is 5 % of a sensor's joules and half of a model's.
    """
    if sd is None:
        return Quantity(value, unit=unit, quality=quality)
    shared_sd = sd if shared_sd is None else shared_sd
    random_sd = math.sqrt(max(0.0, sd**2 - shared_sd**2))
    return Quantity(value, random_sd, shared_sd, unit, quality)


def add(quantities: Iterable[Quantity], *, unit: str | None = None) -> Quantity:
    """The sum of readings of one meter.

    Random errors add in squares, shared errors add as they are.

    The sum has no value when one term has none. The sum of no terms is 0 in `unit`.

    Raises ValueError for no terms without a unit.
    """
    terms = list(quantities)
    if not terms and unit is None:
        raise ValueError("add: 0 quantities given; give at least one")
    if not terms:
        return Quantity(0.0, 0.0, 0.0, unit or "")
    unit = terms[0].unit if unit is None else unit
    values = [term.value for term in terms]
    if None in values:
        return Quantity(None, unit=unit, quality="missing")
    return Quantity(
        math.fsum(value or 0.0 for value in values),
        _together([term.random_sd for term in terms], math.hypot),
        _together([term.shared_sd for term in terms], lambda *sds: math.fsum(sds)),
        unit,
        common_quality(term.quality for term in terms),
        _degrees(terms),
    )


def difference(one: Quantity, other: Quantity, *, same_meter: bool = True) -> Quantity:
    """`one` less `other`. With `same_meter` the shared error that both have cancels."""
    if one.value is None or other.value is None:
        return Quantity(None, unit=one.unit, quality="missing")

    def shared(mine: float, its: float) -> float:
        return abs(mine - its) if same_meter else math.hypot(mine, its)

    return Quantity(
        one.value - other.value,
        _together([one.random_sd, other.random_sd], math.hypot),
        _together([one.shared_sd, other.shared_sd], shared),
        one.unit,
        common_quality([one.quality, other.quality]),
        _degrees([one, other]),
    )


def scaled(one: Quantity, factor: float, *, unit: str | None = None) -> Quantity:
    """The quantity times a number that has no error."""

    def times(value: float | None) -> float | None:
        return None if value is None else factor * value

    random_sd, shared_sd = (
        None if sd is None else abs(factor) * sd for sd in (one.random_sd, one.shared_sd)
    )
    return replace(
        one,
        value=times(one.value),
        random_sd=random_sd,
        shared_sd=shared_sd,
        unit=one.unit if unit is None else unit,
    )


def ratio(one: Quantity, other: Quantity, *, same_meter: bool = True) -> Interval:
    """`one` over `other` with its 95 % interval by Fieller's theorem.

    With `same_meter` the shared errors cancel; with two meters both remain. Without a random error
    there is a value and no interval.
    """
    if one.value is None or not other.value:
        return Interval(None)
    halves = [half_width_of(each, same_meter=same_meter) for each in (one, other)]
    if halves[0] is None or halves[1] is None:
        return Interval(one.value / other.value)
    return ratio_interval(one.value, halves[0], other.value, halves[1])


def common_quality(qualities: Iterable[str]) -> str:
    """The quality of a figure made from figures of these qualities: theirs, or `mixed`.

    So a reader sees that a sum with an estimate in it is not measured. For no figures it is
    missing.
    """
    kinds = set(qualities)
    if not kinds:
        return "missing"
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _together(sds: Sequence[float | None], join) -> float | None:
    known = [sd for sd in sds if sd is not None]
    return join(*known) if len(known) == len(sds) else None


def _degrees(terms: Sequence[Quantity]) -> float:
    """Of a sum's random error, after Welch (1947) and Satterthwaite (1946)."""
    variances = [(term.random_sd or 0.0) ** 2 for term in terms]
    parts = math.fsum(
        variance**2 / term.degrees for variance, term in zip(variances, terms, strict=True)
    )
    return math.fsum(variances) ** 2 / parts if parts > 0 else math.inf
