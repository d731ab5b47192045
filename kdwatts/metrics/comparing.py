"""Two settings compared by pairs of runs with one seed each.

Three questions are answered: do they differ, are they the same within x %, and how many seeds would
show it. All answers use Student's t over the differences of pairs, which count as independent draws
from a normal distribution. `alpha` is the chance of a false finding in one comparison. For m
comparisons made together, give 0.05 / m: the strictest level in Holm's correction.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

from kdwatts.metrics.student_t import to_half_width

POWER = 0.8
"""The chance of showing a true difference at which seeds are enough."""

LEAST_SEEDS = 3
"""The least number of seeds that is ever suggested: two hardly show how much seeds differ."""

MOST_SEEDS = 50
"""The largest number of seeds that is suggested.

A difference that needs more is next to nothing.
"""


def paired_p(differences: Sequence[float], *, scale: float = 0.0) -> float | None:
    """Two-sided p of Student's paired t-test that the mean difference is 0 (Student 1908).

    t = mean / (s / sqrt(n)) with n - 1 degrees of freedom. `scale` is the size of the numbers that
    were subtracted: differences within its rounding are no spread. None for fewer than two
    differences. None also when all differences are equal and not 0: their spread is unknown then,
    not 0.
    """
    from scipy.special import stdtr

    if len(differences) < 2:
        return None
    mean, spread = _mean_and_spread(differences, scale)
    if spread is None:
        return 1.0 if abs(mean) <= _rounding(differences, scale) else None
    count = len(differences)
    return float(2 * stdtr(count - 1, -abs(mean) / (spread / math.sqrt(count))))


def equivalence_p(
    values: Sequence[float], baseline_values: Sequence[float], margin: float
) -> float | None:
    """p that values and baseline differ by `margin` of the baseline's mean or more (0.03 is 3 %).

    This is the larger p of two one-sided paired t-tests: that value - (1 + margin) baseline is
    below 0, and that value - (1 - margin) baseline is above 0. It is exact for the ratio of both
    means, whose denominator is measured too. p is below alpha exactly when Fieller's 1 - 2 alpha
    interval of the ratio lies within 1 +- margin. Pairs stand in equal places. None for fewer than
    two pairs, for a baseline whose mean is not above 0, and where a difference has no spread.
    """
    from scipy.special import stdtr

    pairs = list(zip(values, baseline_values, strict=True))
    if len(pairs) < 2 or math.fsum(baseline_values) <= 0:
        return None
    one_sided = []
    for sign in (1, -1):
        beyond = [sign * value - (sign + margin) * base for value, base in pairs]
        mean, spread = _mean_and_spread(beyond, max(map(abs, baseline_values)))
        if spread is None:
            return None
        one_sided.append(float(stdtr(len(pairs) - 1, mean / (spread / math.sqrt(len(pairs))))))
    return max(one_sided)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number, in the same order (Holm 1979).

    The k-th smallest of m values is multiplied by m - k + 1. No corrected value is above 1 or below
    that of a smaller p.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def holm_over_margins(p_values: Sequence[Sequence[float]]) -> list[list[float]]:
    """Corrected `equivalence_p` of each comparison at each of its margins, the widest first.

    You may report the smallest margin that passes. At each margin, p is corrected by `holm` beside
    the other comparisons at their narrowest margin. This is Holm's closed test. The margins are
    nested, so a false finding at one margin comes with a false finding at the widest false margin.
    The chance of any false finding stays below alpha.
    """
    raised = [list(accumulate(ps, max)) for ps in p_values]
    narrowest = sorted(ps[-1] for ps in raised)
    count = len(narrowest)
    before = list(accumulate(((count - k) * p for k, p in enumerate(narrowest)), max, initial=0.0))

    def corrected(p: float) -> float:
        rank = bisect_left(narrowest, p)
        return min(1.0, max(before[rank], (count - rank) * p))

    return [[corrected(p) for p in ps] for ps in raised]


def paired_power(d: float, n: int, alpha: float = 0.05) -> float:
    """The chance that n pairs show a difference of d standard deviations, two-sided at alpha.

    d = |mean| / sd of the differences. The chance is P(|T| > t[1 - alpha / 2]) for the noncentral t
    with n - 1 degrees of freedom and noncentrality d sqrt(n).
    """
    from scipy.special import ndtr

    # Given the sample's sd the mean is normal; scipy's nctdtr is nan for many arguments.
    limits = _limits(n, 1 - alpha)
    centre = d * math.sqrt(n)
    return float((ndtr(centre - limits) + ndtr(-centre - limits)).mean())


def equivalence_power(width: float, n: int, alpha: float = 0.05) -> float:
    """The chance that n pairs of equal settings are shown to be the same within `width`.

    `width` is the margin over the standard deviation of the differences. Both one-sided tests pass
    when the mean difference lies within width - t[1 - alpha] s / sqrt(n) of 0.
    """
    from scipy.special import ndtr

    room = width * math.sqrt(n) - _limits(n, 1 - 2 * alpha)
    return float((2 * ndtr(room) - 1).clip(0.0).mean())


def seeds_needed(
    differences: Sequence[float],
    *,
    alpha: float = 0.05,
    power: float = POWER,
    least: int = LEAST_SEEDS,
    most: int = MOST_SEEDS,
    scale: float = 0.0,
) -> int | None:
    """The number of pairs, those at hand included, that would show the observed difference.

    It is the smallest n from `least` on whose `paired_power` at d = |mean| / s reaches `power`, and
    most + 1 where `most` pairs are too few. d comes from the pairs at hand. From few pairs it is
    usually too large (from three, 1.8 times on average), so n is a rough figure. None for fewer
    than two differences and for differences without a spread. `scale` is that of `paired_p`.
    """
    if len(differences) < 2:
        return None
    mean, spread = _mean_and_spread(differences, scale)
    if spread is None:
        return None
    return _first(lambda n: paired_power(abs(mean) / spread, n, alpha), power, least, most)


def seeds_needed_for_equivalence(
    values: Sequence[float],
    baseline_values: Sequence[float],
    margin: float,
    *,
    alpha: float = 0.05,
    power: float = POWER,
    least: int = LEAST_SEEDS,
    most: int = MOST_SEEDS,
) -> int | None:
    """The number of pairs that would show two equal settings to be the same within `margin`.

    It is the smallest n from `least` on whose `equivalence_power` reaches `power`, at the observed
    standard deviation of the differences over the baseline's mean. It is most + 1 where `most`
    pairs are too few. Settings that differ by less than the margin need more pairs. None where
    `equivalence_p` is None.
    """
    differences = [a - b for a, b in zip(values, baseline_values, strict=True)]
    if len(differences) < 2 or math.fsum(baseline_values) <= 0:
        return None
    spread = _mean_and_spread(differences, max(map(abs, baseline_values)))[1]
    if spread is None:
        return None
    width = margin * math.fsum(baseline_values) / len(differences) / spread
    return _first(lambda n: equivalence_power(width, n, alpha), power, least, most)


def _first(power_of: Callable[[int], float], power: float, least: int, most: int) -> int:
    """The smallest n of least to most whose power, which grows with n, reaches `power`."""
    return bisect_left(range(most + 1), power, lo=least, key=power_of)


def _mean_and_spread(values: Sequence[float], scale: float) -> tuple[float, float | None]:
    """Mean and standard deviation of two values or more; None where it is but rounding."""
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return mean, None if spread <= _rounding(values, scale) else spread


def _rounding(values: Sequence[float], scale: float) -> float:
    return 1e-12 * max(scale, *map(abs, values))


@lru_cache(maxsize=512)
def _limits(n: int, confidence: float) -> Any:
    """t times the sample sd of n draws with sd 1, at 500 equally likely quantiles of that sd."""
    import numpy as np
    from scipy.special import gammaincinv

    quantiles = (np.arange(500) + 0.5) / 500
    sds = np.sqrt(2 * gammaincinv((n - 1) / 2, quantiles) / (n - 1))
    return to_half_width(sds, n - 1, confidence)
