"""A meter on another host: it is asked for tallies, and windows are differences of them.

```python
with RemoteMeter("http://node7:9400", token=None) as meter:
    start = meter.edge()
    ...
    used = meter.used_between(start, meter.edge())
```
"""

from __future__ import annotations

import copy
import http.client
import json
import logging
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from kdwatts.records.schema import COMPONENTS
from kdwatts.telemetry import parts
from kdwatts.telemetry.clock_offset import ClockOffset, Exchange, offset_at
from kdwatts.telemetry.energy import Span, span
from kdwatts.telemetry.nvml import Device
from kdwatts.telemetry.tallies_as_json import HostEdge, about_from_json, edge_from_json

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""An answer that takes longer does not come: an edge waits 0.4 s for counters at most."""

_EXCHANGES, _KEPT = 4, 32
"""Questions for the time at each edge, and those that are remembered."""

_MOST_BYTES = 2**22

_ADVICE = (
    "start `python -m kdwatts.telemetry --listen` of this version on the server's host, or correct "
    "the address or the token"
)


class MeterLost(RuntimeError):
    """A meter that answered before does not answer, or was started anew. The load goes on."""


class RemoteEdge(NamedTuple):
    """One moment of another host, and where it lies on our clock."""

    time_s: float
    """Our monotonic seconds."""
    skew_s: float
    """The moment is within this much of `time_s`."""
    host: HostEdge

    def as_of(self, time_s: float) -> RemoteEdge:
        """The same edge in place of that moment of ours, from which its skew is counted."""
        return self._replace(time_s=time_s, skew_s=abs(self.time_s - time_s) + self.skew_s)


class RemoteMeter:
    """A meter that listens on another host, from `__enter__` to `__exit__`."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        name: str = "the meter's address",
        advice: str = _ADVICE,
    ) -> None:
        """`name` is the setting or option that holds the address, and `advice` what to do, for
        messages.

        Raises ValueError, in one sentence, where no meter of kdwatts answers there.
        """
        self.url = url.rstrip("/")
        self._name = name
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connection = _connection_to(self.url)
        self._path = urlsplit(self.url).path
        self._exchanges: deque[Exchange] = deque(maxlen=_KEPT)
        self._meter_id = ""
        self._last_s: float | None = None
        try:
            self.about = about_from_json(self._get("/about"))
            self._look_at_clock()
        except (MeterLost, ValueError, KeyError, TypeError) as error:
            self._connection.close()
            sentence = error if isinstance(error, MeterLost) else "what answers is no such meter"
            raise ValueError(f"{name}={url}: {sentence}; {advice}") from None
        clock = self.clock_offset()
        log.info(
            "telemetry: %s on %s, whose clock is %.6f s ahead of ours within %.2g s",
            *(self.url, self.about.host, clock.offset_s, clock.skew_s),
        )

    def beside(self) -> RemoteMeter:
        """The same meter over a connection of its own, for another thread."""
        other = copy.copy(self)
        other._connection = _connection_to(self.url)
        other._exchanges = deque(self._exchanges, maxlen=_KEPT)
        return other

    def __enter__(self) -> RemoteMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def gpus(self) -> list[Device]:
        """The GPUs that it measures."""
        return self.about.gpus

    def counter_period_s(self) -> float:
        """The longest period of the GPUs' energy counters, in s. 0 without a GPU."""
        return max((one.delta_s for one in self.about.sensors if one.kind == "gpu"), default=0.0)

    def clock_offset(self) -> ClockOffset:
        """Its monotonic clock less ours, now."""
        return offset_at(time.monotonic(), self._exchanges)

    def edge(
        self,
        *,
        window: str | None = None,
        at: str | None = None,
        path: str | None = None,
        since_s: float | None = None,
    ) -> RemoteEdge:
        """This moment there. With `window`, a window of that name begins or ends there.

        `at` is start, end, or failed, which ends it too. With `path`, the trace there belongs to
        the window of that path from now on. What is said of who else used the devices is of the
        time since the last edge, or since `since_s` of that host.

        Raises MeterLost where it does not answer.
        """
        since_s = self._last_s if since_s is None else since_s
        query: dict[str, Any] = {} if since_s is None else {"since_s": since_s}
        if window:
            query |= {"window": window, "at": at or "start"}
        if path is not None:
            query |= {"path": path}
        edge = self._moment(f"/edge?{urlencode(query)}")
        self._last_s = edge.host.time_s
        return edge

    def latest(self) -> RemoteEdge:
        """Its latest tallies, which cost no reading of a device there.

        Raises MeterLost where it does not answer.
        """
        return self._moment("/latest")

    def _moment(self, path: str) -> RemoteEdge:
        try:
            host = edge_from_json(self._get(path))
        except (KeyError, TypeError, ValueError) as error:
            raise MeterLost(f"the meter at {self.url} gave no edge ({error})") from None
        self._look_at_clock()
        clock = self.clock_offset()
        return RemoteEdge(host.time_s - clock.offset_s, clock.skew_s, host)

    @contextmanager
    def window(self, name: str) -> Iterator[None]:
        """Mark a window in the records there, as failed where this raises.

        Where the meter is lost, they lack it.
        """
        self._mark(name, "start")
        try:
            yield
        except BaseException:
            self._mark(name, "failed")
            raise
        self._mark(name, "end")

    def used_between(
        self, start: RemoteEdge, end: RemoteEdge, *, gpus: Collection[str] | None = None
    ) -> dict[str, parts.Part]:
        """Every component between two moments, as `Meter.used_between`.

        The two moments on our clock err by their skews, so joules of a window of ours err by the
        mean power times that, at either edge. All are missing where the meter was started anew in
        between.
        """
        about, duration_s = self.about, end.host.time_s - start.host.time_s
        if self._is_another(start, end):
            anew = f"the meter on {about.host} was started anew in this window"
            return {kind: parts.missing(anew) for kind in COMPONENTS}
        spans: dict[str, list[Span]] = {}
        for number, sensor in enumerate(about.sensors):
            if gpus is None or sensor.kind != "gpu" or sensor.label in gpus:
                first = None if number in start.host.silent else start.host.tallies[number]
                one = span(sensor, first, end.host.tallies[number])
                spans.setdefault(sensor.kind, []).append(one)
        used = parts.of_window(
            spans,
            duration_s,
            absent=about.absent,
            attributed_kinds=about.attributed,
            idle_power_w=self._idle_power_w(gpus),
            notes=end.host.notes,
            remark=end.host.ended,
        )
        if "gpu" in spans:
            used["gpu"] = parts.of_every_gpu(used["gpu"], spans["gpu"], duration_s)
        skews_s = (start.skew_s, end.skew_s)
        return {kind: parts.skewed(part, duration_s, skews_s) for kind, part in used.items()}

    def _idle_power_w(self, gpus: Collection[str] | None) -> Mapping[str, float | None]:
        about = self.about
        if gpus is None or len(gpus) == len(about.gpus):
            return about.idle_power_w
        powers_w = [about.idle_w_of_gpu.get(uuid) for uuid in gpus]
        known_w = [power_w for power_w in powers_w if power_w is not None]
        is_known = powers_w and len(known_w) == len(powers_w)
        return {**about.idle_power_w, "gpu": sum(known_w) if is_known else None}

    def _is_another(self, start: RemoteEdge, end: RemoteEdge) -> bool:
        """Whether there is no difference: a meter was started anew, or a tally fell."""
        ids = {self.about.meter_id, start.host.meter_id, end.host.meter_id}
        pairs = zip(start.host.tallies, end.host.tallies, strict=False)
        fell = any(after.counted_j < before.counted_j for before, after in pairs)
        return len(ids) > 1 or fell or end.host.time_s < start.host.time_s

    def _mark(self, name: str, at: str) -> None:
        try:
            self.edge(window=name, at=at)
        except MeterLost as error:
            log.warning("telemetry: the records on %s lack a window: %s", self.about.host, error)

    def _look_at_clock(self) -> None:
        for _ in range(_EXCHANGES):
            asked_s = time.monotonic()
            clock = self._get("/clock")
            answered_s = time.monotonic()
            try:
                meter_id, remote_s = str(clock["meter_id"]), float(clock["monotonic_s"])
            except (KeyError, TypeError, ValueError) as error:
                raise MeterLost(f"the meter at {self.url} has no clock ({error})") from None
            if meter_id != self._meter_id:  # It may be another host that has the address now.
                self._exchanges.clear()
                self._meter_id = meter_id
            self._exchanges.append(Exchange(asked_s, remote_s, answered_s))

    def _get(self, path: str) -> dict[str, Any]:
        """The JSON at a path. A connection that was closed meanwhile is opened once more."""
        status, body = self._ask(path)
        try:
            values = json.loads(body)
        except ValueError:
            values = None
        if status == 200 and isinstance(values, dict):
            return values
        said = values.get("error") if isinstance(values, dict) else None
        raise MeterLost(f"the meter at {self.url} answers {status} ({said or 'no JSON'})")

    def _ask(self, path: str) -> tuple[int, bytes]:
        was_open = self._connection.sock is not None
        while True:
            try:
                self._connection.request("GET", self._path + path, headers=self._headers)
                answer = self._connection.getresponse()
                return answer.status, answer.read(_MOST_BYTES)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if not was_open or isinstance(error, TimeoutError):
                    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise MeterLost(
                        f"the meter at {self.url} does not answer ({str(why).lower()})"
                    ) from None
                was_open = False


def _connection_to(url: str) -> http.client.HTTPConnection:
    address = urlsplit(url)
    kind = http.client.HTTPConnection
    if address.scheme == "https":
        kind = http.client.HTTPSConnection
    return kind(address.hostname or "", address.port, timeout=TIMEOUT_S)
