"""Capacity: the greatest rate of requests that keeps a service-level objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from kdwatts.metrics.binomial import share_interval
from kdwatts.records.serving_record import Capacity, ServingPoint
from kdwatts.serving.measure.latencies import P99_REQUESTS

GOOD_SHARE = 0.99
"""Share of attempts that must keep the SLO, as its limits are of the 99th percentile."""
ONE_SIDED_95 = 0.90
"""Each end of an interval of 90 % is a bound of 95 % to one side."""
CLOSE_ENOUGH = 1.05
"""The search ends when the rate that is too much is no more than so many times the one kept."""


def find_capacity(
    measure: Callable[[float], ServingPoint],
    *,
    low_per_s: float,
    high_per_s: float,
    max_tries: int = 8,
    known: Sequence[ServingPoint] = (),
) -> Capacity:
    """The greatest Poisson rate, requests a second, whose share of good attempts is at least 0.99.

    `measure` sends requests at a rate and returns its figures. A rate keeps the SLO if the
    one-sided 95 % lower bound of its share (Clopper and Pearson 1934) is at least 0.99; that takes
    299 attempts, and more where requests of one queue wait alike: `independent_attempts` count. It
    does not if the upper bound is below 0.99, if the load is saturated, or if all failed. Between
    the two, and where our client was too slow, it is undecided, and counts as not kept.

    `known` are Poisson loads that were measured before; those that decide something are not
    measured again. Without any, the search starts at the geometric mean of `low_per_s` and
    `high_per_s`. It doubles or halves the rate until it has one that keeps the SLO and a higher one
    that does not, or reaches an end. Then it bisects, as the rate of MLPerf's server scenario is
    searched for (Reddi et al. 2020, arXiv 1911.02549), until both are within 5 % or `max_tries` are
    used.

    The verdict is found if a rate was kept and a higher one is decided to be too much. It is
    undecided where an undecided rate, or the end of the tries, stands in place of either. The
    search ends at once at a rate with too few attempts, since lower rates have fewer still. It does
    not begin where the greatest known rate had too few, and no known rate decides anything.

    Raises ValueError for rates that are not above 0, or out of order, and for no tries.
    """
    if not 0 < low_per_s <= high_per_s or max_tries < 1:
        raise ValueError(
            f"find_capacity: low_per_s={low_per_s}, high_per_s={high_per_s} and max_tries="
            f"{max_tries} given; give 0 < low_per_s <= high_per_s and at least one try"
        )
    tried: list[ServingPoint] = []
    kept = {point.level: keeps_slo(point) for point in known if keeps_slo(point) is not None}
    rate = _next_rate(kept, low_per_s, high_per_s) if kept else math.sqrt(low_per_s * high_per_s)
    # The search begins below the greatest known rate, where still fewer requests would end.
    greatest = None if kept else max(known, key=lambda point: point.level, default=None)
    remark = None if greatest is None else _lack(greatest, greatest.level)
    while rate is not None and len(tried) < max_tries and remark is None:
        point = measure(rate)
        tried.append(point)
        kept[rate] = keeps_slo(point)
        remark = _lack(point, rate)
        rate = _next_rate(kept, low_per_s, high_per_s)
    return replace(_capacity(kept, tried, low_per_s, high_per_s), remark=remark)


def _lack(point: ServingPoint, rate_per_s: float) -> str | None:
    """What to do about a rate that had too few attempts to decide anything; None if it had not."""
    attempts = point.completed + point.failed
    if point.verdict == "client_bound" or keeps_slo(point) is not None or attempts >= P99_REQUESTS:
        return None
    return (
        f"{attempts} requests ended in the window at {rate_per_s:.3g} requests/s, but "
        f"{P99_REQUESTS} are needed; give max_window_s of about "
        f"{math.ceil(1.5 * P99_REQUESTS / rate_per_s)} s"
    )


def keeps_slo(point: ServingPoint) -> bool | None:
    """Whether at least 99 of 100 attempts are good. None where that is not decided."""
    attempts = point.completed + point.failed
    trials = attempts if point.independent_attempts is None else point.independent_attempts
    if point.verdict == "saturated" or (point.verdict == "failed" and attempts):
        return False
    if point.verdict == "client_bound" or point.good_share.value is None or not attempts:
        return None
    good = point.good_share.value * trials
    low, high = share_interval(good, trials, confidence=ONE_SIDED_95) or (0.0, 1.0)
    if low >= GOOD_SHARE:
        return True
    return False if high < GOOD_SHARE else None


def _next_rate(kept: dict[float, bool | None], low_per_s: float, high_per_s: float) -> float | None:
    """The rate to try next. None when the answer is known as well as it can be."""
    good, bad = _bracket(kept)
    if good is None:
        assert bad is not None
        return None if bad <= low_per_s else max(low_per_s, bad / 2)
    if bad is None:
        return None if good >= high_per_s else min(high_per_s, good * 2)
    return None if bad <= CLOSE_ENOUGH * good else (good + bad) / 2


def _bracket(kept: dict[float, bool | None]) -> tuple[float | None, float | None]:
    """The greatest rate kept, and the least rate above it that is not."""
    good = max((rate for rate, is_kept in kept.items() if is_kept), default=None)
    above = [rate for rate, is_kept in kept.items() if not is_kept and rate > (good or 0.0)]
    return good, min(above, default=None)


def _capacity(
    kept: dict[float, bool | None], tried: list[ServingPoint], low_per_s: float, high_per_s: float
) -> Capacity:
    good, _ = _bracket(kept)
    too_much = [rate for rate, is_kept in kept.items() if is_kept is False and rate > (good or 0.0)]
    first_too_much = min(too_much, default=None)
    if good is None:
        verdict = "none" if first_too_much == low_per_s else "undecided"
    elif first_too_much is None:
        verdict = "above" if good == high_per_s else "undecided"
    else:
        verdict = "found"
    return Capacity(good, first_too_much, verdict, tried)
