"""What stays the same over all loads on one server, and the moments at which it is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from kdwatts.config.serving import Serving
from kdwatts.runtime import interrupt
from kdwatts.serving.engines.server import Server
from kdwatts.serving.load.logged_prompts import LoggedPrompts
from kdwatts.serving.load.replayed_log import Part, part_of
from kdwatts.serving.load.requests import Load, Request
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.open_window import OpenWindow

MIN_BATCH_S = 2.1
"""Between two marks: a GPU's sensor tells nothing of windows below 2 s."""
COUNTER_PERIODS = 20
"""Between two marks, in periods of the GPU's counter."""


@dataclass(frozen=True)
class Bench:
    """A server, the meter, and what is sent."""

    server: Server
    settings: Serving
    meter: Meter
    requests: Iterator[Request]
    """One stream for all loads: no prompt begins like one before it, whose start the server may
    still have in its cache."""
    seed: int
    logged: LoggedPrompts | None = None
    """The log, where requests come from one."""

    @property
    def batch_s(self) -> float:
        """Time between two marks."""
        return max(MIN_BATCH_S, COUNTER_PERIODS * self.counter_period_s)

    @property
    def counter_period_s(self) -> float:
        """The longest period of the energy counters of the server's GPUs, in s. 0 without a GPU."""
        return (self.server.meter or self.meter).counter_period_s()

    @contextmanager
    def window(self, name: str) -> Iterator[OpenWindow]:
        """A window of the meter, which is marked in the records of the server's host too."""
        remote = self.server.meter
        with self.meter.window(name) as window, remote.window(name) if remote else nullcontext():
            yield window

    def part(self, load: Load) -> Part | None:
        """What a load replays of the log; None for a load that replays none."""
        if self.logged is None or not load.is_replay:
            return None
        return part_of(self.logged.log.times_s, load.speed, self.settings.max_window_s)


def seconds_until(moment_s: float) -> Iterator[None]:
    """Yield about once a second until a monotonic moment.

    Raises Preempted when the run was asked to stop meanwhile.
    """
    while (left_s := moment_s - time.monotonic()) > 0:
        time.sleep(min(left_s, 1.0))
        interrupt.stop_if_requested("this server is measured anew")
        yield
