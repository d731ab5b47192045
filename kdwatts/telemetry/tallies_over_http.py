"""A meter answers other hosts over HTTP: its clock, its devices, and tallies at an edge.

It is asked by GET, and changes nothing on its host but its own records: a window that is measured
from afar has its row in stages.jsonl, and its name in the rows of telemetry.jsonl, as any other.

    GET /clock                       monotonic seconds of this host
    GET /about                       host, GPUs, sensors
    GET /latest                      the latest tallies: no device is read, no update waited for
    GET /edge                        this moment's tallies
    GET /edge?path=PATH              the same, and rows of a node's trace belong to that window then
    GET /edge?window=NAME&at=start   the same, and a window begins there
    GET /edge?window=NAME&at=end     the same, and that window ends there; at=failed says that it
                                     was given up
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil

from kdwatts.telemetry.host import cpu_name, tree_cpu_s
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.meter_token import meter_token
from kdwatts.telemetry.node_meter import NodeMeter
from kdwatts.telemetry.open_window import OpenWindow
from kdwatts.telemetry.tallies_as_json import (
    HostEdge,
    MeterAbout,
    about_to_json,
    edge_to_json,
)
from kdwatts.telemetry.window_edges import Edge

log = logging.getLogger(__name__)

DEFAULT_HOST = "127.0.0.1"

_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,100}")
"""Of a window."""

_LONGEST_PATH = 1000

_WHERE = (None, "start", "end", "failed")
"""In a window an edge may be."""

_SILENCE_S = 600.0
"""A connection on which nothing was asked for so long is closed."""


class _GivenUp(Exception):
    """Whoever began a window from afar failed in it, or never ended it."""


class Source:
    """What is answered: one meter, between its start and its end."""

    def __init__(self, meter: Meter | NodeMeter, process_ids: Sequence[int] = ()) -> None:
        self._node = meter.node if isinstance(meter, Meter) else meter
        self._windows = meter if isinstance(meter, Meter) else None
        """None for a node whose windows are the first rank's."""
        self._process_ids = list(process_ids)
        self._id = uuid.uuid4().hex
        self._lock = threading.Lock()
        """A meter's windows are opened and closed by one at a time."""
        self._is_closed = False
        self._open: tuple[str, AbstractContextManager[OpenWindow], OpenWindow] | None = None

    def clock(self) -> dict[str, Any]:
        """This moment on this host."""
        utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"meter_id": self._id, "utc": utc, "monotonic_s": time.monotonic()}

    def about(self) -> dict[str, Any]:
        """The host, its GPUs and sensors."""
        meter = self._node
        about = MeterAbout(
            meter_id=self._id,
            host=socket.gethostname(),
            cpu=cpu_name(),
            gpus=meter.gpus,
            sensors=[probe.sensor for probe in meter.probes.devices],
            absent=meter.probes.absent,
            attributed=list(meter.probes.attributed),
            idle_power_w=meter.idle_power_w,
            idle_w_of_gpu=meter.idle_w_of_gpu,
        )
        return about_to_json(about)

    def edge(
        self, window: str | None, at: str | None, path: str | None, since_s: float | None
    ) -> dict[str, Any]:
        """The tallies of this moment; `since_s` is where notes on the figures begin."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the meter is about to end")
            if self._windows and window and at:
                edge = self._edge_of_window(self._windows, window, at)
            else:
                edge = self._node.edge()
            if path is not None and self._windows is None:
                self._node.begin(path)
            return edge_to_json(self._with_cpu(edge, since_s))

    def latest(self) -> dict[str, Any]:
        """The latest tallies. An edge that waits for an update does not hold them up."""
        return edge_to_json(self._with_cpu(self._node.latest(), None))

    def close(self) -> None:
        """End a window that was left open, as failed."""
        with self._lock:
            self._abandon()
            self._is_closed = True

    def _edge_of_window(self, meter: Meter, name: str, at: str) -> Edge:
        if at == "start":
            self._abandon()
            context = meter.window(name)
            opened = context.__enter__()
            self._open = name, context, opened
            return opened.start
        if self._open and self._open[0] == name:
            return self._end(None if at == "end" else _GivenUp())
        return meter.edge()

    def _abandon(self) -> None:
        if self._open is not None:
            name = self._open[0]
            log.warning("telemetry: the window %s was begun from afar and never ended there", name)
            self._end(_GivenUp())

    def _end(self, error: Exception | None) -> Edge:
        assert self._open
        _, context, opened = self._open
        self._open = None
        context.__exit__(type(error) if error else None, error, None)
        assert opened.end
        return opened.end

    def _with_cpu(self, edge: Edge, since_s: float | None) -> HostEdge:
        meter, pids = self._node, self._process_ids
        devices = meter.probes.devices
        used_s = [tree_cpu_s(pid) for pid in pids]
        known_s = [seconds for seconds in used_s if seconds is not None]
        return HostEdge(
            meter_id=self._id,
            time_s=edge.time_s,
            utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            tallies=[edge.tallies.get(probe, probe.tally) for probe in devices],
            silent=[i for i, probe in enumerate(devices) if probe not in edge.tallies],
            job_cpu_s=meter.job_cpu_s(),
            processes_cpu_s=sum(known_s) if pids and len(known_s) == len(pids) else None,
            notes=meter.notes(edge.time_s if since_s is None else since_s),
            ended=meter.ended_before(edge.time_s),
            power_w=meter.live_power_w(),
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    source: Source | None = None
    token: str | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Called by socketserver: who hangs up, or is no HTTP client, is no matter of the meter."""
        log.debug("telemetry: a connection of %s failed", client_address, exc_info=True)


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SILENCE_S
    wbufsize = -1  # Head and body leave together: the round trip says how far the clocks are apart.
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """Called by http.server."""
        try:
            status, values = self._answer()
        except Exception as error:  # The meter goes on, whatever an answer needed.
            log.warning("telemetry: a question from afar has no answer (%s)", error)
            log.debug("telemetry: where the answer failed", exc_info=error)
            status, values = 500, {"error": f"{type(error).__name__}: {error}"}
        body = json.dumps(values, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> tuple[int, dict[str, Any]]:
        token, source = self.server.token, self.server.source
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and not hmac.compare_digest(shown.encode(), token.encode()):
            return 401, {"error": "this meter wants another token"}
        if source is None:
            return 503, {"error": "the meter has not begun, or has ended"}
        parts = urlsplit(self.path)
        given = parse_qs(parts.query, keep_blank_values=True)
        query = {name: values[-1] for name, values in given.items()}
        window, at, path = query.get("window"), query.get("at"), query.get("path")
        if parts.path == "/clock":
            return 200, source.clock()
        if parts.path == "/about":
            return 200, source.about()
        if parts.path == "/latest":
            return 200, source.latest()
        if parts.path != "/edge":
            return 404, {"error": "this meter has /clock, /about, /latest and /edge"}
        if (window and not _NAME.fullmatch(window)) or at not in _WHERE:
            return 400, {
                "error": "a window has a short name without spaces, and at=start, end or failed"
            }
        if path is not None and (len(path) > _LONGEST_PATH or not path.isprintable()):
            return 400, {"error": f"a path has {_LONGEST_PATH} printable characters at most"}
        try:
            since_s = float(query["since_s"]) if "since_s" in query else None
        except ValueError:
            return 400, {"error": "since_s is no number"}
        return 200, source.edge(window, at, path, since_s)

    def version_string(self) -> str:
        """Called by http.server: the header Server."""
        return "kdwatts"

    def log_message(self, format: str, *args: Any) -> None:
        """Called by http.server for each request."""
        log.debug("telemetry: %s: " + format, self.client_address[0], *args)


class Listener:
    """A place where a meter will be asked. It is taken at once, so that nobody else takes it."""

    def __init__(self, host: str, port: int, token: str | None) -> None:
        """Raises ValueError, in one sentence, for an address that cannot be taken."""
        kind = _ServerV6 if ":" in host else _Server
        try:
            self._server = kind((host, port), _Answer)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"--listen={host}:{port} cannot be listened on ({why.lower()}); give an address of "
                "this host with a free port, such as 127.0.0.1:9400"
            ) from None
        self._server.token = token
        self.wants_token = token is not None
        named = f"[{host}]" if ":" in host else host
        self.url = f"http://{named}:{self._server.server_address[1]}"

    @contextmanager
    def answering(
        self, meter: Meter | NodeMeter, process_ids: Sequence[int] = ()
    ) -> Iterator[None]:
        """Answer in a thread of its own, in this context."""
        source = self._server.source = Source(meter, process_ids)
        thread = threading.Thread(
            target=self._server.serve_forever, name="kdwatts-listen", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.source = None
            source.close()

    def close(self) -> None:
        """Give the address back."""
        self._server.server_close()


def listener_at(address: str, pids: Sequence[int]) -> Listener:
    """The listener of `--listen` and `--pid`, with the token of the environment.

    Raises ValueError for an address, a token or a process that there is not.
    """
    if gone := [pid for pid in pids if not psutil.pid_exists(pid)]:
        raise ValueError(f"--pid={gone[0]} is no process of this host; give that of the server")
    host, port = address_of(address)
    return Listener(host, port, meter_token())


def address_of(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `:PORT` or `PORT`; without a host it is this one's loopback.

    Raises ValueError for what is none.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(
            f"--listen={text} is no address; give HOST:PORT, such as 127.0.0.1:9400, or a port"
        )
    return host or DEFAULT_HOST, int(port)
