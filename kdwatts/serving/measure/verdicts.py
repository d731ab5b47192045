"""Whether the figures of a load mean what they say: saturated, unsteady, slowed by our client."""

# K batches of equal length in one window.

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdwatts.metrics.quantity import difference
from kdwatts.metrics.student_t import to_half_width
from kdwatts.serving.client.outcomes import UNFINISHED, Outcome, Second
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.batches import batch_ratio, larger_by, neighbour_correlation
from kdwatts.serving.measure.latencies import ttft_s
from kdwatts.serving.measure.steady_start import Window

LEAST_LAG_S = 0.010
LAG_SHARE = 0.05
"""Of the median time to first token."""
STILL_GAP_S = 1.5
"""A client that writes a line each second stood still where there are more seconds in between."""
STILL_SHARE = 0.01
"""Of the window, in which a client may stand still."""
TREND_AFTER_S = 30.0
TREND_BATCHES = 10
FEWEST_IN_TREND = 5
"""Batches with a value, without which no trend is looked for."""
LEFT_SHARE = 0.05
"""Of the requests of a replay's second half: where more are left over, its queue grows."""
NO_MATTER = 0.01
"""Share of the mean below which a difference of halves, or a rise over the window, is none."""


def send_lag_p99_s(outcomes: Sequence[Outcome], window: Window) -> float | None:
    """99th percentile, over requests scheduled in the window, of sent less scheduled.

    A request that the client never came to send lagged until it was given up. None for no requests.
    """
    lags_s = sorted(
        (outcome.ended_s if outcome.sent_s is None else outcome.sent_s) - outcome.scheduled_s
        for outcome in outcomes
        if window.holds(outcome.scheduled_s)
        and (outcome.sent_s is not None or outcome.failure == UNFINISHED)
    )
    return lags_s[-(-len(lags_s) * 99 // 100) - 1] if lags_s else None


def still_s(seconds: Sequence[Second], window: Window) -> float:
    """How long our client stood still in the window: it did not write its line each second.

    In a closed loop the lag does not tell, as a client that stood still sees an answer late, and
    sends the next request at once. A client that never came back writes no line after it: the end
    of the window stands for one.
    """
    times_s = [second.time_s for second in seconds]
    if not times_s:
        return 0.0
    gaps_s = [
        min(later, window.end_s) - max(earlier, window.start_s)
        for earlier, later in pairwise([*times_s, max(times_s[-1], window.end_s)])
    ]
    return sum(gap_s - 1.0 for gap_s in gaps_s if gap_s > STILL_GAP_S)


def is_client_bound(
    lag_p99_s: float | None, ttfts_s: Sequence[float], seconds: Sequence[Second], window: Window
) -> bool:
    """Whether our client, and not the server, made the figures: it was late, or stood still."""
    limit_s = LEAST_LAG_S
    if ttfts_s:
        limit_s = max(limit_s, LAG_SHARE * float(np.median(ttfts_s)))
    is_late = lag_p99_s is not None and lag_p99_s > limit_s
    return is_late or still_s(seconds, window) > STILL_SHARE * window.duration_s


def is_saturated(
    load: Load, outcomes: Sequence[Outcome], seconds: Sequence[Second], window: Window
) -> bool:
    """Whether requests come faster than they are answered: a queue grows without end.

    Requests under way and times to first token must both rise, each with a slope above 0 by a 95 %
    interval: over the window, or from 30 s after the first request where that is earlier, since a
    load that never gets steady has a late window. A closed loop cannot be saturated: it waits for
    the server. A replay is where its end `falls_behind`.
    """
    if load.is_closed:
        return False
    if load.is_replay and not falls_behind(seconds, window):
        return False
    span_s = (min(window.start_s, window.start_s - window.warm_up_s + TREND_AFTER_S), window.end_s)
    if load.is_replay:
        span_s = (_last_half_s(window), window.end_s)
    started = [o for o in outcomes if o.failure in (None, UNFINISHED) and o.chunks]
    waits = [(o.chunks[0][0], ttft_s(o) or 0.0) for o in started]
    in_flight = [(second.time_s, float(second.in_flight)) for second in seconds]
    return _rises(in_flight, span_s) and _rises(waits, span_s)


def falls_behind(seconds: Sequence[Second], window: Window) -> bool:
    """Whether a server ended fewer than 95 % of the requests of a window's second half.

    The load of a replay may rise, and more requests are under way then on a server that keeps up.
    So it is no sign of a queue by itself that both rise.
    """
    half_s = _last_half_s(window)
    seen = [one for one in seconds if half_s <= one.time_s <= window.end_s]
    if len(seen) < 2:
        return False
    sent = seen[-1].sent - seen[0].sent
    grown = seen[-1].in_flight - seen[0].in_flight
    return sent > 0 and grown > LEFT_SHARE * sent


def _last_half_s(window: Window) -> float:
    return (window.start_s + window.end_s) / 2


def _rises(points: Sequence[tuple[float, float]], span_s: tuple[float, float]) -> bool:
    """Whether values over time have a slope whose 95 % interval is above 0, and rise by over 1 %.

    The line is fitted to means of batches by least squares, as neighbours in a queue are alike.
    Where the residuals of neighbouring batches still correlate, the interval is wider by the factor
    of a first-order autoregressive process.
    """
    centres_K, means_K = _batch_means(points, span_s)
    number = len(means_K)
    if number < FEWEST_IN_TREND:
        return False
    apart_K = centres_K - centres_K.mean()
    slope = float((apart_K * means_K).sum() / (apart_K**2).sum())
    residuals_K = means_K - means_K.mean() - slope * apart_K
    error = math.sqrt(float((residuals_K**2).sum()) / (number - 2) / float((apart_K**2).sum()))
    error *= larger_by(neighbour_correlation(residuals_K))
    rise = slope * (span_s[1] - span_s[0])
    return slope > to_half_width(error, number - 2) and rise > NO_MATTER * abs(means_K.mean())


def _batch_means(
    points: Sequence[tuple[float, float]], span_s: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle and mean of each of the batches that have values; they part the span equally."""
    times_s, values = np.asarray(points, float).reshape(-1, 2).T
    edges_s = np.linspace(*span_s, TREND_BATCHES + 1)
    counts_K, _ = np.histogram(times_s, edges_s)
    sums_K, _ = np.histogram(times_s, edges_s, weights=values)
    has_K = counts_K > 0
    centres_K = (edges_s[1:] + edges_s[:-1]) / 2
    return centres_K[has_K], sums_K[has_K] / counts_K[has_K]


def is_unsteady(
    *, durations_s: ArrayLike, output_tokens: ArrayLike, joules: ArrayLike | None
) -> bool:
    """Whether the two halves of a window differ in tokens a second, or in watts.

    Each argument has one number for each slice. Halves differ where the 95 % interval of their
    difference leaves out 0, which is about 2 errors, and where they are more than 1 % apart. As two
    figures are asked, each has an interval of 97.5 %. Too few slices for an interval are no proof.

    Slices count as independent here. A change within a half would pass for memory otherwise, and
    hide itself. The price: of queues with a service time of half a slice, 11 in 100 are called
    unsteady at a load of 0.7.
    """
    seconds = np.asarray(durations_s, float)
    figures = [np.asarray(one, float) for one in (output_tokens, joules) if one is not None]
    return any(_halves_differ(figure, seconds, confidence=1 - 0.05 / 2) for figure in figures)


def _halves_differ(
    totals: NDArray[np.float64], seconds: NDArray[np.float64], *, confidence: float
) -> bool:
    middle = len(totals) // 2
    if middle < 2:
        return False
    halves = (slice(None, middle), slice(middle, None))
    first, second = (
        batch_ratio(totals[half].tolist(), seconds[half].tolist(), have_memory=False)
        for half in halves
    )
    apart = difference(second, first)
    if apart.value is None or apart.random_sd is None:
        return False
    size = abs(float(totals.sum() / seconds.sum()))
    limit = max(to_half_width(apart.random_sd, apart.degrees, confidence), NO_MATTER * size)
    return abs(apart.value) > limit
