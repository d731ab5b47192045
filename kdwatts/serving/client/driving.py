"""Requests at their times: the loop that sends, in a closed or an open load or a replay.

Times are monotonic seconds, which are also those of the asyncio loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from kdwatts.serving.client.completions import Prepared, Target, complete
from kdwatts.serving.client.outcomes import Outcome, Second
from kdwatts.serving.client.progress import Progress

PREPARED = 64
"""Requests that only wait for their time. Reading one would make the next one late."""

REST_S = 1.0
"""A slot of a closed loop whose request failed is free again so long after that was sent: a
server that refuses everything is asked once a second, and not as fast as it can refuse."""

Write = Callable[[Outcome | Second], None]


@dataclass(frozen=True)
class Schedule:
    """When requests are sent."""

    start_s: float
    """Of a closed loop all slots are free from here on."""
    slots: int | None
    """Requests at once in a closed loop; None for an open one."""
    arrivals_s: Iterator[float] | None
    """Of an open loop, after the start, without an end. None in a closed loop; and for a replay,
    whose requests say themselves when they are due."""


@dataclass
class _Driver:
    schedule: Schedule
    target: Target
    write: Write
    group: asyncio.TaskGroup
    progress: Progress = field(default_factory=Progress)
    prepared: asyncio.Queue[Prepared] = field(default_factory=lambda: asyncio.Queue(PREPARED))
    free_s: asyncio.Queue[float] = field(default_factory=asyncio.Queue)
    """Of a closed loop, the moment since which each free slot is free."""
    under_way: set[asyncio.Task[None]] = field(default_factory=set)
    turns: dict[int, deque[tuple[Prepared, float]]] = field(default_factory=dict)
    """Of a replay, each conversation with a request under way, and its turns that wait for it, with
    the moment at which they were due."""

    async def prepare(self, next_request: Callable[[], Awaitable[Prepared]]) -> None:
        while True:
            await self.prepared.put(await next_request())

    async def send(self) -> None:
        """Send each request at its time, or as soon as can be after it. Times never move."""
        schedule = self.schedule
        for _ in range(schedule.slots or 0):
            self.free_s.put_nowait(schedule.start_s)
        while schedule.slots is not None:
            scheduled_s = await self.free_s.get()
            await _until(scheduled_s)
            self._begin(await self.prepared.get(), scheduled_s)
        while schedule.arrivals_s is not None:
            scheduled_s = schedule.start_s + next(schedule.arrivals_s)
            await _until(scheduled_s)
            self._begin(await self.prepared.get(), scheduled_s)
        while True:
            request = await self.prepared.get()
            assert request.due_s is not None
            scheduled_s = schedule.start_s + request.due_s
            await _until(scheduled_s)
            self._begin_turn(request, scheduled_s)

    def stop_waiting(self) -> None:
        """Send no turn that still waits for the one before it."""
        self.turns = {}

    def _begin_turn(self, request: Prepared, due_s: float) -> None:
        """Send a request of a replay, or let it wait for the one before it in its conversation."""
        session = request.session
        if session in self.turns:
            self.turns[session].append((request, due_s))
            return
        if session is not None:
            self.turns[session] = deque()
        self._begin(request, due_s)

    def _end_turn(self, session: int, ended_s: float) -> None:
        """A turn ended: the next one is due at this moment, or was before."""
        if session not in self.turns:
            return
        if self.turns[session]:
            request, due_s = self.turns[session].popleft()
            self._begin(request, max(due_s, ended_s))
        else:
            del self.turns[session]

    def _begin(self, request: Prepared, scheduled_s: float) -> None:
        task = self.group.create_task(self._one(request, scheduled_s))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _one(self, request: Prepared, scheduled_s: float) -> None:
        outcome = await complete(request, scheduled_s, self.target, self.progress)
        self.write(outcome)
        if request.session is not None:
            self._end_turn(request.session, outcome.ended_s)
        if self.schedule.slots is None:
            return
        if outcome.failure is None:
            self.free_s.put_nowait(outcome.ended_s)
        else:
            free_s = max(outcome.ended_s, (outcome.sent_s or scheduled_s) + REST_S)
            asyncio.get_running_loop().call_at(free_s, self.free_s.put_nowait, free_s)

    async def count_seconds(self) -> None:
        """Write what was seen, at the start and each second after it. A second missed stays so."""
        moment_s = self.schedule.start_s
        while True:
            await _until(moment_s)
            second = self.progress.now()
            self.write(second)
            moment_s += max(1.0, math.ceil(second.time_s - moment_s))


async def drive(
    schedule: Schedule,
    next_request: Callable[[], Awaitable[Prepared]],
    target: Target,
    write: Write,
    *,
    stop: asyncio.Event,
    drain_s: float,
) -> None:
    """Send until `stop` is set; then let requests under way end for `drain_s`, and give up others.

    Each request that was sent gives one Outcome when it ends, and each second one Second.
    """
    async with asyncio.TaskGroup() as group:
        driver = _Driver(schedule, target, write, group)
        sending = [
            group.create_task(driver.prepare(next_request)),
            group.create_task(driver.send()),
        ]
        seconds = group.create_task(driver.count_seconds())
        await stop.wait()
        for task in sending:
            task.cancel()
        await asyncio.wait(sending)
        driver.stop_waiting()
        if driver.under_way:
            _, late = await asyncio.wait(driver.under_way, timeout=drain_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        seconds.cancel()
        await asyncio.wait([seconds])
        write(driver.progress.now())


async def _until(moment_s: float) -> None:
    wait_s = moment_s - time.monotonic()
    if wait_s > 0:
        await asyncio.sleep(wait_s)
