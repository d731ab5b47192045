"""A number with its unit and its errors: what repeats average out, and what they share.

Readings of one meter share its calibration. It is in an absolute figure whole, adds in a sum, and
cancels in a ratio of two readings. So the two errors are kept apart until a figure is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kdwatts.metrics.fieller import Interval, ratio_interval
from kdwatts.metrics.student_t import NORMAL_975, mean_and_sd, t_quantile


@dataclass(frozen=True)
class Quantity:
    """A value and one standard deviation of each of its errors, all in `unit`."""

    value: float | None
    """None where it was not measured."""
    random_sd: float | None = None
    """Of what differs from one measurement to the next; None where nothing is known of it."""
    shared_sd: float | None = None
    """Of what all readings of one meter have in common; None where nothing is known of it."""
    unit: str = ""
    quality: str = "measured"
    """measured, attributed, estimated, mixed, reported or missing."""
    degrees: float = math.inf
    """Degrees of freedom of `random_sd`: measurements less one where they gave it."""


def interval_95(one: Quantity, *, calibration: bool = True) -> tuple[float, float] | None:
    """Ends of its 95 % interval; None where the value or its random error is unknown.

    The two halves, t random_sd and 1.96 shared_sd, add in squares. Without `calibration` it is for
    comparing with what the same meter read.
    """
    if one.value is None or one.random_sd is None:
        return None
    half = t_quantile(one.degrees) * one.random_sd
    if calibration:
        half = math.hypot(half, NORMAL_975 * (one.shared_sd or 0.0))
    return one.value - half, one.value + half


def mean_of(values: Sequence[float], *, unit: str = "", quality: str = "measured") -> Quantity:
    """The mean of independent measurements (Student 1908); of one the random error is unknown."""
    if not values:
        return Quantity(None, unit=unit, quality="missing")
    mean, sd = mean_and_sd(values)
    return Quantity(mean, sd, unit=unit, quality=quality, degrees=max(1, len(values) - 1))


def add(quantities: Iterable[Quantity]) -> Quantity:
    """The sum of readings of one meter: random errors in squares, shared ones as they are.

    One missing term makes the sum missing, not smaller. Terms of several qualities give `mixed`.
    """
    terms = list(quantities)
    if not terms:
        raise ValueError("add: 0 quantities given; give at least one")
    values = [term.value for term in terms]
    if None in values:
        return Quantity(None, unit=terms[0].unit, quality="missing")
    return Quantity(
        math.fsum(value or 0.0 for value in values),
        _together([term.random_sd for term in terms], math.hypot),
        _together([term.shared_sd for term in terms], lambda *sds: math.fsum(sds)),
        terms[0].unit,
        _common_quality(terms),
        _degrees(terms),
    )


def difference(one: Quantity, other: Quantity, *, same_meter: bool = True) -> Quantity:
    """`one` less `other`: what one meter shares cancels as far as both have it."""
    if one.value is None or other.value is None:
        return Quantity(None, unit=one.unit, quality="missing")

    def shared(mine: float, its: float) -> float:
        return abs(mine - its) if same_meter else math.hypot(mine, its)

    return Quantity(
        one.value - other.value,
        _together([one.random_sd, other.random_sd], math.hypot),
        _together([one.shared_sd, other.shared_sd], shared),
        one.unit,
        _common_quality([one, other]),
        _degrees([one, other]),
    )


def scaled(one: Quantity, factor: float, *, unit: str | None = None) -> Quantity:
    """The quantity times an exact number."""

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

    What one meter shares is taken to cancel; of two meters it stays in both. Without a random error
    there is a value and no interval.
    """
    if one.value is None or not other.value:
        return Interval(None)
    halves = [half_width(each, same_meter=same_meter) for each in (one, other)]
    if halves[0] is None or halves[1] is None:
        return Interval(one.value / other.value)
    return ratio_interval(one.value, halves[0], other.value, halves[1])


def half_width(one: Quantity, *, same_meter: bool) -> float | None:
    """Half of the 95 % interval that matters to a ratio; None where it is not known."""
    ends = interval_95(one, calibration=not same_meter)
    return None if ends is None else (ends[1] - ends[0]) / 2


def _together(sds: Sequence[float | None], join) -> float | None:
    known = [sd for sd in sds if sd is not None]
    return join(*known) if len(known) == len(sds) else None


def _common_quality(terms: Sequence[Quantity]) -> str:
    qualities = {term.quality for term in terms}
    return qualities.pop() if len(qualities) == 1 else "mixed"


def _degrees(terms: Sequence[Quantity]) -> float:
    """Of a sum's random error, after Welch (1947) and Satterthwaite (1946)."""
    variances = [(term.random_sd or 0.0) ** 2 for term in terms]
    parts = math.fsum(
        variance**2 / term.degrees for variance, term in zip(variances, terms, strict=True)
    )
    return math.fsum(variances) ** 2 / parts if parts > 0 else math.inf
