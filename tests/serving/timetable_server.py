"""A server of completions that keeps a timetable: nothing is computed, so all its times are known.

It has so many slots. A request takes the slot that is free first, in order of arrival; TTFT later
its first tokens come, then more of them every gap. All moments follow from the arrival and from
absolute times before it, so that lateness of this process never adds up.

    python tests/serving/timetable_server.py '{"slots": 4, "ttft_s": 0.02, "gap_s": 0.005}'

prints `ready URL` when it listens. Settings are the fields of Timetable.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

FAULTS = (
    *("rst", "close", "no_finish", "stall", "429", "500", "400", "error", "html"),
    *("bad_json", "bad_utf8"),
)
USAGES = ("asked", "last_chunk", "always", "never", "twice", "differing", "null", "wrong")


@dataclass(frozen=True)
class Timetable:
    """What the server does, and when."""

    slots: int = 4
    ttft_s: float = 0.02
    """From the moment a request has a slot."""
    first_tokens: int = 1
    """Tokens of the first chunk."""
    gap_s: float = 0.005
    """Between tokens: a chunk of k tokens comes k gaps after the one before it."""
    chunk_tokens: int = 1
    """Tokens of every chunk but the first."""
    service_s: float | None = None
    """A request holds its slot for so long, and its tokens come evenly in it. It takes the place
    of ttft_s and gap_s."""
    usage: str = "asked"
    """asked does as stream_options ask, as vLLM: last with `choices: []`, and along with each
    chunk. always does both unasked. last_chunk sends it with the last text. wrong counts one token
    too few, differing sends a second one with one more."""
    done: bool = True
    """Whether `data: [DONE]` ends a stream."""
    role_chunk: bool = False
    """Whether a chunk without text comes at once, before the request has a slot."""
    comments: bool = False
    """Whether comments stand between events."""
    line_end: str = "\n"
    piece_bytes: int | None = None
    """Write events in pieces of so many bytes, each an HTTP chunk of its own."""
    fault: str | None = None
    """One of FAULTS."""
    fault_every: int = 1
    """Requests number n, 2 n, ... have the fault."""
    fault_chunks: int = 2
    """So many chunks come before the fault, where it comes after a 200."""
    stall_at_s: float | None = None
    """Monotonic moment at which everything stands still."""
    stall_s: float = 1.0
    counters_restart_at_s: float | None = None
    """Monotonic moment at which the counters of /metrics are 0 again."""
    counters_restart_every_s: float | None = None
    """After that moment they are 0 again so often."""
    metrics: bool = True
    """Whether there is /metrics."""
    model: str = "timetable"
    owned_by: str = "timetable"
    """Who owns the model, by which clients know the kind of server."""
    port: int = 0
    """0 takes a free one."""

    def __post_init__(self) -> None:
        assert self.fault is None or self.fault in FAULTS
        assert self.usage in USAGES

    def chunks(self, num_tokens: int) -> list[tuple[float, int]]:
        """Seconds after a request has its slot, and tokens, of each of its chunks."""
        rows, sent = [], 0
        while sent < num_tokens:
            size = min(self.chunk_tokens if sent else self.first_tokens, num_tokens - sent)
            sent += size
            if self.service_s is None:
                rows.append(
                    (self.ttft_s + (sent - min(self.first_tokens, num_tokens)) * self.gap_s, size)
                )
            else:
                rows.append((self.service_s * sent / num_tokens, size))
        return rows

    def served_s(self, moment_s: float) -> float:
        """Seconds of service until a moment: they stand still during the stall."""
        if self.stall_at_s is None or moment_s <= self.stall_at_s:
            return moment_s
        return max(self.stall_at_s, moment_s - self.stall_s)

    def moment_s(self, served_s: float) -> float:
        """The monotonic moment of so many seconds of service."""
        if self.stall_at_s is None or served_s <= self.stall_at_s:
            return served_s
        return served_s + self.stall_s


class Slots:
    """Who is served when. Times are seconds of service, of one origin.

    A request holds its slot to the end of its answer, also when its client has gone.
    """

    def __init__(self, num_slots: int) -> None:
        self._free_s = [0.0] * num_slots
        self.held: list[tuple[float, float]] = []
        """From when until when each request had its slot."""

    def take(self, arrival_s: float, duration_s: float) -> float:
        """When a request that arrives now, after all before it, has a slot."""
        start_s = max(arrival_s, self._free_s[0])
        heapq.heapreplace(self._free_s, start_s + duration_s)
        self.held.append((start_s, start_s + duration_s))
        return start_s


def busy(held: list[tuple[float, float]]) -> list[tuple[float, float, int]]:
    """Start, end and number of busy slots of each stretch of time with one number above 0."""
    changes: dict[float, int] = {}
    for start_s, end_s in held:
        changes[start_s] = changes.get(start_s, 0) + 1
        changes[end_s] = changes.get(end_s, 0) - 1
    moments, count, rows = sorted(changes), 0, []
    for start_s, end_s in pairwise(moments):
        count += changes[start_s]
        if count and rows and rows[-1][1:] == (start_s, count):
            rows[-1] = (rows[-1][0], end_s, count)
        elif count:
            rows.append((start_s, end_s, count))
    return rows


@dataclass
class Service:
    """The state of the server, which all its connections share."""

    timetable: Timetable
    slots: Slots
    arrived: int = 0
    prompts: list[tuple[float, int]] = field(default_factory=list)
    """Moment of the first token, and the tokens of the prompt."""
    tokens: list[tuple[float, int]] = field(default_factory=list)
    """Moment and tokens of each chunk."""

    def counters(self) -> dict[str, float]:
        """vLLM's names and what they hold now. Tokens count from their moment in the timetable."""
        now_s, since_s = time.monotonic(), 0.0
        restart_s = self.timetable.counters_restart_at_s
        if restart_s is not None and now_s >= restart_s:
            every_s = self.timetable.counters_restart_every_s
            since_s = restart_s
            if every_s is not None:
                since_s += (now_s - restart_s) // every_s * every_s
        held = [
            (self.timetable.moment_s(a), self.timetable.moment_s(b)) for a, b in self.slots.held
        ]

        def total(rows: list[tuple[float, int]]) -> float:
            return float(sum(count for at_s, count in rows if since_s <= at_s <= now_s))

        prompts = total(self.prompts)
        return {
            "vllm:prompt_tokens_total": prompts,
            'vllm:prompt_tokens_by_source_total{source="local_compute"}': prompts,
            "vllm:generation_tokens_total": total(self.tokens),
            "vllm:num_requests_running": float(sum(a <= now_s < b for a, b in held)),
            "vllm:num_requests_waiting": float(sum(now_s < a for a, _ in held)),
        }


class Connection(asyncio.Protocol):
    """One connection, with one request after another."""

    def __init__(self, service: Service) -> None:
        self._service, self._timetable = service, service.timetable
        self._read = b""
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._out = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, rest = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        body, self._read = rest[:length], rest[length:]
        method, path, _ = lines[0].split(" ")
        if (method, path) == ("POST", "/v1/completions"):
            self._complete(json.loads(body))
        else:
            self._look(path)

    def _look(self, path: str) -> None:
        service = self._service
        if path == "/health":
            self._answer(200, "OK", b"", "text/plain")
        elif path == "/v1/models":
            timetable = self._timetable
            model = {"id": timetable.model, "object": "model", "owned_by": timetable.owned_by}
            self._answer_json(200, "OK", {"object": "list", "data": [model]})
        elif path == "/busy":
            moment_s = self._timetable.moment_s
            rows = [(moment_s(a), moment_s(b), n) for a, b, n in busy(service.slots.held)]
            self._answer_json(200, "OK", {"requests": service.arrived, "intervals": rows})
        elif path == "/metrics" and self._timetable.metrics:
            lines = [f"{name} {value}\n" for name, value in service.counters().items()]
            self._answer(200, "OK", "".join(lines).encode(), "text/plain; version=0.0.4")
        else:
            self._answer_json(404, "Not Found", {"detail": "Not Found"})

    def _answer_json(self, status: int, reason: str, value: Any) -> None:
        self._answer(status, reason, json.dumps(value).encode(), "application/json")

    def _answer(self, status: int, reason: str, body: bytes, kind: str) -> None:
        head = (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._out.write(head.encode() + body)

    def _complete(self, asked: dict[str, Any]) -> None:
        timetable, service = self._timetable, self._service
        arrival_s = time.monotonic()
        service.arrived += 1
        fault = timetable.fault if service.arrived % timetable.fault_every == 0 else None
        if fault in ("429", "500", "400"):
            reason = {"429": "Too Many Requests", "500": "Internal Server Error"}.get(fault, "Bad")
            # As FastAPI does, it repeats what it was sent.
            error = {"message": f"refused {asked['prompt']!r}", "code": int(fault)}
            self._answer_json(int(fault), reason, {"error": error})
            return
        if fault == "html":
            self._answer(200, "OK", b"<html>a proxy</html>", "text/html")
            return
        prompt = asked["prompt"]
        prompt_tokens = len(prompt.split() if isinstance(prompt, str) else prompt)
        chunks = timetable.chunks(_num_tokens(asked))
        start_s = service.slots.take(timetable.served_s(arrival_s), chunks[-1][0])
        times_s = [timetable.moment_s(start_s + after_s) for after_s, _ in chunks]
        service.prompts.append((times_s[0], prompt_tokens))
        service.tokens.extend(zip(times_s, (size for _, size in chunks), strict=True))
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        self._out.write(head.encode())
        events = list(self._events(asked, prompt_tokens, [size for _, size in chunks]))
        if timetable.role_chunk:
            self._send(self._chunk({"text": "", "finish_reason": None}))
        sound = events if fault is None else events[: timetable.fault_chunks]
        last = self._end if fault is None else partial(self._break, fault)
        loop = asyncio.get_running_loop()
        # Loop time is monotonic time, so a late callback makes no later one late.
        self._timers = [
            loop.call_at(at_s, self._send, data, last if data is sound[-1] else None)
            for at_s, data in zip(times_s, sound, strict=False)
        ]

    def _events(self, asked: dict[str, Any], prompt: int, sizes: list[int]) -> Iterator[bytes]:
        """The bytes of each chunk; what follows the last text stands in the last one."""
        mode, written = self._timetable.usage, 0
        options = asked.get("stream_options") or {}
        asks = mode == "asked" and options.get("continuous_usage_stats")
        runs_along = mode == "always" or asks

        def usage(count: int) -> dict[str, int]:
            return {
                "prompt_tokens": prompt,
                "completion_tokens": count,
                "total_tokens": prompt + count,
            }

        for index, size in enumerate(sizes):
            written += size
            is_last = index == len(sizes) - 1
            choice: dict[str, Any] = {
                "index": 0,
                "text": " w" * size,
                "finish_reason": "length" if is_last else None,
            }
            own = {}
            if runs_along or (mode == "last_chunk" and is_last):
                own = {"usage": usage(written)}
            elif mode == "null":
                own = {"usage": None}
            data = self._chunk(choice, **own)
            if is_last:
                counts = self._last_counts(asked, written)
                data += b"".join(self._chunk(None, usage=usage(count)) for count in counts)
                data += self._event("[DONE]") if self._timetable.done else b""
            yield data

    def _last_counts(self, asked: dict[str, Any], written: int) -> list[int]:
        options = asked.get("stream_options") or {}
        return {
            "asked": [written] if options.get("include_usage") else [],
            "always": [written],
            "twice": [written, written],
            "differing": [written, written + 1],
            "wrong": [max(0, written - 1)],
        }.get(self._timetable.usage, [])

    def _chunk(self, choice: dict[str, Any] | None, **more: Any) -> bytes:
        value = {
            "id": "cmpl-0",
            "object": "text_completion",
            "model": self._timetable.model,
            "choices": [] if choice is None else [choice],
            **more,
        }
        return self._event(json.dumps(value))

    def _event(self, data: str) -> bytes:
        end = self._timetable.line_end
        comment = f": ping{end}{end}" if self._timetable.comments else ""
        return f"{comment}data: {data}{end}{end}".encode()

    def _send(self, data: bytes, then: Callable[[], None] | None = None) -> None:
        size = self._timetable.piece_bytes or len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self._out.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if then:
            then()

    def _end(self) -> None:
        self._out.write(b"0\r\n\r\n")
        self._timers = []

    def _break(self, fault: str) -> None:
        if fault == "rst":
            sock = self._out.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._out.abort()
        elif fault == "close":
            self._out.close()
        elif fault == "no_finish":
            self._send(self._event("[DONE]"))
            self._end()
        elif fault == "error":
            error = {"message": "the engine died", "code": 500}
            self._send(self._event(json.dumps({"error": error})))
            self._end()
        elif fault == "bad_json":
            self._send(b'data: {"choices": [\n\n')
        elif fault == "bad_utf8":
            self._send(b'data: {"choices": [{"text": "\xc3("}]}\n\n')
        else:
            assert fault == "stall"


def _num_tokens(asked: dict[str, Any]) -> int:
    if "generation_config" in asked:  # transformers serve
        config = json.loads(asked["generation_config"])
        return config.get("max_new_tokens", asked.get("max_tokens", 16))
    return asked.get("max_tokens", 16)


async def serve(service: Service, connection: type[Connection]) -> None:
    """Answer until the process that started this one is gone, which closes standard input."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: connection(service), "127.0.0.1", service.timetable.port, backlog=4096
    )
    host, port = server.sockets[0].getsockname()
    print(f"ready http://{host}:{port}", flush=True)
    gone = asyncio.Event()
    loop.add_reader(0, lambda: os.read(0, 4096) or gone.set())
    await gone.wait()
    os._exit(0)


if __name__ == "__main__":
    asked = Timetable(**json.loads(sys.argv[1] if sys.argv[1:] else "{}"))
    asyncio.run(serve(Service(asked, Slots(asked.slots)), Connection))
