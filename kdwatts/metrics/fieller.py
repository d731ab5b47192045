"""The interval of a ratio of two uncertain numbers (Fieller 1954, J. Royal Stat. Soc. B 16:175).

A ratio r is in the interval when numerator - r denominator may be 0. The interval has an upper end
if and only if the denominator can be told from 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval. An end is None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether the interval has two ends."""
        return self.low is not None and self.high is not None

    @property
    def half_width(self) -> float | None:
        """Half of the interval's length. The interval need not be symmetric around the value."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def times(self, factor: float) -> Interval:
        """The interval in another unit. `factor` is above 0 and has no error."""
        ends = (self.value, self.low, self.high)
        return Interval(*(None if end is None else factor * end for end in ends))


def ratio_interval(
    numerator: float, numerator_half: float, denominator: float, denominator_half: float
) -> Interval:
    """The ratio a / b with its 95 % interval {r : (a - r b)^2 <= A^2 + r^2 B^2}.

    A and B are half of the 95 % intervals of a and b, whose errors are independent. Each half width
    has its own quantile: one number may rest on three measurements and the other on many. Where the
    denominator cannot be told from 0 and the numerator is above 0, `low` is the least ratio above 0
    in the set, and there is no upper end. Where the numerator cannot be told from 0 either, both
    ends are None.
    """
    value = numerator / denominator if denominator else None
    # The set is q r^2 - 2 p r + s <= 0.
    q = denominator**2 - denominator_half**2
    p = numerator * denominator
    s = numerator**2 - numerator_half**2
    root = math.sqrt(max(0.0, p**2 - q * s))
    if q > 0:
        # The smaller end is s over the larger one, so no near numbers are subtracted.
        outer = (p + math.copysign(root, p)) / q
        inner = s / (q * outer) if outer else 0.0
        return Interval(value, min(inner, outer), max(inner, outer))
    if s <= 0 or numerator <= 0 or p + root <= 0:
        return Interval(value)
    return Interval(value, low=s / (p + root))
