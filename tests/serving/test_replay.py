"""A log through a real client and a real server: its times, its conversations, its silence."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kdwatts.serving.__main__ import main
from kdwatts.serving.client.outcomes import Outcome
from kdwatts.serving.client.process import ClientProcess, Order
from kdwatts.serving.load.requests import Load, Request
from tests.waits import wait_until

Start = Callable[..., str]
SECRET = "Wanda hides seven silver spoons under the stove"


def sent(
    url: str, due_s: Sequence[float], sessions: Sequence[int | None] = (), *, num_ended: int
) -> tuple[float, list[Outcome]]:
    """The start, and what became of requests that are due then, in their order.

    They are stopped half a second after the last of them was due, as soon as one was sent and
    `num_ended` have ended.
    """

    def requests() -> Iterator[Request]:
        for number, moment_s in enumerate(due_s):
            session = sessions[number] if sessions else None
            yield Request(number, [1, 2, 3], "a b c", 4, due_s=moment_s, session=session)

    start_s = time.monotonic() + 0.7
    order = Order(
        url=url,
        model="timetable",
        dialect="vllm",
        load=Load("replay", 1.0),
        seed=0,
        length="forced",
        start_s=start_s,
        request_timeout_s=20.0,
        drain_s=10.0,
    )
    with ClientProcess(order, requests()) as client:
        time.sleep(max(0.0, start_s + max(due_s) + 0.5 - time.monotonic()))
        # A busy machine may take long to start the client.
        wait_until(lambda: any(second.sent for second in client.seen()[1]))
        wait_until(lambda: len(client.seen()[0]) >= num_ended)
        assert client.why_dead() is None, "the end of a log is no end of the client"
        client.stop()
        outcomes, _ = client.seen()
    return start_s, sorted(outcomes, key=lambda one: one.number)


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_requests_are_scheduled_at_their_logged_times_over_the_speed(
    timetable_server: Start, speed: float
):
    logged_s = [0.0, 0.01, 0.3, 0.3, 0.8]
    due_s = [t_s / speed for t_s in logged_s]
    start_s, outcomes = sent(timetable_server(slots=8), due_s, num_ended=5)
    assert [one.scheduled_s for one in outcomes] == [start_s + moment_s for moment_s in due_s]
    assert all(one.sent_s is not None and one.sent_s >= one.scheduled_s for one in outcomes)
    assert [one.failure for one in outcomes] == [None] * 5


def test_a_turn_is_due_when_it_was_logged_or_when_the_turn_before_it_ended(
    timetable_server: Start,
):
    # An answer takes 0.3 s. The second turn is early, the last one is not.
    url = timetable_server(slots=8, service_s=0.3)
    start_s, outcomes = sent(url, [0.0, 0.1, 0.15, 1.5], [0, 0, None, 0], num_ended=4)
    first, early, alone, late = outcomes
    assert early.scheduled_s == first.ended_s > start_s + 0.1
    assert alone.scheduled_s == start_s + 0.15
    assert late.scheduled_s == start_s + 1.5
    assert early.chunks[0][0] - early.scheduled_s < early.ended_s - start_s


def test_a_turn_after_a_failed_one_is_sent_all_the_same(timetable_server: Start):
    url = timetable_server(slots=8, service_s=0.3, fault="500", fault_every=2)
    _, (first, second, third) = sent(url, [0.0, 0.1, 0.15], [0, 0, 0], num_ended=3)
    assert [first.failure, second.failure, third.failure] == [None, "server_error", None]
    assert third.scheduled_s == second.ended_s


def test_turns_that_still_wait_at_the_end_are_not_sent(timetable_server: Start):
    url = timetable_server(slots=8, service_s=4.0)
    _, outcomes = sent(url, [0.0, 0.1, 0.2], [0, 0, 0], num_ended=0)
    assert [(one.number, one.failure) for one in outcomes] == [(0, None)]


def a_log(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def measured(url: str, log: Path, out: Path, *words: str) -> tuple[int, Any]:
    """Exit code of the command, and the record that it wrote."""
    code = main(
        [
            *("--url", url, "--tokenizer", "tiny:tokenizer", "--device", "cpu", "--parking-s", "0"),
            *("--min-window-s", "2", "--replay", str(log), "--out", str(out), *words),
        ]
    )
    path = out / "serving.json"
    return code, json.loads(path.read_text())[0] if path.exists() else None


def test_a_replay_is_measured_and_no_word_of_the_log_is_written_or_said(
    timetable_server: Start,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    """Every other request is refused by a server that repeats its prompt."""
    caplog.set_level(logging.DEBUG)
    rows = [
        {"t_s": 0.1 * number, "session": f"{SECRET} {number % 3}", "output_tokens": 3,
         **({"prompt": f"{SECRET} {number}"} if number % 2 else {"prompt_tokens": 9})}
        for number in range(50)
    ]  # fmt: skip
    url = timetable_server(slots=8, owned_by="vllm", fault="400", fault_every=2)
    out = tmp_path / "out"
    code, record = measured(url, a_log(tmp_path, *rows), out)
    assert code == 0
    (point,) = record["points"]
    assert (point["load"], point["speed"]) == ("replay", 1.0)
    assert point["level"] == pytest.approx(10.0)
    assert point["completed"] > 5 and point["failures"]["refused"] > 5
    assert (record["workload"]["replay_format"], record["capacity"]) == ("kdwatts", None)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"serving.json", "telemetry.jsonl"} <= {path.name for path in files}
    said = "".join(path.read_text() for path in files) + "".join(capfd.readouterr()) + caplog.text
    for word in (SECRET, *SECRET.split(), str(tmp_path / "log.jsonl")):
        assert word not in said or len(word) < 6


def test_rates_take_lengths_from_the_log_and_the_capacity_is_looked_for_with_them(
    timetable_server: Start, tmp_path: Path
):
    rows = [{"t_s": 60.0 * number, "prompt_tokens": 30, "output_tokens": 6} for number in range(9)]
    url = timetable_server(slots=32, owned_by="vllm", metrics=False)
    words = ("--rates", "40", "--max-window-s", "4")
    code, record = measured(url, a_log(tmp_path, *rows), tmp_path / "out", *words)
    (point,) = record["points"]
    assert (code, point["load"], point["level"]) == (0, "poisson", 40.0)
    assert point["prompt_tokens"] / point["completed"] == pytest.approx(30, rel=0.1)
    assert record["workload"]["prompt_tokens"] == 30


def test_a_replay_that_is_cut_says_what_part_of_the_log_it_is(
    timetable_server: Start, tmp_path: Path
):
    rows = [{"t_s": 0.5 * number, "prompt_tokens": 3, "output_tokens": 2} for number in range(41)]
    url = timetable_server(slots=32, owned_by="vllm", metrics=False)
    words = ("--replay-speeds", "2", "--max-window-s", "4")
    _, record = measured(url, a_log(tmp_path, *rows), tmp_path / "out", *words)
    (point,) = record["points"]
    assert point["level"] == pytest.approx(4.0)
    cut = "The first 40 % of the stretch of the log were replayed, 4 of 10 s: raise max_window_s."
    assert cut in point["remarks"]


@pytest.mark.parametrize(
    ("rows", "words", "sentence"),
    [
        ([], [], "is empty; give a log with requests"),
        ([{"t_s": 0, "prompt": SECRET}], [], "the stretch from_s=0, for_s=None holds 1 requests"),
        ([{"t_s": 0, "messages": [{"role": "user", "content": SECRET}]}, {"t_s": 1, "prompt": "a"}],
         [], "--replay: the log has 'messages', but the model's tokenizer has no chat template"),
        ([{"t_s": 0, "prompt": SECRET}, {"t_s": 1, "prompt": SECRET, "length": SECRET}],
         [], "line 2: the row has another 'length' than forced or natural"),
        ([{"t_s": 0, "prompt_tokens": 2}, {"t_s": 1, "prompt_tokens": 2}],
         ["--replay-from-s", "9"], "--replay: the stretch from_s=9, for_s=None holds 0 requests"),
        ([{"t_s": 0, "prompt_tokens": 2}], ["--concurrency", "2"],
         "--replay and --concurrency were both given"),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_replayed_is_refused_before_anything_is_asked(
    rows: list[dict[str, Any]],
    words: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    nobody = "http://127.0.0.1:9"
    code, record = measured(nobody, a_log(tmp_path, *rows), tmp_path / "out", *words)
    assert (code, record) == (2, None)
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().err
    assert sentence in said and SECRET not in said and said.count("\n") == 1
