"""The client as its own process: started, fed with requests, read, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

import orjson

from kdwatts.runtime import interrupt
from kdwatts.runtime.interrupt import SIGNALS
from kdwatts.serving.client.outcomes import Outcome, Second
from kdwatts.serving.load.requests import Load, Request

END_S = 10.0
"""Time for the client to write its last lines and exit, after the drain."""
LOOK_S = 0.5
"""Between two looks for a signal while the client drains."""


@dataclass(frozen=True)
class Order:
    """What a client does."""

    url: str
    """Of the server, such as http://127.0.0.1:8000."""
    model: str
    """The model's name in requests."""
    dialect: str
    """A key of engines.dialects.DIALECTS."""
    load: Load
    seed: int
    """Of the arrivals of an open load."""
    length: str
    """forced or natural, as eval.serving.workload.length."""
    start_s: float
    """Monotonic moment of the first request. A client is ready a second after its start."""
    request_timeout_s: float
    """A request without a whole answer for so long after it was sent has failed."""
    drain_s: float
    """After a stop, requests under way may end for so long."""


def order_of(line: bytes) -> Order:
    """The order in a line of JSON."""
    fields = orjson.loads(line)
    return Order(**{**fields, "load": Load(**fields["load"])})


class ClientProcess:
    """A client that sends while this context lasts. It ends with this process, however that ends.

    Requests are made in a thread here, only so many ahead as the client reads. Enter it in the main
    thread, as Linux ends the client with the thread that started it.
    """

    def __init__(self, order: Order, requests: Iterator[Request]) -> None:
        self._order, self._requests = order, requests
        self._outcomes: list[Outcome] = []
        self._seconds: list[Second] = []
        self._lock = threading.Lock()
        self._no_requests: str | None = None
        self._is_stopped = False

    def __enter__(self) -> Self:
        self._words = tempfile.TemporaryFile()
        # Signals to the whole job are ours to heed. Of them the client lets SIGTERM alone through,
        # once it can heed it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kdwatts.serving.client"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C in a terminal goes to the terminal's group.
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.pid = self._process.pid
        self._threads = [
            threading.Thread(target=work, name=f"client {name}", daemon=True)
            for name, work in (("feeder", self._feed), ("reader", self._read))
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_stopped = True
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # A request that nobody is there to read.
            self._process.stdin.close()
        self._process.stdout.close()
        self._words.close()

    def seen(self) -> tuple[list[Outcome], list[Second]]:
        """What has become of requests so far, in the order in which they ended."""
        with self._lock:
            return list(self._outcomes), list(self._seconds)

    def why_dead(self) -> str | None:
        """One sentence on why the client sends no more, though nobody stopped it; else None."""
        if self._no_requests is not None:
            return self._no_requests
        code = self._process.poll()
        if code is None or self._is_stopped:
            return None
        self._words.seek(0)
        lines = self._words.read().decode("utf-8", "replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the process that sends requests ended with {how}: {words[:400]}"

    def stop(self) -> None:
        """Send nothing new, let requests under way end for `drain_s`, and take what is left.

        A client that does not end then is killed, and the requests that it had under way are lost.
        Raises Preempted where a signal comes meanwhile: a server that stands still takes it all.
        """
        self._is_stopped = self._is_stopped or self._process.poll() is None
        self._process.terminate()
        deadline_s = time.monotonic() + self._order.drain_s + END_S
        while self._process.poll() is None:
            if time.monotonic() > deadline_s:
                self._process.kill()
            interrupt.stop_if_requested("this server is measured anew")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LOOK_S)
        self._threads[1].join()

    def _feed(self) -> None:
        stdin = self._process.stdin
        assert stdin
        try:
            with suppress(BrokenPipeError):  # The client has ended.
                stdin.write(orjson.dumps(asdict(self._order)) + b"\n")
                for request in self._requests:
                    stdin.write(orjson.dumps(request) + b"\n")
                    stdin.flush()
                # An end of its input would end the client.
        except Exception as error:
            self._no_requests = f"requests could not be made: {error}"

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if not line.endswith(b"\n"):  # The client was killed in the middle of it.
                return
            fields: dict[str, Any] = orjson.loads(line)
            if "number" not in fields:
                with self._lock:
                    self._seconds.append(Second(**fields))
                continue
            chunks = [(arrived_s, tokens) for arrived_s, tokens in fields.pop("chunks")]
            with self._lock:
                self._outcomes.append(Outcome(**fields, chunks=chunks))
