"""One request against a real server: each fault is a counted failure, nothing is sent twice."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from kdwatts.serving.client.completions import Prepared, Target, complete, new_session
from kdwatts.serving.client.outcomes import FAILURES, Outcome
from kdwatts.serving.client.progress import Progress

SECRET = "a prompt that nobody may read anywhere else"
Start = Callable[..., str]


def asked(num_tokens: int = 8, **more: Any) -> Prepared:
    body = {"model": "timetable", "prompt": SECRET, "max_tokens": num_tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    return Prepared(7, json.dumps(body | more).encode(), SECRET, prompt_tokens=8)


def outcome_of(
    url: str, request: Prepared | None = None, *, timeout_s: float = 20.0, give_up_s: float = 20.0
) -> tuple[Outcome, Progress]:
    """What becomes of one request, scheduled now."""

    async def one() -> tuple[Outcome, Progress]:
        progress = Progress()
        async with new_session() as session:
            target = Target(session, f"{url}/v1/completions", timeout_s)
            sending = complete(request or asked(), time.monotonic(), target, progress)
            task = asyncio.create_task(sending)
            await asyncio.wait([task], timeout=give_up_s)
            task.cancel()
            return await task, progress

    return asyncio.run(one())


def num_arrived(url: str) -> int:
    with urllib.request.urlopen(f"{url}/busy") as answer:
        return json.load(answer)["requests"]


def test_an_answer_has_the_moments_and_the_tokens_of_the_timetable(timetable_server: Start):
    url = timetable_server(ttft_s=0.02, gap_s=0.01, first_tokens=3, chunk_tokens=8)
    running = {"include_usage": True, "continuous_usage_stats": True}
    got, progress = outcome_of(url, asked(19, stream_options=running))
    assert (got.number, got.failure, got.detail, got.finish_reason) == (7, None, None, "length")
    assert (got.prompt_tokens, got.output_tokens) == (8, 19)
    assert [tokens for _, tokens in got.chunks] == [3, 8, 8]
    moments_s = [moment_s for moment_s, _ in got.chunks]
    assert got.sent_s is not None
    assert got.scheduled_s <= got.sent_s < got.sent_s + 0.02 <= moments_s[0]
    assert got.sent_s + 0.02 + 16 * 0.01 <= moments_s[2] <= got.ended_s
    sums = Progress(sent=1, ended=1, failed=0, unfinished=0, output_tokens=19, prompt_tokens=8)
    assert progress == sums


@pytest.mark.parametrize(
    "settings",
    [
        {"usage": "last_chunk", "done": False},
        {"usage": "always"},
        {"usage": "twice"},
        {"role_chunk": True, "comments": True, "line_end": "\r\n"},
        {"piece_bytes": 1},
    ],
)
def test_every_way_to_write_a_stream_gives_the_same_tokens(
    timetable_server: Start, settings: dict[str, Any]
):
    got, _ = outcome_of(timetable_server(**settings))
    assert (got.failure, got.prompt_tokens, got.output_tokens) == (None, 8, 8)
    assert sum(tokens for _, tokens in got.chunks) == 8
    assert got.sent_s is not None
    assert got.chunks[0][0] >= got.sent_s + 0.02, "no chunk without tokens is the first"


@pytest.mark.parametrize(
    ("settings", "failure", "detail"),
    [
        ({"fault": "429"}, "too_many", "HTTP 429 Too Many Requests: refused '(it quotes"),
        ({"fault": "500"}, "server_error", "HTTP 500 Internal Server Error: refused '(it quotes"),
        ({"fault": "400"}, "refused", "HTTP 400 Bad: refused '(it quotes the prompt)"),
        ({"fault": "rst"}, "connection", "the server reset the connection"),
        ({"fault": "close"}, "no_finish", "2 events came, none with its reason"),
        ({"fault": "no_finish"}, "no_finish", "3 events came, none with its reason"),
        ({"fault": "error"}, "error_in_stream", "the engine died"),
        ({"fault": "bad_json"}, "bad_stream", "event 3 is no JSON in UTF-8"),
        ({"fault": "bad_utf8"}, "bad_stream", "event 3 is no JSON in UTF-8"),
        ({"fault": "html"}, "bad_stream", "the server answered text/html and not an event stream"),
        ({"usage": "never"}, "bad_usage", "the server sent no usage"),
        ({"usage": "null"}, "bad_usage", "the server sent no usage"),
        ({"usage": "wrong"}, "bad_usage", "8 chunks had text, but usage says 7 tokens"),
        ({"usage": "differing"}, "bad_usage", "two usages differ: 8 and 8 tokens, then 8 and 9"),
    ],
)
def test_every_fault_is_a_failure_of_its_kind_and_is_not_tried_again(
    timetable_server: Start, settings: dict[str, Any], failure: str, detail: str
):
    url = timetable_server(**settings)
    got, progress = outcome_of(url)
    assert (got.failure, (got.detail or "")[: len(detail)]) == (failure, detail)
    assert failure in FAILURES
    assert (got.prompt_tokens, got.output_tokens) == (None, None)
    assert "nobody may read" not in str(got)
    assert (progress.sent, progress.ended, progress.failed) == (1, 0, 1)
    assert num_arrived(url) == 1


def test_what_came_before_a_failure_stays_in_the_sums(timetable_server: Start):
    got, progress = outcome_of(timetable_server(fault="bad_json", fault_chunks=3))
    assert [tokens for _, tokens in got.chunks] == [1, 1, 1]
    assert (progress.output_tokens, progress.prompt_tokens) == (3, 8)


def test_a_server_that_stalls_for_ever_is_a_timeout(timetable_server: Start):
    got, _ = outcome_of(timetable_server(fault="stall"), timeout_s=2.0)
    assert (got.failure, got.detail) == ("timeout", "no whole answer in 2 s")
    assert len(got.chunks) == 2


def test_a_request_that_is_given_up_is_unfinished_and_no_failure(timetable_server: Start):
    got, progress = outcome_of(timetable_server(fault="stall"), give_up_s=1.5)
    assert (got.failure, got.detail) == ("unfinished", None)
    assert (progress.sent, progress.ended, progress.failed, progress.unfinished) == (1, 0, 0, 1)
    assert progress.now().in_flight == 0


def test_nobody_at_the_port_is_a_failure_of_the_connection():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, but nobody listens.
        got, _ = outcome_of(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert got.failure == "connection"
    assert "Connect call failed" in (got.detail or "")


def test_an_answer_that_is_no_http_is_a_bad_stream():
    with socket.create_server(("127.0.0.1", 0)) as server:

        async def one() -> Outcome:
            async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"220 mail.example ESMTP\r\n\r\n")
                writer.close()

            async with await asyncio.start_server(greet, sock=server), new_session() as session:
                host, port = server.getsockname()
                target = Target(session, f"http://{host}:{port}/v1/completions", 20.0)
                return await complete(asked(), time.monotonic(), target, Progress())

        got = asyncio.run(one())
    assert (got.failure, got.detail) == ("bad_stream", "the answer is no valid HTTP")


def test_proxies_of_the_environment_are_not_used(
    timetable_server: Start, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert outcome_of(timetable_server())[0].failure is None
