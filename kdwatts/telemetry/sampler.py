"""One thread that reads every device at a fixed rate and writes what it saw."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from kdwatts.metrics.quantity import MEASURED
from kdwatts.records.schema import COMPONENTS, TelemetryRow
from kdwatts.telemetry import host
from kdwatts.telemetry.energy import Tally, span
from kdwatts.telemetry.journal import Journal
from kdwatts.telemetry.openmetrics import Exposition, Live, live
from kdwatts.telemetry.parts import QUALITY
from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.readings import Reading, may_be_power

log = logging.getLogger(__name__)


class Sampler:
    """Reads devices and host in one daemon thread, at absolute times: the rate never drifts.

    A tick must cost little. Between two ticks the processor forgets all of its code, and each line
    of Python that it fetches again costs as much as a query. So what never changes in a row is made
    once, and each row begins as a copy of it.
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
        exposition: Exposition | None = None,
    ) -> None:
        """`look` is called now and then for what else is worth watching."""
        self.probes = probes
        self.window = ""
        """Path of the innermost open window, as the next rows will say."""
        self.lock = threading.Lock()
        """Held around one reading, so that the readings of a device are in the order of time."""
        self.ended: tuple[float, str] | None = None
        """When the thread ended though nobody had asked it to, and why."""
        self._failed: str | None = None
        self._clocks = clocks
        self._journal = journal
        self._every_probe = [(probe, _blank(probe, attempt)) for probe in probes]
        self._fast_probes = [(p, blank) for p, blank in self._every_probe if p.every_tick]
        self._host_blank = vars(
            TelemetryRow(
                time_utc="",
                monotonic_s=0.0,
                attempt=attempt,
                window="",
                device_kind="host",
                device_index=None,
                host=socket.gethostname(),
            )
        )
        self._host_since: host.CpuTimes | None = None
        self._clock_mhz = host.Seldom(host.clock_mhz)
        self._look = host.Seldom(look)
        self._exposition = exposition
        is_fast = any(probe.every_tick for probe in probes)
        self._interval_s = interval_s if is_fast else slow_interval_s
        self._ticks_per_slow = max(1, round(slow_interval_s / self._interval_s))
        # Held until the end: a timed acquire wakes up for less than a timed Event.wait.
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="kdwatts-telemetry", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._running.acquire()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current tick."""
        self._running.release()
        self._thread.join()
        if self._exposition is not None:
            self._exposition.close()

    def power_w(self) -> float | None:
        """Sum of the latest powers from sensors, in W.

        Where no device has a sensor, of the estimates.
        """
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
        try:
            self._sample()
        except BaseException as error:
            self.ended = time.monotonic(), f"sampling ended: {_in_words(error)}"
            log.error("telemetry: %s; the windows from now on state it", self.ended[1])
            log.debug("telemetry: where sampling ended", exc_info=error)

    def _sample(self) -> None:
        started_s = time.monotonic()
        tick = 0
        num_slow = 0
        while True:
            slow = tick >= num_slow * self._ticks_per_slow
            try:
                self._tick(slow=slow)
            # The last resort: one tick is lost, and not all that follow.
            except Exception as error:
                self._note(error)
            if slow:
                num_slow = tick // self._ticks_per_slow + 1
            # Ticks that a long query swallowed are skipped, not caught up with.
            tick = max(tick + 1, int((time.monotonic() - started_s) / self._interval_s))
            left_s = started_s + tick * self._interval_s - time.monotonic()
            if self._running.acquire(timeout=max(0.0, left_s)):
                return

    def _tick(self, *, slow: bool) -> None:
        now_utc = datetime.now(UTC)
        rows = []
        with self.lock:
            for probe, blank in self._every_probe if slow else self._fast_probes:
                row = {**blank, "time_utc": now_utc, "window": self.window}
                reading = probe.take(probe.read)
                if reading is None:
                    row["monotonic_s"], row["error"] = time.monotonic(), probe.error
                else:
                    row["monotonic_s"] = reading.time_s
                    row["energy_counter_j"] = reading.energy_counter_j
                    if reading.power_w is not None:
                        self._add_power(row, probe, reading)
                    if slow:
                        self._add_slow(row, probe)
                rows.append(row)
        if slow:
            rows.append(self._host_row(now_utc))
        self._journal.write(rows)
        if slow:
            if self._exposition is not None:
                self._exposition.write(self._live(rows), window=self.window)
            self._look()

    def _note(self, error: Exception) -> None:
        """Write a tick that failed as a row with its error; the log says each kind once."""
        said = _in_words(error)
        if said != self._failed:
            log.warning("telemetry: one reading failed (%s); sampling goes on", said)
            log.debug("telemetry: where the tick failed", exc_info=error)
        self._failed = said
        row = {**self._host_blank, "time_utc": datetime.now(UTC), "window": self.window}
        self._journal.write([row | {"monotonic_s": time.monotonic(), "error": said}])

    def _live(self, rows: Sequence[dict[str, Any]]) -> list[Live]:
        """The rows of a slow tick, which are those of all probes in their order and the host's."""
        used = [span(probe.sensor, Tally(), probe.tally) for probe in self.probes]
        return [live(row, one) for row, one in zip(rows, [*used, None], strict=True)]

    def _add_power(self, row: dict[str, Any], probe: Probe, reading: Reading) -> None:
        limit_w = probe.sensor.limit_w
        if reading.power_w is None or not may_be_power(reading.power_w, limit_w):
            row["refused_power_w"], probe.power_w = reading.power_w, None
            return
        row["power_w"] = probe.power_w = reading.power_w
        average_w = reading.power_average_w
        if average_w is not None and may_be_power(average_w, limit_w):
            row["power_average_w"] = average_w

    def _add_slow(self, row: dict[str, Any], probe: Probe) -> None:
        """What is asked once a second: a GPU's other quantities, a counter's mean power."""
        if probe.sensor.kind != "gpu":
            row["power_w"] = probe.power_w = probe.mean_power_w()
        elif probe.read_slow is not None:
            try:
                row |= vars(probe.read_slow())
            except Exception as error:
                row["error"] = probe.fail(error)

    def _host_row(self, now_utc: datetime) -> dict[str, Any]:
        row = {**self._host_blank, "time_utc": now_utc, "window": self.window}
        row["monotonic_s"] = time.monotonic()
        # A quantity that cannot be read does not lose the others.
        for ask in (self._add_times, _add_memory, self._add_clock):
            try:
                ask(row)
            except Exception as error:
                row["error"] = _in_words(error)
        return row

    def _add_times(self, row: dict[str, Any]) -> None:
        with self.lock:
            times = self._clocks.read()
        row["util_pct"] = host.utilisation_pct(self._host_since, times)
        row["process_cpu_s"] = times.job_s
        self._host_since = times

    def _add_clock(self, row: dict[str, Any]) -> None:
        row["cpu_clock_mhz"] = self._clock_mhz()


def _add_memory(row: dict[str, Any]) -> None:
    row["memory_used_gib"] = host.memory_used_gib()


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


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
        host=socket.gethostname(),
    )
    return vars(row)
