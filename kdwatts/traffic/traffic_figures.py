"""Rates, lengths and bursts of logged requests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from kdwatts.metrics.fleet import Stretch
from kdwatts.traffic.logged_request import LoggedRequest
from kdwatts.traffic.traffic_summary import TokenLengths, TrafficSummary

HOUR_S = 3600.0
PEAK_S = 300.0
MOST_S = 10 * 365 * 24 * HOUR_S
"""A log that lasts longer mixes clocks, such as seconds from its start and seconds since 1970."""
LEAST_SECONDS = 30
"""Fewer counts of one second tell little of their variance."""


def traffic_of(
    requests: Sequence[LoggedRequest], *, log_format: str, sha256: str, num_left_out: int
) -> TrafficSummary:
    """What requests in the order of arrival, the first at 0 s, say of their traffic.

    Raises ValueError where they come at one moment alone, as they have no rate then, and where they
    last for more than ten years.
    """
    times_s = np.fromiter((one.t_s for one in requests), float, len(requests))
    if not len(times_s) or times_s[-1] <= 0:
        raise ValueError(
            f"the log has {len(requests)} requests of one moment, which is no rate; give requests "
            "of at least two moments"
        )
    span_s = float(times_s[-1]) * len(times_s) / (len(times_s) - 1)
    if not times_s[-1] <= MOST_S:
        raise ValueError(
            f"the log's {len(requests)} requests come over {times_s[-1]:.3g} s, which is more than "
            "ten years; give all moments by one clock, in the unit of the format"
        )
    peak_span_s, hours = min(PEAK_S, span_s), _hours(times_s, span_s)
    return TrafficSummary(
        log_format=log_format,
        sha256=sha256,
        num_requests=len(times_s),
        num_left_out=num_left_out,
        span_s=span_s,
        hours=hours,
        peak_rate_per_s=_most_in(times_s, peak_span_s) / peak_span_s,
        peak_span_s=peak_span_s,
        dispersion=_dispersion(times_s, span_s),
        gap_cv=_gap_cv(times_s, hours),
        prompt_tokens=_lengths(one.prompt_tokens for one in requests),
        output_tokens=_lengths(one.output_tokens for one in requests),
        num_sessions=_num_sessions(requests),
    )


def _hours(times_s: NDArray[np.float64], span_s: float) -> tuple[Stretch, ...]:
    edges_s = [*np.arange(0.0, span_s, HOUR_S), span_s]
    # A few requests in the seconds after a whole hour would pass for the rate of the busiest one.
    if len(edges_s) > 2 and edges_s[-1] - edges_s[-2] < PEAK_S:
        del edges_s[-2]
    counts = np.histogram(times_s, edges_s)[0]
    durations_s = np.diff(edges_s)
    return tuple(
        Stretch(float(duration_s), int(count) / float(duration_s))
        for duration_s, count in zip(durations_s, counts, strict=True)
    )


def _most_in(times_s: NDArray[np.float64], width_s: float) -> int:
    """Most requests in any time so long. It begins with one of them, and its end is not in it."""
    ends = np.searchsorted(times_s, times_s + width_s, side="left")
    return int((ends - np.arange(len(times_s))).max())


def _dispersion(times_s: NDArray[np.float64], span_s: float) -> float | None:
    """Variance over mean of the counts of whole seconds, each around the mean of its hour."""
    seconds = math.floor(span_s)
    if seconds < LEAST_SECONDS:
        return None
    # Years of a log have far more seconds than requests: most counts are 0, and add nothing here.
    busy, counts = np.unique(times_s[times_s < seconds].astype(np.int64), return_counts=True)
    sizes = np.diff([*range(0, seconds, int(HOUR_S)), seconds])
    sums = np.bincount(busy // int(HOUR_S), counts, minlength=len(sizes))
    squares = np.square(counts).sum() - (sums**2 / sizes).sum()
    return float(squares / (seconds - len(sizes)) / (sums.sum() / seconds))


def _gap_cv(times_s: NDArray[np.float64], hours: Sequence[Stretch]) -> float | None:
    """Standard deviation over mean of the gaps, each times the rate of the hour it begins in."""
    gaps_s = np.diff(times_s)
    if len(gaps_s) < 2:
        return None
    rates_per_s = np.array([hour.rate_per_s for hour in hours])
    shares = rates_per_s / rates_per_s.max()
    # The last of them may be a little longer than an hour.
    places = np.minimum(times_s[:-1] // HOUR_S, len(hours) - 1).astype(np.int64)
    gaps = gaps_s * shares[places]
    return float(gaps.std(ddof=1) / gaps.mean())


def _lengths(tokens: Iterable[int | None]) -> TokenLengths | None:
    known = np.array([one for one in tokens if one is not None], float)
    if not len(known):
        return None
    # Each percentile is one of the lengths: the least that so many per cent do not exceed.
    p50, p95, p99 = np.percentile(known, (50, 95, 99), method="inverted_cdf").tolist()
    return TokenLengths(float(known.mean()), p50, p95, p99)


def _num_sessions(requests: Sequence[LoggedRequest]) -> int | None:
    named = {one.session for one in requests if one.session is not None}
    alone = sum(one.session is None for one in requests)
    return len(named) + alone if named else None
