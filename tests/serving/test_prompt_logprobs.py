"""Prompts are asked for over real connections, and what goes wrong is one sentence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from kdwatts.records.serving_record import EngineRecord
from kdwatts.runtime import interrupt
from kdwatts.serving.engines.server import Server
from kdwatts.serving.prompt_logprobs import read_prompts

Answer = Callable[[dict[str, Any]], tuple[int, Any] | None]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no fault here."""


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """A server that answers each request by a function; None closes without an answer."""
    running: list[ThreadingHTTPServer] = []

    def start(answer: Answer, *, why_dead: Callable[[], str | None] = lambda: None) -> Server:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                found = answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if found is None:
                    self.close_connection = True
                    return
                body = json.dumps(found[1]).encode()
                self.send_response(found[0])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                del format, arguments

        server = _Server(("127.0.0.1", 0), Handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return Server(
            record=EngineRecord("vllm", "9.9.0", [], "float32", None),
            url=f"http://127.0.0.1:{server.server_port}",
            model="teacher",
            dialect="vllm",
            pid=None,
            why_dead=why_dead,
        )

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def told(answer: Any) -> tuple[int, Any]:
    return 200, {"choices": [{"prompt_logprobs": answer}]}


def ask(server: Server, prompts: list[list[int]], **changes: Any) -> list[Any]:
    how = {"k": 3, "timeout_s": 30.0, "kept": "nothing is lost", **changes}
    return read_prompts(server, prompts, lambda prompt, answer: (list(prompt), answer), **how)


def test_every_prompt_gets_its_own_answer_in_the_order_of_the_prompts(
    serve: Callable[..., Server],
):
    def late_for_the_first(body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.3 if body["prompt"] == [0] else 0.0)
        return told([sum(body["prompt"])])

    prompts = [[number] * (1 + number % 3) for number in range(150)]
    found = ask(serve(late_for_the_first), prompts)
    assert found == [(prompt, [sum(prompt)]) for prompt in prompts]


def test_a_request_is_for_ids_as_they_are_with_one_written_token(serve: Callable[..., Server]):
    bodies: list[dict[str, Any]] = []

    def note(body: dict[str, Any]) -> tuple[int, Any]:
        bodies.append(body)
        return told([])

    ask(serve(note), [[7, 8]])
    assert bodies == [
        {
            "model": "teacher",
            "prompt": [7, 8],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 3,
            "add_special_tokens": False,
        }
    ]


FAULTS: list[tuple[Answer, str]] = [
    (
        lambda _: (400, {"error": {"message": "Requested prompt logprobs of 3"}}),
        "refused a text of 2 tokens: Requested prompt logprobs of 3",
    ),
    (lambda _: (502, "bad gateway"), "answered with HTTP status 502 and without prompt_logprobs; "),
    (lambda _: (200, {"choices": [{}]}), "answered with HTTP status 200 and without prompt_log"),
    (lambda _: (200, {"choices": []}), "answered with HTTP status 200 and without prompt_logpro"),
]


@pytest.mark.parametrize(("answer", "said"), FAULTS, ids=[said for _, said in FAULTS])
def test_an_answer_that_is_none_is_refused_in_one_sentence(
    serve: Callable[..., Server], answer: Answer, said: str
):
    with pytest.raises(RuntimeError, match=f"^teacher: vllm {said}"):
        ask(serve(answer), [[7, 8]])


def test_a_server_that_has_ended_is_named_with_its_last_words(serve: Callable[..., Server]):
    server = serve(lambda _: None, why_dead=lambda: "vllm ended with exit code 3")
    with pytest.raises(RuntimeError, match=r"gave no answer, as vllm ended with exit code 3$"):
        ask(server, [[7, 8]])


def test_an_answer_that_never_comes_is_waited_for_no_longer_than_was_set(
    serve: Callable[..., Server],
):
    ended = threading.Event()
    server = serve(lambda _: ended.wait(30) and None)
    with pytest.raises(RuntimeError, match=r"within eval\.serving\.request_timeout_s=0\.2 s; give"):
        ask(server, [[7, 8]], timeout_s=0.2)
    ended.set()


def test_a_signal_ends_the_waiting_and_says_what_is_kept(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
):
    ended = threading.Event()

    def stop(kept: str) -> None:
        raise interrupt.Preempted(kept)

    monkeypatch.setattr(interrupt, "stop_if_requested", stop)
    with pytest.raises(interrupt.Preempted, match="nothing is lost"):
        ask(serve(lambda _: ended.wait(30) and None), [[7, 8]])
    ended.set()
