"""A small server in the place of vLLM, with the faults that its flag --behaviour names."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

METRICS = """# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0"} 40.0
vllm:generation_tokens_total{engine="1"} 2.0
vllm:prompt_tokens_total{engine="0"} 100.0
vllm:prompt_tokens_by_source_total{engine="0",source="local_compute"} 70.0
vllm:prompt_tokens_by_source_total{engine="0",source="local_cache_hit"} 30.0
"""


POST = os.environ.get("STAND_IN_POST", "")
"""What happens to a request for a text: dies, fails, no_ids, beyond, silent or slow.
With `:N` it happens from the Nth on. It is no flag, since flags are in keys."""


def text_of(asked: dict[str, object]) -> list[int]:
    """1 to max_tokens tokens of a prompt's own; one that is shorter ends with the end token."""
    prompt, most, ends = asked["prompt"], asked["max_tokens"], asked["stop_token_ids"]
    assert isinstance(prompt, list) and isinstance(most, int) and isinstance(ends, list)
    length = 1 + sum(prompt) % most
    ids = [100 + (sum(prompt) + index) % 50 for index in range(length)]
    return ids if length == most else [*ids[:-1], ends[0]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour = ""
    model = ""
    lock = threading.Lock()
    posts = under_way = most_at_once = 0
    bodies: list[dict[str, object]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Handler.lock:
            Handler.posts += 1
            Handler.under_way += 1
            Handler.most_at_once = max(Handler.most_at_once, Handler.under_way)
            Handler.bodies.append(asked)
            number = Handler.posts
        what, _, since = POST.partition(":")
        fault = what if number >= int(since or 1) else ""
        if fault == "dies":
            print("ERROR 11-30 06:20:01 [core.py:9] OSError: the GPU fell off", flush=True)
            os._exit(3)
        if fault == "silent":
            time.sleep(600)
        time.sleep(0.3 if fault == "slow" else 0.005)
        ids = {"beyond": [5000], "goes_on": [0, 5]}.get(fault) or text_of(asked)
        answer: dict[str, object] = {
            "choices": [
                {
                    "text": "",
                    "token_ids": None if fault == "no_ids" else ids,
                    "finish_reason": "length" if len(ids) == asked["max_tokens"] else "stop",
                }
            ],
            "usage": {"prompt_tokens": len(asked["prompt"]), "completion_tokens": len(ids)},
        }
        if fault == "fails":
            answer = {"error": {"message": f"no memory for {asked['prompt']}"}}
        with Handler.lock:
            Handler.under_way -= 1
        self._answer(500 if fault == "fails" else 200, json.dumps(answer).encode())

    def do_GET(self) -> None:
        pages = {
            "/health": "",
            "/metrics": METRICS,
            "/asked": json.dumps({"at_once": self.most_at_once, "bodies": self.bodies}),
            "/version": json.dumps({"version": "9.9.0"}),
            "/v1/models": json.dumps(
                {"data": [{"id": self.model, "owned_by": "vllm", "max_model_len": 512}]}
            ),
        }
        if self.path == "/die":
            print("ERROR 11-30 06:20:01 [core.py:9] OSError: the GPU fell off", flush=True)
            os._exit(3)
        unwell = self.behaviour == "never_healthy" and self.path == "/health"
        status = 503 if unwell else 200 if self.path in pages else 404
        self._answer(status, pages.get(self.path, "").encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        del format, arguments


def leave_a_stubborn_daemon(memory: str) -> None:
    """A grandchild in a session of its own, which ignores SIGTERM and holds shared memory."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    file = open(memory, "w+b")  # noqa: SIM115
    file.write(b"x" * 4096)
    file.flush()
    Path(f"{memory}.pid").write_text(str(os.getpid()))
    while True:
        time.sleep(60)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--behaviour", default="")
    parser.add_argument("--memory", default="")
    for flag in ("--host", "--served-model-name", "--model"):
        parser.add_argument(flag)
    parser.add_argument("--port", type=int)
    given, _ = parser.parse_known_args()
    print("arguments", *sys.argv[1:], flush=True)
    if given.behaviour == "dies":
        try:
            raise ValueError("The model has no heads")
        except ValueError:
            logging.exception("EngineCore failed")
        raise RuntimeError("Engine core initialization failed. See root cause above.")
    if given.memory:
        leave_a_stubborn_daemon(given.memory)
        while not Path(f"{given.memory}.pid").exists():
            time.sleep(0.01)
    Handler.behaviour, Handler.model = given.behaviour, given.served_model_name
    ThreadingHTTPServer((given.host, given.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
