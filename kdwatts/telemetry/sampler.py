"""One thread that reads every device at a fixed rate and writes what it saw."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

import psutil

from kdwatts.records import TelemetryRow
from kdwatts.telemetry import host
from kdwatts.telemetry.energy import Reading, Sensor, Tally, advance
from kdwatts.telemetry.journal import Journal
from kdwatts.telemetry.nvml import NVMLError, SlowQuantities
from kdwatts.telemetry.parts import QUALITY

log = logging.getLogger(__name__)

READ_ERRORS = (NVMLError, OSError, psutil.Error)
"""What a device that does not answer raises: written as a row, and the sampling goes on."""

_MIN_MEAN_S = 0.005
"""A mean power over less says nothing: RAPL is updated every millisecond."""


def now_utc() -> str:
    """The time in ISO 8601, to the millisecond."""
    now_s = time.time()
    return f"{_second_utc(int(now_s))}.{int(now_s % 1 * 1000):03d}+00:00"


@lru_cache(maxsize=1)
def _second_utc(second: int) -> str:
    # Once a second: in a thread that has just woken, a datetime costs as much as asking the card.
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@dataclass(eq=False)
class Probe:
    """One device: how to read it and all it used since the meter started."""

    sensor: Sensor
    index: int | None
    read: Callable[[], Reading]
    read_edge: Callable[[], Reading]
    """As `read`, with the pains worth taking at the edge of a window."""
    read_counter: Callable[[], int] | None = None
    """The raw counter whose next update an edge waits for; None where counters are continuous."""
    read_slow: Callable[[], SlowQuantities] | None = None
    every_tick: bool = True
    """False: only slow ticks, for what costs more or matters less."""
    tally: Tally = field(default_factory=Tally)
    power_w: float | None = None
    """At the last tick; None when it failed."""
    error: str | None = None
    late_starts: list[dict[Probe, Tally]] = field(default_factory=list)
    """Starts of windows that opened while the device was silent, filled by its next reading."""
    _ticked: Tally = field(default_factory=Tally)

    def update(self, *, edge: bool = False) -> Reading | None:
        """One more reading in the tally, or None with `error` set when the device fails."""
        try:
            reading = self.read_edge() if edge else self.read()
        except READ_ERRORS as error:
            self.fail(error)
            return None
        if self.error is not None:
            log.warning("telemetry: %s answers again", self.sensor.label)
            self.error = None
        self.tally = advance(self.tally, reading, self.sensor)
        for starts in self.late_starts:
            starts[self] = self.tally
        self.late_starts.clear()
        return reading

    def fail(self, error: BaseException) -> None:
        """Note a failed reading; the log says so once until the device answers again."""
        if self.error is None:
            log.warning(
                "telemetry: %s cannot be read (%s); the gap is stated in its windows",
                self.sensor.label,
                error,
            )
        self.error = str(error) or type(error).__name__
        self.power_w = None

    def mean_power_w(self) -> float | None:
        """Counter power since the last tick, for devices that tell no power themselves."""
        since, self._ticked = self._ticked, self.tally
        counted_s = self.tally.counted_s - since.counted_s
        if counted_s < _MIN_MEAN_S:
            return None
        return (self.tally.counted_j - since.counted_j) / counted_s


class Sampler:
    """Reads probes and host in one daemon thread, at absolute times: the rate never drifts."""

    def __init__(
        self,
        probes: Sequence[Probe],
        journal: Journal,
        *,
        attempt: int,
        interval_s: float,
        slow_interval_s: float,
    ) -> None:
        self.probes = probes
        self.window = ""
        """Path of the innermost open window, as the next rows will say."""
        self.lock = threading.Lock()
        """Held around one reading, so that the readings of a device are in the order of time."""
        self._journal = journal
        self._attempt = attempt
        is_fast = any(probe.every_tick for probe in probes)
        self._interval_s = interval_s if is_fast else slow_interval_s
        self._ticks_per_slow = max(1, round(slow_interval_s / self._interval_s))
        # Held until the end: a timed acquire wakes up for less than a timed Event.wait.
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="kdwatts-telemetry", daemon=True)

    def start(self) -> None:
        self._running.acquire()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the tick it is in."""
        self._running.release()
        self._thread.join()

    def power_w(self) -> float | None:
        """Sum of the latest measured powers; of the estimated ones where none is measured."""
        for wanted in ("measured", "estimated"):
            powers_w = [
                probe.power_w
                for probe in self.probes
                if probe.power_w is not None and QUALITY[probe.sensor.method] == wanted
            ]
            if powers_w:
                return sum(powers_w)
        return None

    def _run(self) -> None:
        started_s = time.monotonic()
        tick = 0
        num_slow = 0
        while True:
            slow = tick >= num_slow * self._ticks_per_slow
            self._tick(slow=slow, first=tick == 0)
            if slow:
                num_slow = tick // self._ticks_per_slow + 1
            # Ticks that a long query swallowed are skipped, not caught up with.
            tick = max(tick + 1, int((time.monotonic() - started_s) / self._interval_s))
            left_s = started_s + tick * self._interval_s - time.monotonic()
            if self._running.acquire(timeout=max(0.0, left_s)):
                return

    def _tick(self, *, slow: bool, first: bool) -> None:
        time_utc = now_utc()
        rows = [
            self._device_row(probe, time_utc, slow=slow)
            for probe in self.probes
            if slow or probe.every_tick
        ]
        if slow:
            rows.append(self._host_row(time_utc, first=first))
        self._journal.write(rows)

    def _device_row(self, probe: Probe, time_utc: str, *, slow: bool) -> TelemetryRow:
        with self.lock:
            window = self.window
            reading = probe.update()
            tally = probe.tally
            mean_power_w = probe.mean_power_w()
        extra = None
        if slow and reading is not None and probe.read_slow is not None:
            try:
                extra = probe.read_slow()
            except READ_ERRORS as error:
                probe.fail(error)
        is_gpu = probe.sensor.kind == "gpu"
        counter_j = None
        if reading is not None:
            probe.power_w = reading.power_w if is_gpu else mean_power_w
            # RAPL wraps: its rows carry the unwrapped sum since the meter started.
            counter_j = reading.energy_counter_j if is_gpu else tally.counted_j
        return TelemetryRow(
            time_utc=time_utc,
            monotonic_s=reading.time_s if reading is not None else time.monotonic(),
            attempt=self._attempt,
            window=window,
            device_kind=probe.sensor.kind,
            device_index=probe.index,
            uuid=probe.sensor.label if is_gpu else None,
            method=probe.sensor.method,
            power_w=probe.power_w if reading is not None else None,
            power_average_w=reading.power_average_w if reading is not None else None,
            energy_counter_j=counter_j,
            util_pct=extra.util_pct if extra else None,
            memory_used_gib=extra.memory_used_gib if extra else None,
            temperature_c=extra.temperature_c if extra else None,
            sm_clock_mhz=extra.sm_clock_mhz if extra else None,
            throttle_reasons=extra.throttle_reasons if extra else None,
            power_limit_w=extra.power_limit_w if extra else None,
            error=probe.error,
        )

    def _host_row(self, time_utc: str, *, first: bool) -> TelemetryRow:
        util_pct = memory_used_gib = error = None
        try:
            util_pct = host.utilisation_pct()
            memory_used_gib = host.memory_used_gib()
        except READ_ERRORS as failure:
            error = str(failure)
        return TelemetryRow(
            time_utc=time_utc,
            monotonic_s=time.monotonic(),
            attempt=self._attempt,
            window=self.window,
            device_kind="host",
            device_index=None,
            # The first answer of a thread means nothing.
            util_pct=None if first else util_pct,
            memory_used_gib=memory_used_gib,
            error=error,
        )
