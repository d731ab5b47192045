"""The server on a timetable with a GPU whose power is that of its work.

Whenever it takes on a request, it knows when it will read and write it, and so its power from then
on. It appends that to a trace for the replaying NVML library, which reads on (NVML_REPLAY_LIVE).

    python -m tests.serving.powered_server '{"slots": 4}' '{"trace_path": "trace.txt"}'
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.serving.timetable_server import Connection, Service, Slots, Timetable, serve


@dataclass(frozen=True)
class Power:
    """What the GPU draws, and where that is written."""

    trace_path: str
    start_s: float = 0.0
    """Monotonic seconds of the trace's t = 0."""
    idle_w: float = 60.0
    reading_w: float = 50.0
    """More for each busy slot until its first token."""
    writing_w: float = 50.0
    """More for each busy slot from then on to its end."""
    gpus: int = 1
    """Each of so many GPUs draws as much."""


class PoweredSlots(Slots):
    """Slots that write the power of all times to come whenever one more is taken."""

    def __init__(self, timetable: Timetable, power: Power) -> None:
        super().__init__(timetable.slots)
        self._timetable, self._power = timetable, power
        self._watts = power.idle_w
        self._ahead: list[tuple[float, float]] = []
        """Moments to come, and by how much the power changes then."""
        self.log: list[tuple[float, float, float]] = []
        """Begin, first token and end of each request, in monotonic seconds."""
        self._trace = Path(power.trace_path).open("ab", buffering=0)  # noqa: SIM115
        self._trace.write(self._line(0, power.idle_w))

    def take(self, arrival_s: float, duration_s: float) -> float:
        start_s = super().take(arrival_s, duration_s)
        power, moment_s = self._power, self._timetable.moment_s
        first_s, end_s = first_and_end_s(self._timetable, start_s, start_s + duration_s)
        # Seconds of service stand still in a stall, and the past never changes.
        is_stalled = arrival_s == self._timetable.stall_at_s
        now_s = time.monotonic() if is_stalled else moment_s(arrival_s)
        begin_s = max(moment_s(start_s), now_s)
        self.log.append((begin_s, first_s, end_s))
        self._ahead += [
            (begin_s, power.reading_w),
            (first_s, power.writing_w - power.reading_w),
            (end_s, -power.writing_w),
        ]
        self._watts += sum(change for at_s, change in self._ahead if at_s <= now_s)
        self._ahead = sorted(row for row in self._ahead if row[0] > now_s)
        watts, lines = self._watts, [(now_s, self._watts)]
        for at_s, change in self._ahead:
            watts += change
            lines.append((at_s, watts))
        self._trace.write(b"".join(self._line(at_s - power.start_s, w) for at_s, w in lines))
        return start_s

    def _line(self, time_s: float, watts: float) -> bytes:
        return f"{time_s:.9f}{f' {watts:.6f}' * self._power.gpus}\n".encode()


def first_and_end_s(timetable: Timetable, start_s: float, end_s: float) -> tuple[float, float]:
    """Moments of the first token and of the end of a request, from its seconds of service."""
    first_s = start_s + timetable.chunks(1)[0][0] if timetable.service_s is None else start_s
    return timetable.moment_s(min(first_s, end_s)), timetable.moment_s(end_s)


class LoggedConnection(Connection):
    """A connection that also shows the server's log, at /log."""

    def _look(self, path: str) -> None:
        if path != "/log":
            super()._look(path)
            return
        service = self._service
        assert isinstance(service.slots, PoweredSlots)
        log = {"held": service.slots.log, "prompts": service.prompts, "tokens": service.tokens}
        self._answer_json(200, "OK", log)


if __name__ == "__main__":
    asked, power = (json.loads(word) for word in sys.argv[1:3])
    timetable = Timetable(**asked)
    service = Service(timetable, PoweredSlots(timetable, Power(**power)))
    asyncio.run(serve(service, LoggedConnection))
