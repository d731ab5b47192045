"""Texts from a server: what is asked for, in which order it is kept, and what ends it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from kdwatts.records.serving_record import EngineRecord
from kdwatts.runtime.interrupt import Preempted
from kdwatts.serving.engines.http_get import get
from kdwatts.serving.engines.server import Server
from kdwatts.serving.text_requests import (
    TEXT_BODIES,
    Sampling,
    TextRequest,
    check_forbidden,
    seed_of,
)
from kdwatts.serving.writing import write_texts

Serve = Callable[..., AbstractContextManager[Any]]

GREEDY = Sampling(end_ids=[0, 9], vocabulary=1000, rows=1000, temperature=0.0)
PROMPTS = {7: [1, 2, 3], 3: [10, 20], 4: [30, 1, 1, 1]}
# 1 + (6, 30, 33) % 8 tokens from 100 + (6, 30, 33) on; those of fewer than 8 end with token 0.
TEXTS = {
    7: [106, 107, 108, 109, 110, 111, 0],
    3: [130, 131, 132, 133, 134, 135, 0],
    4: [133, 0],
}


def requests(new_tokens: int = 8) -> list[TextRequest]:
    return [TextRequest(place, ids, new_tokens, seed=place) for place, ids in PROMPTS.items()]


def write(
    server: Server,
    asked: list[TextRequest] | None = None,
    sampling: Sampling = GREEDY,
    **more: Any,
) -> dict[int, list[int]]:
    texts: dict[int, list[int]] = {}
    options: dict[str, Any] = {"at_once": 2, "silence_s": 20.0, "look": lambda: None, **more}
    write_texts(
        server,
        requests() if asked is None else asked,
        sampling,
        take=lambda request, ids: texts.update({request.place: ids}),
        **options,
    )
    return texts


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda what: monkeypatch.setenv("STAND_IN_POST", what)


def test_each_prompt_gets_the_tokens_that_the_server_wrote_for_it(serve: Serve):
    with serve() as server:
        assert write(server) == TEXTS
        assert write(server, []) == {}


def test_so_many_requests_are_under_way_at_once_and_each_is_sent_once(
    serve: Serve, fault: Callable[[str], None]
):
    fault("slow")  # So that the first of five has not ended when the fifth is sent.
    asked = [TextRequest(place, [place + 1], 8, seed=0) for place in range(40)]
    with serve() as server:
        texts = write(server, asked, at_once=5)
        page = get(f"{server.url}/asked")
    assert page
    seen = page.json()
    assert seen["at_once"] == 5
    assert sorted(body["prompt"][0] for body in seen["bodies"]) == list(range(1, 41))
    assert sorted(texts) == list(range(40))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("fails", r"vllm failed to write after a prompt of \d tokens: the server answered HTTP 5xx"
                  r" \(HTTP 500 .*: no memory for \[\(numbers\)\]?.*\); nothing is sent twice"),
        ("no_ids", r"its token_ids are no list of numbers"),
        ("goes_on", r"tokens came after an end token"),
        ("beyond", r"token 5000 came, and the vocabulary ends below 1000"),
        ("dies:2", r"vllm ended with exit code 3, its last words: OSError: the GPU fell off .*; the"
                   r" texts that it had finished are kept: run the same command to go on"),
    ],
)  # fmt: skip
def test_the_first_failure_ends_the_work_in_one_sentence(
    what: str, words: str, serve: Serve, fault: Callable[[str], None]
):
    fault(what)
    asked = [TextRequest(place, [11, 12, 13, 14, 15], 8, seed=0) for place in range(9)]
    with serve() as server, pytest.raises(RuntimeError, match=words) as raised:
        write(server, asked)
    assert "\n" not in str(raised.value) and "12, 13" not in str(raised.value)


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [5]},
        {"choices": {"text": "1 "}},
        {"choices": [{"text": 5}]},
        {"choices": [{"text": "1 ", "finish_reason": "stop"}], "usage": [1]},
    ],
)
def test_an_event_of_another_form_is_a_failure_in_one_sentence(event: dict[str, Any]):
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        thread = Thread(target=http.handle_request)
        thread.start()
        server = Server(
            EngineRecord("transformers", None, [], None, None),
            f"http://127.0.0.1:{http.server_address[1]}",
            model="m",
            dialect="transformers",
            pid=None,
        )
        with pytest.raises(RuntimeError, match=r"\(an event is none of a text\); nothing is sent"):
            write(server, requests()[:1])
        thread.join()


def test_a_server_that_says_nothing_more_is_given_up(serve: Serve, fault: Callable[[str], None]):
    fault("silent:2")
    words = r"vllm showed no sign of work for eval\.serving\.request_timeout_s=1 s"
    with serve() as server, pytest.raises(RuntimeError, match=words):
        write(server, silence_s=1.0)


def test_a_signal_ends_the_work_while_a_request_waits(serve: Serve, fault: Callable[[str], None]):
    fault("silent:3")
    taken: list[int] = []
    started_s = time.monotonic()

    def look() -> None:
        if len(taken) == 2:
            raise Preempted("stopped")

    with serve() as server, pytest.raises(Preempted):
        write_texts(
            server,
            requests(),
            GREEDY,
            at_once=1,
            silence_s=600.0,
            take=lambda request, ids: taken.append(request.place),
            look=look,
        )
    assert taken == [7, 3] and time.monotonic() - started_s < 60


def test_what_is_asked_of_vllm_is_ids_ends_and_a_seed_of_the_prompt_s_own():
    sampling = Sampling([0, 9], vocabulary=998, rows=1000, temperature=0.7, top_p=0.9)
    body = TEXT_BODIES["vllm"]("teacher", requests()[0], sampling)
    assert body["prompt"] == [1, 2, 3] and body["max_tokens"] == 8
    assert (body["temperature"], body["top_p"], body["top_k"], body["seed"]) == (0.7, 0.9, 0, 7)
    assert body["ignore_eos"] and body["stop_token_ids"] == [0, 9] and body["return_token_ids"]
    assert body["logit_bias"] == {"998": -100, "999": -100}
    greedy = TEXT_BODIES["vllm"]("teacher", requests()[0], GREEDY)
    assert {"seed", "top_p", "logit_bias"}.isdisjoint(greedy) and greedy["temperature"] == 0


def test_what_is_asked_of_transformers_serve_is_numbers_and_settings_of_its_own():
    sampling = Sampling([0, 9], vocabulary=998, rows=1000, temperature=0.7, top_k=5)
    body = TEXT_BODIES["transformers"]("/m", requests()[0], sampling)
    settings = json.loads(body.pop("generation_config"))
    assert body == {"model": "/m", "prompt": "1 2 3", "stream": True, "seed": 7}
    assert settings == {
        "max_new_tokens": 8,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 5,
        "eos_token_id": [0, 9],
        "pad_token_id": 0,
        "repetition_penalty": 1.0,
        "suppress_tokens": [998, 999],
    }


def test_vllm_is_refused_a_vocabulary_of_which_it_cannot_forbid_the_rest():
    sampling = Sampling([0], vocabulary=1000, rows=2025, temperature=0.0)
    words = r"without the last 1025 tokens .* can leave out 1024; choose transformers or loop"
    with pytest.raises(ValueError, match=words):
        check_forbidden("vllm", sampling)
    check_forbidden("transformers", sampling)
    check_forbidden("vllm", Sampling([0], vocabulary=1001, rows=2025, temperature=0.0))


def test_a_seed_is_the_numbers_own_and_has_63_bits():
    seeds = [seed_of(seed, place) for seed in range(3) for place in range(50)]
    assert len(set(seeds)) == 150 and seed_of(1, 2) == seed_of(1, 2) != seed_of(2, 1)
    assert max(seeds) < 2**63 and max(seeds) > 2**60


def test_the_words_of_the_tokenizer_of_numbers_are_ids(tmp_path: Path):
    from kdwatts.models.load import load_tokenizer
    from kdwatts.models.tokens_as_numbers import as_ids, as_words, folder_of_numbers
    from kdwatts.runtime.paths import TINY_DIR

    with folder_of_numbers(TINY_DIR / "teacher", rows=1024, end_ids=[3, 1]) as folder:
        names = {path.name for path in folder.iterdir()}
        assert {"model.safetensors", "config.json"} <= names
        assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [3, 1]
        tokenizer = load_tokenizer(str(folder))
        ids = [0, 1023, 3, 3, 17]
        assert tokenizer(as_words(ids))["input_ids"] == ids
        # No id is special to it: the end token comes out like any other.
        assert as_ids(tokenizer.decode(ids, skip_special_tokens=True)) == ids
    assert not folder.exists()
