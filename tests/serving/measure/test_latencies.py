"""Times from the scheduled moment, and the ranks that bound their percentiles."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kdwatts.config.serving import Slo
from kdwatts.records.serving_record import UNKNOWN
from kdwatts.serving.client.outcomes import Outcome
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.latencies import e2e_s, is_good, percentiles, tpot_s, ttft_s
from tests.serving.measure.simulated_server import BEGIN_S, Server, World, served


def _chunked(sizes: list[int], *, gap_s: float, first_s: float = 0.3) -> Outcome:
    """Chunks of these sizes, each so late that a token takes `gap_s`."""
    times_s = [first_s]
    for size in sizes[1:]:
        times_s.append(times_s[-1] + gap_s * size)
    chunks = list(zip(times_s, sizes, strict=True))
    return Outcome(0, 0.0, 0.1, times_s[-1] + 0.01, chunks, 10, sum(sizes), "length")


def test_tokens_that_come_8_in_a_chunk_after_a_first_of_3_take_their_gap():
    """Gaps between chunks are 8 times as long, and (t_last - t_first) / (n - 1) is wrong too."""
    outcome = _chunked([3, 8, 8, 8], gap_s=0.02)
    assert tpot_s(outcome) == pytest.approx(0.02)
    assert ttft_s(outcome) == pytest.approx(0.3)
    assert e2e_s(outcome) == pytest.approx(0.3 + 24 * 0.02)


def test_an_answer_in_one_chunk_has_no_time_per_token():
    assert tpot_s(_chunked([5], gap_s=0.02)) is None
    assert is_good(_chunked([5], gap_s=0.02), Slo(tpot_p99_s=0.001))


def test_an_answer_without_a_token_keeps_no_limit_of_its_first():
    empty = Outcome(0, 0.0, 0.0, 0.2, [], 10, 0, "stop")
    assert (ttft_s(empty), tpot_s(empty), e2e_s(empty)) == (None, None, 0.2)
    assert not is_good(empty, Slo(ttft_p99_s=1.0))
    assert is_good(empty, Slo(e2e_p99_s=1.0))


@pytest.mark.parametrize("limit", ["ttft_p99_s", "tpot_p99_s", "e2e_p99_s"])
def test_each_limit_alone_makes_a_request_bad(limit):
    outcome = _chunked([1, 1, 1], gap_s=0.05)  # 0.3, 0.05 and 0.4 s.
    generous = Slo(ttft_p99_s=0.5, tpot_p99_s=0.1, e2e_p99_s=0.5)
    assert is_good(outcome, generous)
    assert not is_good(outcome, replace(generous, **{limit: 0.04}))


def _stalled(world: World, at_s: float, for_s: float) -> World:
    """The server stands still for a while: all that would come then comes after."""
    start_s = BEGIN_S + at_s

    def late(time_s: float) -> float:
        return start_s + for_s if start_s <= time_s < start_s + for_s else time_s

    outcomes = [
        replace(o, ended_s=late(o.ended_s), chunks=[(late(time_s), n) for time_s, n in o.chunks])
        for o in world.outcomes
    ]
    return replace(world, outcomes=outcomes)


def test_a_stall_of_1_s_is_in_the_p99_from_the_scheduled_moment():
    """1 to 3 % of the requests of the window come in the stalled second, and wait up to 1 s."""
    world = served(Server(slots=50), Load("poisson", 10))
    quick, slow = world.figures().ttft_s, _stalled(world, 50.0, 1.0).figures().ttft_s
    assert quick.p99.value == pytest.approx(0.05)
    assert slow.p50.value == pytest.approx(0.05)
    assert 0.2 < (slow.p99.value or 0) < 1.05


def test_waiting_to_be_sent_is_waiting():
    """The client lacks a connection for 1 s; the server answers each request in 50 ms."""
    found = served(Server(), Load("poisson", 2), lag_s=1.0).figures()
    assert found.ttft_s.p50.value == pytest.approx(1.05)
    assert found.verdict == "client_bound"


def test_percentiles_are_the_least_values_that_so_many_requests_do_not_exceed():
    values = [float(value) for value in range(1, 1001)]
    random.Random(0).shuffle(values)
    found = percentiles(values)
    assert [p.value for p in (found.p50, found.p90, found.p99)] == [500.0, 900.0, 990.0]
    assert found.p99.high is not None and 993 <= found.p99.high <= 998


def test_p99_of_120_requests_has_no_upper_end_and_says_so():
    found = percentiles([float(value) for value in range(120)])
    assert (found.p99.value, found.p99.high) == (118.0, None)
    assert found.p90.high is not None
    point = served(Server(), Load("poisson", 2)).figures()
    sentence = f"p99 has no upper bound: {point.completed} of 299 needed requests ended."
    assert point.completed < 299 and sentence in point.remarks


def test_no_request_has_no_percentile():
    assert percentiles([]).p50 == UNKNOWN
