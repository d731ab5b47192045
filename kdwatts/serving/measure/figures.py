"""One load as a ServingPoint, and whether it was measured for long enough."""

# S slices of one window.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.serving import Slo
from kdwatts.metrics.binomial import share_interval
from kdwatts.metrics.quantity import MISSING_J, Quantity, add, interval_95
from kdwatts.records.schema import Components
from kdwatts.records.serving_record import Figure, Percentiles, ServingPoint
from kdwatts.serving.client.outcomes import UNFINISHED, Outcome, Second
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure import remarks
from kdwatts.serving.measure.batches import batch_ratio
from kdwatts.serving.measure.latencies import (
    P99_REQUESTS,
    e2e_s,
    independent_number,
    percentiles,
    tpot_s,
    ttft_s,
    written,
)
from kdwatts.serving.measure.slices import Slice, why_missing
from kdwatts.serving.measure.steady_start import Window, median_latency_s, steady_window
from kdwatts.serving.measure.tallies import Tally, tally
from kdwatts.serving.measure.verdicts import (
    is_client_bound,
    is_saturated,
    is_unsteady,
    send_lag_p99_s,
    still_s,
)

COUNTER_PERIODS = 200
"""Shortest window in periods of the GPU's counter: its two edges then err by at most 1 %."""
MEDIAN_LATENCIES = 10
"""Shortest window in median latencies."""
USAGE_ERROR = 0.001
"""Difference between the answers' tokens and the engine's counter that is no matter."""


def is_enough(
    load: Load,
    outcomes: Sequence[Outcome],
    seconds: Sequence[Second],
    slices: Sequence[Slice],
    *,
    slo: Slo,
    min_window_s: float,
    counter_period_s: float,
) -> bool:
    """Whether the window is long enough for its figures.

    It must be steady, and last `min_window_s`, 200 periods of the GPU's counter and 10 median
    latencies. With an SLO, as many requests must have ended in it as tell what 299 independent ones
    do. An open loop that is saturated over the second half of twice that time is known well enough
    too: it never gets steady.
    """
    window = steady_window(load, outcomes, seconds, slices)
    if window is None:
        return False
    least_s = max(min_window_s, COUNTER_PERIODS * counter_period_s)
    if not window.is_steady:
        return window.duration_s >= least_s and is_saturated(load, outcomes, seconds, window)
    if window.duration_s < _needed_s(outcomes, min_window_s, counter_period_s):
        return False
    if not slo.is_set:
        return True
    ended = [o for o in outcomes if o.failure != UNFINISHED and window.holds(o.ended_s)]
    enough = _independent(ended, window, slo) >= P99_REQUESTS
    return enough or is_saturated(load, outcomes, seconds, window)


def point(
    load: Load,
    outcomes: Sequence[Outcome],
    seconds: Sequence[Second],
    slices: Sequence[Slice],
    *,
    slo: Slo,
    seed: int,
    min_window_s: float,
    counter_period_s: float,
) -> ServingPoint:
    """The figures of a load over its steady part, with verdict, remarks and 95 % intervals.

    `outcomes` are all requests, those that were under way at the end included. `slices` follow each
    other without a gap, and end while requests are still being sent. `prefill_j_per_token`,
    `decode_j_per_token` and `scope` stay unknown: one load cannot tell them.

    Where no request ended well in the window, or the server restarted, the verdict is failed (or
    client_bound, or saturated), joules and counts remain, and no figure but watts has a value.
    """
    window = steady_window(load, outcomes, seconds, slices)
    bare = ServingPoint(
        load.kind, load.level, "failed", seed=seed, burstiness=load.burstiness, speed=load.speed
    )
    if window is None:
        return replace(bare, remarks=[remarks.NO_SLICE])
    work = tally(outcomes, window, slo)
    counted = _counted(bare, window, work, outcomes)
    fallen = _fallen_counter(window)
    if fallen is not None:
        return replace(counted, usage_error=None, remarks=[remarks.restarted(fallen)])
    needed_s = _needed_s(outcomes, min_window_s, counter_period_s)
    verdict = _verdict(load, outcomes, seconds, window, work, counted, needed_s)
    late = remarks.client_bound(counted.send_lag_p99_s, still_s(seconds, window))
    causes = [late] if verdict == "client_bound" else []
    if not work.completed:
        causes.append(remarks.nothing_ended(window.duration_s, counted.failures))
        return replace(counted, verdict=verdict, remarks=causes)
    figured = _figured(counted, window, work, slo)
    sentences = remarks.of(
        figured,
        verdict=verdict,
        is_steady=window.is_steady,
        is_replay=load.is_replay,
        needed_s=needed_s,
        guessed_prompts=work.guessed_prompts,
        wrong_usage=_is_wrong_usage(figured, work),
        has_slo=slo.is_set,
        why_no_joules=why_missing(window.slices),
    )
    return replace(figured, verdict=verdict, remarks=[*causes, *sentences])


def _needed_s(outcomes: Sequence[Outcome], min_window_s: float, counter_period_s: float) -> float:
    latency_s = median_latency_s(outcomes) or 0.0
    periods_s = COUNTER_PERIODS * counter_period_s
    return max(min_window_s, periods_s, MEDIAN_LATENCIES * latency_s)


def _verdict(
    load: Load,
    outcomes: Sequence[Outcome],
    seconds: Sequence[Second],
    window: Window,
    work: Tally,
    counted: ServingPoint,
    needed_s: float,
) -> str:
    """The first that holds. A window that is too short has shown nothing steady.

    A replay changes as its log does, so it is never called unsteady.
    """
    ttfts_s = _known([ttft_s(o) for o in work.completed])
    if is_client_bound(counted.send_lag_p99_s, ttfts_s, seconds, window):
        return "client_bound"
    # Where requests fail, the failures are the reason. Where they only wait, the queue is.
    if not work.completed and work.failed:
        return "failed"
    if is_saturated(load, outcomes, seconds, window):
        return "saturated"
    if not work.completed:
        return "failed"
    if load.is_replay:
        return "steady"
    joules = [one.energy.value for one in window.slices]
    differ = is_unsteady(
        durations_s=_durations_s(window),
        output_tokens=work.output_tokens_S,
        joules=None if None in joules else np.array(joules, float),
    )
    is_long = window.duration_s >= remarks.NEARLY * needed_s
    return "steady" if window.is_steady and is_long and not differ else "unsteady"


def _counted(
    bare: ServingPoint, window: Window, work: Tally, outcomes: Sequence[Outcome]
) -> ServingPoint:
    """With what was counted and metered, and no ratio of it."""
    slices = window.slices
    energy = add([one.energy for one in slices])
    joules_S = [one.energy for one in slices]
    return replace(
        bare,
        duration_s=window.duration_s,
        warm_up_s=window.warm_up_s,
        completed=len(work.completed),
        failed=len(work.failed),
        failures=dict(sorted(Counter(str(o.failure) for o in work.failed).items())),
        prompt_tokens=round(work.prompt_tokens_S.sum()),
        output_tokens=round(work.output_tokens_S.sum()),
        energy_j=_components(slices),
        energy_quality=energy.quality,
        power_w=_per(joules_S, _durations_s(window)),
        send_lag_p99_s=send_lag_p99_s(outcomes, window),
        mean_in_flight=_mean_in_flight(outcomes, window),
        server_cpu_s=_sum([one.server_cpu_s for one in slices]),
        client_cpu_s=_sum([one.client_cpu_s for one in slices]),
        usage_error=_usage_error(window, work),
    )


def _figured(counted: ServingPoint, window: Window, work: Tally, slo: Slo) -> ServingPoint:
    """With every figure that has a meaning."""
    joules_S = [one.energy for one in window.slices]
    durations_S = _durations_s(window)
    figured = replace(
        counted,
        j_per_output_token=_per(joules_S, work.output_tokens_S),
        j_per_token=_per(joules_S, work.output_tokens_S + work.prompt_tokens_S),
        j_per_request=_per(joules_S, work.completed_S),
        ttft_s=_latencies(ttft_s, work.completed, window),
        tpot_s=_latencies(tpot_s, work.completed, window),
        e2e_s=_latencies(e2e_s, work.completed, window),
        requests_per_s=_rate(work.completed_S, durations_S),
        output_tokens_per_s=_rate(work.output_tokens_S, durations_S),
    )
    if not slo.is_set:
        return figured
    attempts = len(work.completed) + len(work.failed)
    share = float(work.good_S.sum()) / attempts
    trials = max(1, _independent([*work.completed, *work.failed], window, slo))
    low, high = share_interval(share * trials, trials) or (None, None)
    return replace(
        figured,
        j_per_good_request=_per(joules_S, work.good_S),
        goodput_per_s=_rate(work.good_S, durations_S),
        good_share=Figure(share, low, high),
        independent_attempts=trials,
    )


def _independent(attempts: Sequence[Outcome], window: Window, slo: Slo) -> int:
    """How many count as independent: the fewest that one of the limited latencies tells."""
    limits = ((ttft_s, slo.ttft_p99_s), (tpot_s, slo.tpot_p99_s), (e2e_s, slo.e2e_p99_s))
    completed = [o for o in attempts if o.failure is None]
    shares = [1.0]
    for latency_s, limit_s in limits:
        values, slice_index = _timed(latency_s, completed, window)
        if limit_s is not None and values:
            shares.append(independent_number(values, slice_index) / len(values))
    return int(len(attempts) * min(shares))


def _latencies(
    latency_s: Callable[[Outcome], float | None], completed: Sequence[Outcome], window: Window
) -> Percentiles:
    return percentiles(*_timed(latency_s, completed, window))


def _timed(
    latency_s: Callable[[Outcome], float | None], completed: Sequence[Outcome], window: Window
) -> tuple[list[float], list[int]]:
    """The latencies that requests have, and the slice in which each ended."""
    timed = [(o, seconds) for o in completed if (seconds := latency_s(o)) is not None]
    starts_s = [one.start_s for one in window.slices]
    ended_s = [o.ended_s for o, _ in timed]
    slice_index = np.searchsorted(starts_s, ended_s, side="right") - 1
    return [seconds for _, seconds in timed], slice_index.tolist()


def _per(joules_S: Sequence[Quantity], counts_S: NDArray[np.float64]) -> Figure:
    """Joules over a count. The random error is the wider of the batches' and the meter's own."""
    energy = add(joules_S)
    whole = float(counts_S.sum())
    if energy.value is None or whole <= 0:
        return Figure(None, quality=MISSING_J.quality if energy.value is None else energy.quality)
    by_batches = batch_ratio([one.number for one in joules_S], counts_S.tolist())
    by_meter = None if energy.random_sd is None else energy.random_sd / whole
    wider = by_batches
    if by_batches.random_sd is not None and by_meter is not None:
        own = replace(by_batches, random_sd=by_meter, degrees=energy.degrees)
        wider = max(by_batches, own, key=lambda one: one.random_half_width or 0.0)
    shared = None if energy.shared_sd is None else energy.shared_sd / whole
    return figure_of(replace(wider, shared_sd=shared, quality=energy.quality), energy.quality)


def _rate(counts_S: NDArray[np.float64], durations_S: NDArray[np.float64]) -> Figure:
    return figure_of(batch_ratio(counts_S.tolist(), durations_S.tolist()), None)


def figure_of(one: Quantity, quality: str | None) -> Figure:
    """With its interval, whose low end is not below 0, as none of these figures can be."""
    low, high = interval_95(one) or (None, None)
    low = None if low is None else max(0.0, low)
    degrees = one.degrees if math.isfinite(one.degrees) else None
    return Figure(one.value, low, high, one.random_sd, one.shared_sd, degrees, quality)


def _durations_s(window: Window) -> NDArray[np.float64]:
    return np.array([one.duration_s for one in window.slices])


def _components(slices: Sequence[Slice]) -> Components:
    names = list(dict.fromkeys(name for one in slices for name in one.energy_j))
    return {name: _sum([one.energy_j.get(name) for one in slices]) for name in names}


def _sum(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return math.fsum(known) if known and len(known) == len(values) else None


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean_in_flight(outcomes: Sequence[Outcome], window: Window) -> float:
    under_way_s = math.fsum(
        max(0.0, min(o.ended_s, window.end_s) - max(o.sent_s, window.start_s))
        for o in outcomes
        if o.sent_s is not None
    )
    return under_way_s / window.duration_s


def _fallen_counter(window: Window) -> str | None:
    """A counter of the engine that went back: the server started anew."""
    falls = (name for one in window.slices for name, more in one.counters.items() if more < 0)
    return next(falls, None)


def _usage_error(window: Window, work: Tally) -> float | None:
    """Tokens that answers state over the engine's own count, less 1."""
    counted = _sum([one.counters.get("output_tokens") for one in window.slices])
    return work.all_output_tokens / counted - 1 if counted else None


def _is_wrong_usage(figured: ServingPoint, work: Tally) -> bool:
    """Whether the two counts differ by over 0.1 %, and by more than was on its way at the edges.

    At each of the two edges, each request under way has at most one chunk that the engine counted
    and that has not arrived yet.
    """
    if figured.usage_error is None:
        return False
    chunks = sum(len(o.chunks) for o in work.completed)
    chunk_tokens = sum(written(o) for o in work.completed) / chunks if chunks else 1.0
    on_the_way = 2 * (figured.mean_in_flight or 0.0) * chunk_tokens
    # all = (1 + error) counted, so all - counted = error / (1 + error) all.
    apart = abs(figured.usage_error / (1 + figured.usage_error)) * work.all_output_tokens
    return abs(figured.usage_error) > USAGE_ERROR and apart > on_the_way
