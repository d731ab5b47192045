"""Open loads on servers whose queues are known: waits, stalls, saturation, capacity at an SLO."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kdwatts.metrics.quantity import interval_95
from kdwatts.serving.capacity import keeps_slo
from kdwatts.serving.load.arrivals import arrival_times
from kdwatts.serving.measure.batches import batch_ratio
from kdwatts.serving.measure.steady_start import steady_window
from kdwatts.serving.measure.verdicts import is_saturated
from tests.serving.known_power import Case, Result, Sent, measure

pytestmark = pytest.mark.slow

SERVICE_S = 0.05
TOKENS = 5
FIRST_S = SERVICE_S / TOKENS
"""A request's tokens come evenly while it has its slot."""
RATE_PER_S = 14.0
LATE_S = 0.01
"""What the client and the server may be late by, on a machine that others use."""

FAST_SERVICE_S, FAST_TOKENS, TTFT_LIMIT_S = 0.02, 2, 0.15

ONE_SLOT = {"slots": 1, "service_s": SERVICE_S}
# At most half of it is left out as not yet steady, so what happens after 12 s is in the window.
LONG = {"min_window_s": 20.0, "max_window_s": 25.0}
SHORT = {"min_window_s": 4.0, "max_window_s": 40.0}

CASES = [
    Case(
        "m/d/1",
        {"rates_per_s": [RATE_PER_S], "min_window_s": 40.0, "max_window_s": 90.0},
        workload={"output_tokens": TOKENS},
        timetable=ONE_SLOT,
        seed=1,
    ),
    Case(
        "overloaded",
        {"rates_per_s": [1.1 / SERVICE_S], "min_window_s": 20.0, "max_window_s": 60.0},
        workload={"output_tokens": TOKENS},
        timetable=ONE_SLOT,
        seed=1,
    ),
    Case(
        "stalled",
        LONG | {"rates_per_s": [10.0], "arrivals": "constant"},
        timetable={"slots": 64, "stall_at_s": 15.0},
    ),
    Case(
        "stopped once",
        LONG | {"rates_per_s": [10.0]},
        timetable={"slots": 64},
        event="the client stops once",
    ),
    Case(
        "too strict",
        {"rates_per_s": [10.0], "min_window_s": 4.0, "max_window_s": 8.0},
        slo={"ttft_p99_s": 0.02},
        timetable={"slots": 64},
    ),
    Case(
        "capacity",
        SHORT | {"rates_per_s": [30.0]},
        workload={"output_tokens": FAST_TOKENS},
        slo={"ttft_p99_s": TTFT_LIMIT_S},
        timetable={"slots": 1, "service_s": FAST_SERVICE_S},
    ),
]


@pytest.fixture(scope="module")
def measured(nvml_dir, tmp_path_factory) -> dict[str, Result]:
    return measure(nvml_dir, tmp_path_factory.mktemp("queues") / "power", CASES)


def waits_s(arrivals_s: NDArray[np.float64], service_s: float) -> NDArray[np.float64]:
    """Wait of each request in one queue, first come first served (Lindley 1952)."""
    free_s, waits = -np.inf, []
    for arrival_s in arrivals_s:
        start_s = max(arrival_s, free_s)
        waits.append(start_s - arrival_s)
        free_s = start_s + service_s
    return np.array(waits)


def in_window(sent: Sent) -> list[tuple[int, float, float]]:
    """Number, moment and time to first token of the requests that began to be answered in it."""
    from_s, to_s = sent.window_s
    return [
        (one.number, one.chunks[0][0], one.chunks[0][0] - one.scheduled_s)
        for one in sent.outcomes
        if one.chunks and from_s <= one.chunks[0][0] < to_s
    ]


def simulated_waits_s(sent: Sent, service_s: float) -> NDArray[np.float64]:
    """Waits of the requests of a load, by their numbers, from the moments of sending alone."""
    ordered = sorted(sent.outcomes, key=lambda one: one.number)
    assert [one.number for one in ordered] == list(range(len(ordered)))
    return waits_s(np.array([one.sent_s for one in ordered]), service_s)


def test_the_mean_wait_of_a_queue_is_that_of_pollaczek_and_khinchine(measured):
    (sent,) = measured["m/d/1"].sent
    rows = in_window(sent)
    slices = [one for one in sent.slices if sent.window_s[0] <= one.start_s]
    waits = [
        [row[2] - FIRST_S for row in rows if one.start_s <= row[1] < one.end_s] for one in slices
    ]
    mean = batch_ratio([sum(some) for some in waits], [float(len(some)) for some in waits])
    expected_s = RATE_PER_S * SERVICE_S**2 / (2 * (1 - RATE_PER_S * SERVICE_S))
    low_s, high_s = interval_95(mean) or (np.inf, -np.inf)
    assert low_s - LATE_S <= expected_s <= high_s
    assert measured["m/d/1"].point.verdict != "saturated"


def test_each_request_waits_as_long_as_the_service_before_it_says(measured):
    (sent,) = measured["m/d/1"].sent
    expected_s = simulated_waits_s(sent, SERVICE_S)
    sent_s = {one.number: one.sent_s for one in sent.outcomes}
    late_s = [
        first_s - sent_s[number] - FIRST_S - expected_s[number]
        for number, first_s, _ in in_window(sent)
    ]
    assert len(late_s) > 300
    # No answer comes before its time, and most come with less than half a service's delay.
    assert min(late_s) > -0.02
    assert np.median(late_s) < SERVICE_S / 2


def test_arrivals_are_those_of_the_seed(measured):
    (sent,) = measured["m/d/1"].sent
    times_s = np.array([one.scheduled_s for one in sorted(sent.outcomes, key=lambda o: o.number)])
    seeded = arrival_times(sent.load, seed=1)
    expected_s = np.array([next(seeded) for _ in times_s])
    assert np.ptp(times_s - expected_s) < 1e-6


def test_a_tenth_more_than_the_server_can_serve_is_saturated(measured):
    one = measured["overloaded"]
    (sent,) = one.sent
    window = steady_window(sent.load, sent.outcomes, sent.seconds, sent.slices)
    assert window and is_saturated(sent.load, sent.outcomes, sent.seconds, window)
    # Where others use the machine, the client is late as well, which goes before.
    assert one.point.verdict in ("saturated", "client_bound")


def test_a_stall_of_a_second_is_in_the_p99_of_an_open_load(measured):
    point = measured["stalled"].point
    # Of 10 requests a second, those of one second wait for its end: the first of them longest.
    assert point.ttft_s.p50.value < 0.5
    assert point.ttft_s.p99.value > 0.8
    assert point.e2e_s.p99.value > 1.2


def test_a_client_that_was_stopped_once_for_2_s_is_client_bound(measured):
    assert measured["stopped once"].point.verdict == "client_bound"


def test_no_rate_keeps_an_slo_below_the_time_to_first_token(measured):
    record = measured["too strict"].record
    assert record.capacity.verdict == "none"
    assert record.capacity.requests_per_s is None
    assert any("No request kept the SLO" in remark for remark in record.points[0].remarks)
    assert record.points[0].j_per_good_request.value is None
    assert record.points[0].j_per_token.value


def test_the_share_of_good_answers_is_that_of_a_simulated_queue(measured):
    one = measured["capacity"]
    tried = one.record.capacity.tried
    assert len(tried) == len(one.sent) - 1
    for point, sent in zip(tried, one.sent[1:], strict=True):
        if point.verdict == "client_bound":
            continue
        times_s = simulated_waits_s(sent, FAST_SERVICE_S) + FAST_SERVICE_S / FAST_TOKENS
        numbers = [number for number, _, _ in in_window(sent)]
        least, most = (
            float(np.mean(times_s[numbers] <= TTFT_LIMIT_S - late_s)) for late_s in (LATE_S, 0)
        )
        # A share may also lose those that were late by more than that.
        assert least - 0.02 <= point.good_share.value <= most + 0.02, sent.load


def test_a_search_for_the_capacity_decides_no_rate_against_the_queue(measured):
    capacity = measured["capacity"].record.capacity
    if any(point.verdict == "client_bound" for point in capacity.tried):
        pytest.skip("others used this machine: the client was late, so nothing was decided")
    draw = np.random.default_rng(0)
    gaps = draw.standard_exponential(200_000)

    def share_kept(rate_per_s: float) -> float:
        times_s = waits_s(np.cumsum(gaps) / rate_per_s, FAST_SERVICE_S)
        return float(np.mean(times_s + FAST_SERVICE_S / FAST_TOKENS <= TTFT_LIMIT_S))

    rates = np.arange(25.0, 49.0, 0.25)
    true = max(rate for rate in rates if share_kept(rate) >= 0.99)
    # Rates between stay undecided on a machine that others use: then the capacity is a lower bound.
    decided = {point.level: keeps_slo(point) for point in capacity.tried}
    kept = [rate for rate, is_kept in decided.items() if is_kept]
    too_much = [rate for rate, is_kept in decided.items() if is_kept is False]
    if not kept and capacity.verdict == "undecided":
        pytest.skip("others used this machine: no rate could be decided")
    assert capacity.requests_per_s == max(kept)
    # 300 requests in a row see few busy periods, and neighbours wait alike: with this seed the
    # greatest rate kept is 41 a second, where the queue alone would keep 36 in the long run.
    assert 0.5 * true <= max(kept) <= 1.15 * true
    assert all(rate >= 0.9 * true for rate in too_much)
    assert (capacity.verdict == "found") == any(rate > max(kept) for rate in too_much)
