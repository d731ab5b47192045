"""The interval of a ratio of two uncertain numbers (Fieller 1954, J. Royal Stat. Soc. B 16:175).

A ratio r is in the interval where numerator - r denominator may be 0. The set is bounded if and
only if the denominator is told from 0; else no finite number is an upper end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval; an end is None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def is_bounded(self) -> bool:
        return self.low is not None and self.high is not None

    @property
    def half_width(self) -> float | None:
        """Half of the interval, which need not be symmetric."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def times(self, factor: float) -> Interval:
        """The same in another unit; the factor is above 0 and exact."""
        ends = (self.value, self.low, self.high)
        return Interval(*(None if end is None else factor * end for end in ends))


def ratio_interval(
    numerator: float, numerator_half: float, denominator: float, denominator_half: float
) -> Interval:
    """{r : (a - r b)^2 <= A^2 + r^2 B^2} for a over b, A and B half of their 95 % intervals.

    The errors are independent. Each half width has a quantile of its own, so that one number may be
    known by three measurements and the other by many. Where the denominator is not told from 0 and
    the numerator is above 0, `low` is the least ratio above 0 in the set and there is no upper end.
    Where the numerator is not told from 0 either, both ends are None.
    """
    value = numerator / denominator if denominator else None
    # The set is q r^2 - 2 p r + s <= 0.
    q = denominator**2 - denominator_half**2
    p = numerator * denominator
    s = numerator**2 - numerator_half**2
    root = math.sqrt(max(0.0, p**2 - q * s))
    if q > 0:
        # The smaller end from s over the larger one: no difference of near numbers.
        outer = (p + math.copysign(root, p)) / q
        inner = s / (q * outer) if outer else 0.0
        return Interval(value, min(inner, outer), max(inner, outer))
    if s <= 0 or numerator <= 0 or p + root <= 0:
        return Interval(value)
    return Interval(value, low=s / (p + root))
