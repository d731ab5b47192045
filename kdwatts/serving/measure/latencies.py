"""How long answers took, from the moment at which they were scheduled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kdwatts.config.serving import Slo
from kdwatts.metrics.binomial import percentile_ranks
from kdwatts.records.serving_record import UNKNOWN, Figure, Percentiles
from kdwatts.serving.client.outcomes import Outcome
from kdwatts.serving.measure.batches import batch_ratio

P99_REQUESTS = 299
"""The fewest requests whose p99 has an upper end, and whose share of good ones can have a lower
bound of 0.99: 0.99^299 is below 0.05."""
ALIKE_FACTOR = 2.0
"""Variance between slices over that of independent requests, below which it may be chance."""


def ttft_s(outcome: Outcome) -> float | None:
    """Seconds from schedule to first token. None where no token came.

    A request that waited to be sent waited all the same: latencies from the moment of sending hide
    that (Tene 2013, "How NOT to Measure Latency": coordinated omission).
    """
    return outcome.chunks[0][0] - outcome.scheduled_s if outcome.chunks else None


def tpot_s(outcome: Outcome) -> float | None:
    """Seconds per token after the first chunk: (t_last - t_first) / (n - m), m tokens in the first.

    n is what the server's usage says, else the tokens of the chunks. None where the first chunk
    held the whole answer.
    """
    if not outcome.chunks:
        return None
    first_s, first_tokens = outcome.chunks[0]
    later = written(outcome) - first_tokens
    return (outcome.chunks[-1][0] - first_s) / later if later > 0 else None


def e2e_s(outcome: Outcome) -> float:
    """Seconds from schedule to last token; to the last byte where no token came."""
    last_s = outcome.chunks[-1][0] if outcome.chunks else outcome.ended_s
    return last_s - outcome.scheduled_s


def written(outcome: Outcome) -> int:
    """Tokens of an answer, as the server's usage says, else as its chunks do."""
    if outcome.output_tokens is not None:
        return outcome.output_tokens
    return sum(tokens for _, tokens in outcome.chunks)


def is_good(outcome: Outcome, slo: Slo) -> bool:
    """Whether an answer kept every limit. One without a second chunk keeps the limit of TPOT."""
    limits = (
        (ttft_s(outcome), slo.ttft_p99_s),
        (tpot_s(outcome), slo.tpot_p99_s),
        (e2e_s(outcome), slo.e2e_p99_s),
    )
    if slo.ttft_p99_s is not None and not outcome.chunks:
        return False
    return all(seconds is None or limit is None or seconds <= limit for seconds, limit in limits)


def percentiles(values: Sequence[float], slice_index: Sequence[int] | None = None) -> Percentiles:
    """p50, p90 and p99 with their 95 % intervals by order statistics.

    `slice_index` says in which slice of the window each value came. Requests of one queue are
    alike: where the number of values above a percentile varies between slices by over twice the
    variance of independent ones, so many fewer values count for its interval. Of M/D/1 at a load
    of 0.7, the intervals of 60 s then hold p50, p90 and p99 in 86, 84 and 70 of 100 cases, and
    otherwise in 58, 37 and 31: a p99 that matters needs several measurements.
    """
    return Percentiles(*(_percentile(values, slice_index, percent) for percent in (50, 90, 99)))


def independent_number(values: Sequence[float], slice_index: Sequence[int]) -> int:
    """How many independent requests tell as much as these, whose neighbours in time are alike.

    As in `percentiles`: the number over the larger of the variance factors at p50 and at p90.
    """
    if not values:
        return 0
    ordered, number = sorted(values), len(values)
    limits = [ordered[-(-number * percent // 100) - 1] for percent in (50, 90)]
    factor = max(_variance_factor(values, slice_index, limit) for limit in limits)
    return max(1, int(number / factor))


def _percentile(values: Sequence[float], slice_index: Sequence[int] | None, percent: int) -> Figure:
    """The least of the values that so many per cent do not exceed."""
    if not values:
        return UNKNOWN
    ordered, number = sorted(values), len(values)
    value = ordered[-(-number * percent // 100) - 1]  # Rounded up, in whole numbers.
    factor = 1.0 if slice_index is None else _variance_factor(values, slice_index, value)
    independent = max(1, int(number / factor))
    low, high = percentile_ranks(independent, percent / 100)
    per_rank = number / independent
    return Figure(
        value,
        None if low is None else ordered[max(1, math.floor(low * per_rank)) - 1],
        None if high is None else ordered[min(number, math.ceil(high * per_rank)) - 1],
    )


def _variance_factor(values: Sequence[float], slice_index: Sequence[int], limit: float) -> float:
    """Variance of the share of values above a limit, over that of independent values; else 1."""
    above = np.asarray(values) > limit
    share = float(above.mean())
    found = batch_ratio(
        np.bincount(slice_index, weights=above).tolist(), np.bincount(slice_index).tolist()
    )
    if found.random_sd is None or not 0 < share < 1:
        return 1.0
    factor = found.random_sd**2 / (share * (1 - share) / len(values))
    return factor if factor > ALIKE_FACTOR else 1.0
