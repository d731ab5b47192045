"""The other nodes of a run, as its first rank's meter asks them: at edges, and now and then.

A node that falls silent costs its share of a window, and never the run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from kdwatts.telemetry.clock_offset import ClockOffset
from kdwatts.telemetry.node_sums import NodeParts, lost
from kdwatts.telemetry.parts import MIN_NVML_WINDOW_S
from kdwatts.telemetry.remote_meter import TIMEOUT_S, MeterLost, RemoteEdge, RemoteMeter

log = logging.getLogger(__name__)

Seen = RemoteEdge | str
"""An edge of another node, or why it gave none."""

_ADVICE = "let the nodes of a run reach each other on every TCP port"

_FRESH_S = 0.1
"""Tallies younger than this are not asked for again."""


class OtherNode:
    """One other node of the run, whose meter listens at a URL.

    Raises ValueError, in one sentence, where it does not answer.
    """

    def __init__(self, number: int, url: str, token: str) -> None:
        self.number = number
        """Counts the nodes of a run from 1, the first rank's."""
        self._meter = RemoteMeter(url, token, name=f"node {number}", advice=_ADVICE)
        # Two connections: an edge must not wait for the answer to the other question.
        self._live = self._meter.beside()
        self._latest: RemoteEdge | None = None
        self._looking = threading.Lock()
        self._silent: tuple[float, str] | None = None
        """Since when the node has not answered, and why."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def host(self) -> str:
        """Name of the node."""
        return self._meter.about.host

    @property
    def idle_power_w(self) -> Mapping[str, float | None]:
        """W of its idle devices before the first window; on a shared node, the job's share."""
        return self._meter.about.idle_power_w

    @property
    def methods(self) -> list[str]:
        """How each of its devices is measured, as in StageRow."""
        return [sensor.method for sensor in self._meter.about.sensors]

    def clock_offset(self) -> ClockOffset:
        """Its monotonic clock less ours, from the questions so far."""
        return self._meter.clock_offset()

    def follow(self, every_s: float) -> None:
        """Ask for its latest tallies from now on, in a thread of its own, until `close`."""

        def ask() -> None:
            while True:
                self._look()
                if self._ended.wait(every_s):
                    return

        self._thread = threading.Thread(target=ask, name=f"kdwatts-node-{self.number}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._meter.__exit__()
        self._live.__exit__()

    def live_power_w(self) -> float | None:
        """What it drew when it was last asked, in W. None while it is silent."""
        return None if self._silent or self._latest is None else self._latest.host.power_w

    def edge(self, path: str, since: Seen | None) -> Seen:
        """This moment there, from which on its trace belongs to the window of this path.

        `since` is where the window began, if it did. A node that does not answer is asked once
        more, since a network may fail for a moment: its edge is late then, and its skew says so.
        """
        # A node that is gone is not waited for at every edge: we know it when it answers again.
        if self._silent and time.monotonic() - self._silent[0] > TIMEOUT_S:
            return self._silent[1]
        since_s = since.host.time_s if isinstance(since, RemoteEdge) else None
        try:
            try:
                return self._meter.edge(path=path, since_s=since_s)
            except MeterLost:
                return self._meter.edge(path=path, since_s=since_s)
        except MeterLost as error:
            self._fell_silent(error)
            return str(error)

    def used_between(self, start: Seen, end: Seen, start_s: float, end_s: float) -> NodeParts:
        """What it used between two edges, for a window from `start_s` to `end_s` of our clock."""
        for edge, name in ((start, "start"), (end, "end")):
            if isinstance(edge, str):
                return lost(self.number, self.host, f"no tally at the window's {name}, as {edge}")
        assert isinstance(start, RemoteEdge) and isinstance(end, RemoteEdge)
        first, last = start.as_of(start_s), end.as_of(end_s)
        return NodeParts(
            self.number,
            self.host,
            self._meter.used_between(first, last),
            end.host.time_s - start.host.time_s,
            first.skew_s + last.skew_s,
        )

    def used_since(self, start: Seen) -> NodeParts:
        """What it used from an edge to its latest tallies that we know."""
        if isinstance(start, str):
            return lost(self.number, self.host, f"no tally at the window's start, as {start}")
        latest = self._latest
        # A young window has joules as soon as those of this node have.
        is_young = latest is None or (
            latest.host.time_s - start.host.time_s < 2 * MIN_NVML_WINDOW_S
            and time.monotonic() - latest.time_s > _FRESH_S
        )
        if is_young and self._silent is None:
            self._look()
            latest = self._latest
        if self._silent is not None or latest is None:
            why = self._silent[1] if self._silent else "it was not asked yet"
            return lost(self.number, self.host, why)
        return NodeParts(self.number, self.host, self._meter.used_between(start, latest))

    def _look(self) -> None:
        """Ask for the latest tallies now, unless another thread waits for them already."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._latest = self._live.latest()
        except MeterLost as error:
            self._fell_silent(error)
            return
        finally:
            self._looking.release()
        if self._silent is not None:
            log.warning("telemetry: node %d (%s) answers again", self.number, self.host)
            self._silent = None

    def _fell_silent(self, error: MeterLost) -> None:
        if self._silent is None:
            log.warning(
                "telemetry: node %d (%s) is silent: %s; windows lack its joules meanwhile",
                *(self.number, self.host, error),
            )
            self._silent = time.monotonic(), str(error)


class OtherNodes:
    """All other nodes of a run, from `__enter__` to `__exit__`."""

    def __init__(self, nodes: Sequence[OtherNode], *, every_s: float) -> None:
        """Their latest tallies are asked for `every_s` seconds."""
        self.nodes = list(nodes)
        self._every_s = every_s

    def __enter__(self) -> OtherNodes:
        if self.nodes:
            self._pool = ThreadPoolExecutor(len(self.nodes), "kdwatts-edge")
        for node in self.nodes:
            node.follow(self._every_s)
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.close()
        if self.nodes:
            self._pool.shutdown()

    def ask(self, path: str, since: Sequence[Seen]) -> Callable[[], list[Seen]]:
        """Ask all nodes at once for this moment; what is returned waits for their answers.

        `since` are the edges at which the window began, empty where it begins now.
        """
        asked = [
            self._pool.submit(node.edge, path, since[place] if since else None)
            for place, node in enumerate(self.nodes)
        ]
        return lambda: [one.result() for one in asked]
