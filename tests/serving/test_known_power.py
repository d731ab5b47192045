"""Loads on a server whose power is known, in the shortest windows: the whole way of a figure."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serving.known_power import LATENCY_S, OUTPUT_TOKENS, Case, Result, measure

SHORT = {"min_window_s": 4.0, "max_window_s": 40.0}
MANY_SLOTS = {"slots": 64}
FAIL_EVERY = 10

CASES = [
    Case("closed", SHORT | {"concurrency": [4], "parking_s": 2.1}, event="the clock jumps"),
    Case("poisson", SHORT | {"rates_per_s": [10.0]}, timetable=MANY_SLOTS),
    Case(
        "failing",
        SHORT | {"rates_per_s": [10.0], "arrivals": "constant"},
        timetable=MANY_SLOTS | {"fault": "error", "fault_every": FAIL_EVERY},
    ),
    Case(
        "stopped",
        SHORT | {"rates_per_s": [10.0]},
        timetable=MANY_SLOTS,
        event="the client stops",
    ),
    Case("dying", SHORT | {"concurrency": [4]}, event="the server dies"),
    Case(
        "restarting",
        SHORT | {"concurrency": [4]},
        # Again and again: when the load begins depends on what else the machine does.
        timetable={
            "metrics": True,
            "counters_restart_at_s": 0.0,
            "counters_restart_every_s": 3.0,
        },
    ),
]


@pytest.fixture(scope="module")
def measured(nvml_dir, tmp_path_factory) -> dict[str, Result]:
    return measure(nvml_dir, tmp_path_factory.mktemp("known") / "power", CASES)


@pytest.mark.parametrize("name", ["closed", "poisson"])
def test_joules_per_token_are_those_of_the_servers_own_log(measured, name: str):
    measured[name].check_joules_per_token()


def test_reading_and_writing_are_not_told_apart_without_the_engines_counters(measured):
    point = measured["closed"].point
    assert (point.prefill_j_per_token.value, point.decode_j_per_token.value) == (None, None)


def test_a_closed_loop_shares_the_idle_power_among_its_slots_though_the_clock_jumps(measured):
    # 60 W for four slots, and 50 W for each, over 0.4 s a request: (60/4 + 50) 0.4 / 18.
    expected_j = (60 / 4 + 50) * LATENCY_S / OUTPUT_TOKENS
    point = measured["closed"].point
    # Between two requests a slot is idle for the client's milliseconds.
    assert point.j_per_output_token.value == pytest.approx(expected_j, rel=0.03)
    # 0.06 s by the timetable. On a busy machine the client reads it later.
    assert 0.059 < point.ttft_s.p50.value < 0.15
    assert point.warm_up_s and 0 < point.warm_up_s < 40


def test_the_parked_server_draws_its_idle_power(measured):
    parking = measured["closed"].record.parking_power_w
    assert parking.value == pytest.approx(60, rel=0.01)
    assert parking.low <= 60 <= parking.high


def test_the_joules_of_requests_that_failed_stay_and_their_tokens_do_not(measured):
    one = measured["failing"]
    from_s, to_s = one.sent[0].window_s
    prompts = np.array(one.server["prompts"])
    tokens = np.array(one.server["tokens"]).reshape(-1, OUTPUT_TOKENS, 2)
    good = np.arange(1, len(prompts) + 1) % FAIL_EVERY != 0
    rows = np.concatenate([prompts[good], tokens[good].reshape(-1, 2)])
    count = rows[(rows[:, 0] >= from_s) & (rows[:, 0] < to_s), 1].sum()
    assert one.point.failed > 0
    assert one.point.failures == {"error_in_stream": one.point.failed}
    assert one.point.j_per_token.value == pytest.approx(one.true_j(from_s, to_s) / count, rel=0.01)


def test_a_client_that_was_stopped_is_said_to_have_made_the_figures(measured):
    point = measured["stopped"].point
    assert point.verdict == "client_bound"
    assert point.send_lag_p99_s and point.send_lag_p99_s > 1


def test_a_server_that_dies_ends_the_load_in_one_sentence_and_its_joules_stay(measured):
    one = measured["dying"]
    assert one.record is None
    assert one.error.startswith("RuntimeError: the server at http://127.0.0.1:")
    (row,) = [row for row in one.rows if row["window"] == "run/load_closed_4"]
    assert row["outcome"] == "failed"
    start_s = row["start_s"]
    # Some 60 to 260 W.
    assert 60 < row["energy_j"]["gpu"] / row["duration_s"] < 260, start_s


def test_a_load_whose_server_started_anew_has_joules_and_no_figure(measured):
    one = measured["restarting"]
    point = one.point
    assert point.verdict == "failed"
    assert (point.j_per_token.value, point.j_per_request.value) == (None, None)
    assert point.usage_error is None
    from_s, to_s = one.sent[0].window_s
    assert point.energy_j["gpu"] == pytest.approx(one.true_j(from_s, to_s), rel=0.01)
    assert [row["window"] for row in one.rows] == ["run/idle_server", "run/load_closed_4", "run"]
