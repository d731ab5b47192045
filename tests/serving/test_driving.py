"""The loop that sends: its times come from the schedule, whatever the server does."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator

from kdwatts.serving.client.completions import Prepared, Target, new_session
from kdwatts.serving.client.driving import Schedule, drive
from kdwatts.serving.client.outcomes import Outcome, Second

Start = Callable[..., str]


def every(gap_s: float) -> Iterator[float]:
    return (gap_s * number for number in itertools.count(1))


def driven(
    url: str,
    *,
    slots: int | None = None,
    arrivals_s: Iterator[float] | None = None,
    for_s: float,
    drain_s: float = 10.0,
    num_requests: int | None = None,
    start_s: float | None = None,
    ready_s: float = 0.0,
) -> tuple[list[Outcome], list[Second]]:
    """Outcomes and seconds of a load that is stopped `for_s` after its start.

    No request can be read before `ready_s`, and no more than `num_requests` of them.
    """
    outcomes: list[Outcome] = []
    seconds: list[Second] = []

    def write(line: Outcome | Second) -> None:
        if isinstance(line, Outcome):
            outcomes.append(line)
        else:
            seconds.append(line)

    async def run() -> None:
        numbers = itertools.count() if num_requests is None else iter(range(num_requests))

        async def next_request() -> Prepared:
            await asyncio.sleep(ready_s - time.monotonic())
            number = next(numbers, -1)
            if number < 0:
                await asyncio.Event().wait()  # A pipe that nothing comes from.
            body = {"prompt": "a b", "max_tokens": 4, "stream_options": {"include_usage": True}}
            return Prepared(number, json.dumps(body).encode(), "a b", 2)

        stop = asyncio.Event()
        begin_s = time.monotonic() if start_s is None else start_s
        asyncio.get_running_loop().call_at(begin_s + for_s, stop.set)
        schedule = Schedule(begin_s, slots, arrivals_s or iter(()))
        async with new_session() as session:
            target = Target(session, f"{url}/v1/completions", 20.0)
            await drive(schedule, next_request, target, write, stop=stop, drain_s=drain_s)

    asyncio.run(run())
    return outcomes, seconds


def test_a_slot_of_a_closed_loop_sends_when_its_request_ended(timetable_server: Start):
    url = timetable_server(slots=2, ttft_s=0.02, gap_s=0.005)
    start_s = time.monotonic() + 0.05
    outcomes, _ = driven(url, slots=3, for_s=1.5, start_s=start_s)
    assert [outcome.failure for outcome in outcomes] == [None] * len(outcomes)
    ends_s = {outcome.ended_s for outcome in outcomes}
    scheduled_s = sorted(outcome.scheduled_s for outcome in outcomes)
    assert scheduled_s[:3] == [start_s] * 3
    assert len(scheduled_s) > 6
    assert set(scheduled_s[3:]) <= ends_s


def test_an_open_loop_keeps_its_times_whatever_the_server_does(timetable_server: Start):
    url = timetable_server(slots=1, service_s=0.2)
    start_s = time.monotonic() + 0.05
    outcomes, _ = driven(url, arrivals_s=every(0.05), for_s=1.99, start_s=start_s, drain_s=0.0)
    by_number = sorted(outcomes, key=lambda outcome: outcome.number)
    # Those of the last moment a busy machine may be too late for.
    assert 30 <= len(outcomes) <= 39
    planned_s = [start_s + moment_s for moment_s in itertools.islice(every(0.05), len(outcomes))]
    assert [outcome.scheduled_s for outcome in by_number] == planned_s
    assert all((one.sent_s or 0) >= one.scheduled_s for one in outcomes)
    ended = [one for one in outcomes if one.failure is None]
    assert len(ended) < 15, "the server does five requests a second"
    assert {one.failure for one in outcomes} <= {None, "unfinished"}


def test_a_stall_of_a_second_is_in_the_latency_of_every_request_that_came_in_it(
    timetable_server: Start,
):
    stall_s = time.monotonic() + 3.0  # Until then the server has started, and answers.
    url = timetable_server(slots=64, stall_at_s=stall_s)
    outcomes, _ = driven(url, arrivals_s=every(0.05), for_s=1.5, start_s=stall_s - 0.5)
    assert {one.failure for one in outcomes} == {None}
    within = [one for one in outcomes if 11 <= one.number + 1 <= 27]
    assert len(within) == 17
    for one in within:
        assert stall_s < one.scheduled_s < stall_s + 0.9
        assert one.chunks[0][0] >= stall_s + 1.0
    before = [one for one in outcomes if one.ended_s < stall_s]
    assert before, "the server answered until it stalled"


def test_a_request_that_comes_late_out_of_the_pipe_was_scheduled_all_the_same(
    timetable_server: Start,
):
    url = timetable_server(slots=64)
    start_s = time.monotonic() + 0.05
    outcomes, _ = driven(
        url, arrivals_s=every(0.3), for_s=1.65, start_s=start_s, ready_s=start_s + 1.0
    )
    by_number = sorted(outcomes, key=lambda one: one.number)
    planned_s = [start_s + moment_s for moment_s in itertools.islice(every(0.3), 5)]
    assert [one.scheduled_s for one in by_number] == planned_s
    assert all((one.sent_s or 0) >= start_s + 1.0 for one in outcomes)


def test_without_requests_nothing_is_sent_and_a_stop_still_ends(timetable_server: Start):
    outcomes, seconds = driven(timetable_server(), slots=4, for_s=1.0, num_requests=2)
    assert len(outcomes) == 2
    assert (seconds[-1].sent, seconds[-1].in_flight) == (2, 0)


def test_after_a_stop_nothing_is_sent_and_requests_under_way_end(timetable_server: Start):
    url = timetable_server(slots=8, ttft_s=2.0)
    start_s = time.monotonic()
    outcomes, _ = driven(url, slots=4, for_s=1.0, start_s=start_s)
    assert [one.failure for one in outcomes] == [None] * 4
    assert all(one.ended_s >= start_s + 2.0 for one in outcomes)


def test_requests_that_outlast_the_drain_are_unfinished(timetable_server: Start):
    url = timetable_server(slots=8, fault="stall")
    outcomes, seconds = driven(url, slots=4, for_s=1.0, drain_s=0.1)
    assert [one.failure for one in outcomes] == ["unfinished"] * 4
    assert (seconds[-1].sent, seconds[-1].ended, seconds[-1].failed) == (4, 0, 0)
    assert seconds[-1].in_flight == 0


def test_a_server_that_refuses_everything_is_asked_once_a_second_by_each_slot(
    timetable_server: Start,
):
    outcomes, _ = driven(timetable_server(fault="500"), slots=3, for_s=1.5)
    assert {one.failure for one in outcomes} == {"server_error"}
    # At once it would be asked hundreds of times.
    assert 3 <= len(outcomes) <= 6
    sent_s = sorted(one.sent_s or 0 for one in outcomes)
    assert all(second_s >= sent_s[0] + 1 for second_s in sent_s[3:])


def test_each_second_has_its_sums(timetable_server: Start):
    url = timetable_server(slots=64)
    start_s = time.monotonic() + 0.05
    outcomes, seconds = driven(url, arrivals_s=every(0.02), for_s=2.2, start_s=start_s)
    assert 2 <= len(seconds) <= 5
    for planned_s, second in zip((0.0, 1.0, 2.0), seconds, strict=False):
        assert second.time_s >= start_s + planned_s
    for name in ("time_s", "sent", "ended", "output_tokens", "prompt_tokens", "client_cpu_s"):
        values = [getattr(second, name) for second in seconds]
        assert values == sorted(values)
    last = seconds[-1]
    assert (last.sent, last.ended, last.failed, last.in_flight) == (len(outcomes),) * 2 + (0, 0)
    assert (last.output_tokens, last.prompt_tokens) == (4 * len(outcomes), 2 * len(outcomes))
    assert seconds[1].in_flight == seconds[1].sent - seconds[1].ended
