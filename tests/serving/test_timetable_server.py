"""The timetable itself: when slots are taken, and what waits for them."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.serving.timetable_server import Service, Slots, Timetable, busy


def test_a_request_takes_the_slot_that_is_free_first():
    slots = Slots(2)
    assert [slots.take(10.0, 3.0), slots.take(11.0, 1.0), slots.take(11.5, 1.0)] == [10, 11, 12]
    assert busy(slots.held) == [(10, 11, 1), (11, 13, 2)]


def test_the_mean_wait_for_one_slot_is_that_of_m_d_1():
    # Pollaczek and Khinchine: L s^2 / (2 (1 - L s)).
    rate_per_s, service_s = 100.0, 0.006
    arrivals_s = np.cumsum(np.random.default_rng(0).exponential(1 / rate_per_s, 200_000))
    slots = Slots(1)
    waits_s = [slots.take(at_s, service_s) - at_s for at_s in arrivals_s.tolist()]
    expected_s = rate_per_s * service_s**2 / (2 * (1 - rate_per_s * service_s))
    assert np.mean(waits_s) == pytest.approx(expected_s, rel=0.03)


def test_chunks_of_8_after_a_first_of_3_keep_the_gap_of_a_token():
    timetable = Timetable(ttft_s=1.0, gap_s=0.5, first_tokens=3, chunk_tokens=8)
    assert timetable.chunks(19) == [(1.0, 3), (5.0, 8), (9.0, 8)]
    assert timetable.chunks(2) == [(1.0, 2)]


def test_a_service_time_is_shared_by_the_tokens():
    assert Timetable(service_s=2.0).chunks(4) == [(0.5, 1), (1.0, 1), (1.5, 1), (2.0, 1)]


def test_service_stands_still_during_a_stall():
    timetable = Timetable(stall_at_s=10.0, stall_s=1.0)
    assert [timetable.served_s(t) for t in (9.0, 10.5, 11.0, 12.0)] == [9.0, 10.0, 10.0, 11.0]
    assert [timetable.moment_s(s) for s in (9.0, 10.5, 11.0)] == [9.0, 11.5, 12.0]


def read(url: str, **body: Any) -> str:
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(url, data)) as answer:
        return answer.read().decode()


def test_the_server_says_when_its_slots_were_busy_and_what_it_wrote(
    timetable_server: Callable[..., str],
):
    url = timetable_server(ttft_s=0.03, gap_s=0.01)
    assert read(f"{url}/health") == ""
    assert json.loads(read(f"{url}/v1/models"))["data"][0]["id"] == "timetable"
    text = read(f"{url}/v1/completions", prompt=[1, 2, 3], max_tokens=5)
    assert [event[:6] for event in text.split("\n\n")] == ["data: "] * 6 + [""]
    busy = json.loads(read(f"{url}/busy"))
    ((start_s, end_s, slots),) = busy["intervals"]
    assert (busy["requests"], slots) == (1, 1)
    assert end_s - start_s == pytest.approx(0.03 + 4 * 0.01)
    counters = dict(line.split(" ") for line in read(f"{url}/metrics").splitlines())
    assert counters["vllm:generation_tokens_total"] == "5.0"
    assert counters["vllm:prompt_tokens_total"] == "3.0"
    assert counters["vllm:num_requests_running"] == "0.0"


def test_counters_fall_to_0_at_their_restart():
    now_s = time.monotonic()
    tokens = [(now_s - 5.0, 3), (now_s - 1.0, 4), (now_s + 60.0, 9)]
    for restart_s, expected in ((None, 7.0), (now_s + 60.0, 7.0), (now_s - 2.0, 4.0)):
        timetable = Timetable(counters_restart_at_s=restart_s)
        service = Service(timetable, Slots(1), tokens=tokens)
        assert service.counters()["vllm:generation_tokens_total"] == expected
