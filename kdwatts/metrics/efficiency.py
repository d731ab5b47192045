"""Joules per token, and accuracy kept over energy: EPT, Eff_overall and its interval."""

from __future__ import annotations

import math

from kdwatts.metrics.fieller import Interval


def j_per_token(energy_j: float | None, tokens: int | None) -> float | None:
    """EPT: joules per token (arXiv 2605.13981). None when energy or tokens are missing."""
    return energy_j / tokens if energy_j is not None and tokens else None


def eff_overall(
    kept: float | None, teacher_j_per_token: float | None, student_j_per_token: float | None
) -> float | None:
    """Eff_overall: OM_perf times the teacher's over the student's joules per token served, no unit.

    arXiv 2605.13981. None when one of the three is missing.
    """
    if kept is None or teacher_j_per_token is None or not student_j_per_token:
        return None
    return kept * teacher_j_per_token / student_j_per_token


def product(one: Interval, other: Interval) -> Interval:
    """The product of two ratios with its 95 % interval, computed on a logarithmic scale.

    On each side, the distances of the ends from the values, as logarithms, add in squares (Zou and
    Donner 2008, Statistics in Medicine 27:1693, "MOVER"). So an interval that is longer on one side
    stays so, and none reaches 0. An end is None where one of the two has none above 0.
    """
    if one.value is None or other.value is None:
        return Interval(None)
    value = one.value * other.value
    return Interval(
        value,
        _end(value, (one.value, one.low), (other.value, other.low), sign=-1),
        _end(value, (one.value, one.high), (other.value, other.high), sign=1),
    )


def _end(
    value: float, one: tuple[float, float | None], other: tuple[float, float | None], *, sign: int
) -> float | None:
    distances = []
    for middle, end in (one, other):
        if end is None or end <= 0 or middle <= 0:
            return None
        distances.append(math.log(end / middle))
    return value * math.exp(sign * math.hypot(*distances))
