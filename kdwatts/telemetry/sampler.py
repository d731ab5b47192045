"""One thread that reads every device at a fixed rate and writes what it saw."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from kdwatts.metrics import MEASURED
from kdwatts.records import COMPONENTS, TelemetryRow
from kdwatts.telemetry import host
from kdwatts.telemetry.journal import Journal
from kdwatts.telemetry.parts import QUALITY
from kdwatts.telemetry.probe import READ_ERRORS, Probe


class Sampler:
    """Reads probes and host in one daemon thread, at absolute times: the rate never drifts.

    A tick must cost little: between two ticks the processor forgets all of it, and each line of
    Python that it has to fetch again costs as much as a query. So what never changes in a row is
    made once, and a row is a mapping that begins as a copy of it.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        clocks: host.Clocks,
        journal: Journal,
        *,
        attempt: int,
        interval_s: float,
        slow_interval_s: float,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.probes = probes
        self.window = ""
        """Path of the innermost open window, as the next rows will say."""
        self.lock = threading.Lock()
        """Held around one reading, so that the readings of a device are in the order of time."""
        self._clocks = clocks
        self._journal = journal
        self._blanks = [(probe, _blank(probe, attempt)) for probe in probes]
        self._host_blank = vars(
            TelemetryRow("", 0.0, attempt, window="", device_kind="host", device_index=None)
        )
        self._host_since: host.CpuTimes | None = None
        self._clock_mhz = host.Seldom(host.clock_mhz)
        self._look = host.Seldom(look)
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
        """Sum of the latest powers from sensors; of the estimated ones where none is."""
        for wanted in (MEASURED, ("estimated",)):
            powers_w = [
                probe.power_w
                for probe in self.probes
                if probe.power_w is not None
                and probe.sensor.kind in COMPONENTS
                and QUALITY[probe.sensor.method] in wanted
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
            self._tick(slow=slow)
            if slow:
                num_slow = tick // self._ticks_per_slow + 1
            # Ticks that a long query swallowed are skipped, not caught up with.
            tick = max(tick + 1, int((time.monotonic() - started_s) / self._interval_s))
            left_s = started_s + tick * self._interval_s - time.monotonic()
            if self._running.acquire(timeout=max(0.0, left_s)):
                return

    def _tick(self, *, slow: bool) -> None:
        now_utc = datetime.now(UTC)
        rows = [
            self._device_row(probe, blank, now_utc, slow=slow)
            for probe, blank in self._blanks
            if slow or probe.every_tick
        ]
        if slow:
            rows.append(self._host_row(now_utc))
        self._journal.write(rows)
        if slow:
            self._look()

    def _device_row(
        self, probe: Probe, blank: dict[str, Any], now_utc: datetime, *, slow: bool
    ) -> dict[str, Any]:
        is_gpu = probe.sensor.kind == "gpu"
        with self.lock:
            row = {**blank, "time_utc": now_utc, "window": self.window}
            reading = probe.update()
            if reading is not None and not is_gpu:
                # Counters that wrap: their rows carry the sum since the meter started.
                row["energy_counter_j"] = probe.tally.counted_j
                row["power_w"] = probe.power_w = probe.mean_power_w()
        if reading is None:
            row["monotonic_s"], row["error"] = time.monotonic(), probe.error
            return row
        row["monotonic_s"] = reading.time_s
        if is_gpu:
            row["energy_counter_j"] = reading.energy_counter_j
            row["power_w"] = probe.power_w = reading.power_w
            row["power_average_w"] = reading.power_average_w
            if slow and probe.read_slow is not None:
                try:
                    row |= vars(probe.read_slow())
                except READ_ERRORS as error:
                    row["error"] = probe.fail(error)
        return row

    def _host_row(self, now_utc: datetime) -> dict[str, Any]:
        row = {**self._host_blank, "time_utc": now_utc, "window": self.window}
        row["monotonic_s"] = time.monotonic()
        try:
            with self.lock:
                times = self._clocks.read()
            row["util_pct"] = host.utilisation_pct(self._host_since, times)
            row["process_cpu_s"] = times.job_s
            row["memory_used_gib"] = host.memory_used_gib()
            row["cpu_clock_mhz"] = self._clock_mhz()
            self._host_since = times
        except READ_ERRORS as error:
            row["error"] = str(error)
        return row


def _blank(probe: Probe, attempt: int) -> dict[str, Any]:
    """The row of a probe of which nothing is known yet."""
    sensor = probe.sensor
    row = TelemetryRow(
        time_utc="",
        monotonic_s=0.0,
        attempt=attempt,
        window="",
        device_kind=sensor.kind,
        device_index=probe.index,
        uuid=sensor.label if sensor.kind == "gpu" else None,
        method=sensor.method,
    )
    return vars(row)
