"""Windows of the meter under a known load, and what counters and power samples say of each."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdwatts.config.machine import Telemetry
from kdwatts.doctor.instruments.known_load import Load, pulses
from kdwatts.records.files import read_jsonl
from kdwatts.telemetry import host
from kdwatts.telemetry.energy import span
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.open_window import OpenWindow
from kdwatts.telemetry.parts import MIN_NVML_WINDOW_S
from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.window_edges import Edge

LEAST_S = 1.1 * MIN_NVML_WINDOW_S
"""Length in s of the shortest windows: the meter tells no joules of a GPU below 2 s."""

SETTLE_S = 1.6
"""A load is on for so long before its window: sensors average up to 1 s, and clocks take some time.

The average power of NVML's field 185 is that of one second (NVML API reference)."""

NUM_EQUAL = 5
"""Equal windows under full load."""

LEAST_READ = 0.5
"""The least share of a window that lies between the readings at its edges. Below it, the device did
not answer in the window."""


@dataclass(frozen=True)
class LoadWindow:
    """One window of the meter under a known load."""

    name: str
    """Its path, as the rows of the trace name it."""
    share: float | None
    """The share of the load that was on all the time; None where it went on and off."""
    start: Edge
    end: Edge
    num_done: int
    """Products in it."""
    busy_s: float
    """CPU seconds in it of all CPUs of the node."""
    sampler_cpu_s: float | None
    """CPU seconds in it of the meter's sampler; None where its thread was not found."""

    @property
    def duration_s(self) -> float:
        """Seconds from its opening to its end."""
        return self.end.time_s - self.start.time_s


@dataclass(frozen=True)
class Joules:
    """What the counters of one or more devices, and their power samples, say of one window."""

    window: LoadWindow
    counter_j: float | None
    """Difference of the counters as they were read, believed or not; None without a counter."""
    sampled_j: float | None
    """Mean of the power samples times the time of the window; None without samples."""
    counter_sd_j: float
    """One standard deviation from the counter's steps, P delta / sqrt(6), and from late looks."""
    sampled_sd_j: float
    """One standard deviation of the samples: a jump of power may be anywhere between two."""

    @property
    def believed(self) -> Joules:
        """Without a counter that stood still or fell."""
        is_lie = self.counter_j is not None and self.counter_j <= 0
        return replace(self, counter_j=None) if is_lie else self

    @property
    def counter_w(self) -> float | None:
        """Mean power by the counter."""
        return None if self.counter_j is None else self.counter_j / self.window.duration_s

    @property
    def sampled_w(self) -> float | None:
        """Mean power by the samples."""
        return None if self.sampled_j is None else self.sampled_j / self.window.duration_s


class LoadPass:
    """One pass of the meter, and its windows under known loads."""

    def __init__(self, meter: Meter, folder: Path, interval_s: float) -> None:
        self.meter = meter
        self.folder = folder
        """Of the meter's records."""
        self.interval_s = interval_s
        """Seconds between two samples that were asked for."""
        self.windows: list[LoadWindow] = []
        self._clock = _thread_clock("kdwatts-telemetry")

    @contextmanager
    def window(self, name: str, load: Load | None, share: float | None) -> Iterator[None]:
        """A window that is kept in `windows`."""
        with self.meter.window(name) as opened:
            before = self._so_far(load)
            yield
            spent = [now - then for now, then in zip(self._so_far(load), before, strict=True)]
        self.windows.append(_closed(opened, share, *spent, has_clock=self._clock is not None))

    def equal(self, name: str) -> list[LoadWindow]:
        """The windows of one name."""
        return [one for one in self.windows if one.name.rpartition("/")[2] == name]

    def idle(self, seconds: float) -> None:
        """One window without a load, after what came before has settled."""
        time.sleep(SETTLE_S)
        with self.window("idle", None, 0.0):
            time.sleep(seconds)

    def steady(self, load: Load, share: float, windows: Sequence[tuple[str, float]]) -> None:
        """Windows, by name and seconds, under a load that is on from before them until after."""
        load.begin(share)
        try:
            time.sleep(SETTLE_S)
            for name, seconds in windows:
                with self.window(name, load, share):
                    time.sleep(seconds)
        finally:
            load.end()

    def square(
        self, load: Load, name: str, lead_s: Sequence[float], turns_s: Sequence[float]
    ) -> None:
        """One window of turns of full load and none, which began before it with `lead_s`."""
        pulses(load, lead_s)
        with self.window(name, load, None):
            pulses(load, turns_s)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """The rows of the trace of one kind of device until now."""
        rows = read_jsonl(self.folder / "telemetry.jsonl")
        return [row for row in rows if row["device_kind"] == kind]

    def probes(self, *kinds: str, uuid: str | None = None) -> list[Probe]:
        """The devices of these kinds that have a sensor; of GPUs the one with this UUID."""
        return [
            probe
            for probe in self.meter.probes.devices
            if probe.sensor.kind in kinds and uuid in (None, probe.sensor.label)
        ]

    def _so_far(self, load: Load | None) -> tuple[float, int, float, float]:
        cpu_s = time.clock_gettime(self._clock) if self._clock is not None else 0.0
        return time.monotonic(), load.num_done if load else 0, host.busy_s(), cpu_s


def _closed(
    opened: OpenWindow,
    share: float | None,
    counted_s: float,
    num_done: float,
    busy_s: float,
    sampler_cpu_s: float,
    *,
    has_clock: bool,
) -> LoadWindow:
    assert opened.end is not None, "a window has an end once it is closed"
    # An edge waits for the counter after the last look here: the load goes on at its rate.
    longer = (opened.end.time_s - opened.start.time_s) / counted_s if counted_s > 0 else 1.0
    return LoadWindow(
        opened.path,
        share,
        opened.start,
        opened.end,
        round(longer * num_done),
        longer * busy_s,
        longer * sampler_cpu_s if has_clock else None,
    )


def _thread_clock(name: str) -> int | None:
    """The CPU clock of a thread of this process; None where there is no such thread or clock."""
    thread = next((one for one in threading.enumerate() if one.name == name), None)
    if thread is None or thread.ident is None or not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.pthread_getcpuclockid(thread.ident)


@contextmanager
def load_pass(folder: Path, telemetry: Telemetry, *, use_gpus: bool) -> Iterator[LoadPass]:
    """A meter with the settings of a run. It also measures GPUs that others use."""
    settings = replace(telemetry, idle_s=0.0, allow_shared=True, openmetrics=None)
    meter_log = logging.getLogger("kdwatts.telemetry")
    level = meter_log.level
    meter_log.setLevel(logging.CRITICAL)  # What it would say becomes a verdict.
    try:
        with Meter(folder, settings, use_gpus=use_gpus) as meter:
            yield LoadPass(meter, folder, settings.interval_s)
    finally:
        meter_log.setLevel(level)


def joules(window: LoadWindow, probes: Sequence[Probe]) -> Joules | None:
    """What all of some devices used in a window; None where one of them did not answer."""
    each = [_joules_of(window, probe) for probe in probes]
    known = [one for one in each if one is not None]
    if not known or len(known) < len(each):
        return None
    return Joules(
        window,
        _sum([one.counter_j for one in known]),
        _sum([one.sampled_j for one in known]),
        sum(one.counter_sd_j**2 for one in known) ** 0.5,
        sum(one.sampled_sd_j**2 for one in known) ** 0.5,
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _joules_of(window: LoadWindow, probe: Probe) -> Joules | None:
    start, end = window.start.tallies.get(probe), window.end.tallies.get(probe)
    if start is None or end is None:
        return None
    used, duration_s = span(probe.sensor, start, end), window.duration_s
    counter_j, blur_s = None, 0.0
    if start.counter is not None and end.counter is not None:
        # Not the sum of the steps that are believed: what lies must be seen.
        first_j, last_j = start.counter.energy_counter_j, end.counter.energy_counter_j
        assert first_j is not None and last_j is not None, "these readings have a counter"
        counter_j = last_j - first_j
        read_s = end.counter.time_s - start.counter.time_s
        if read_s < LEAST_READ * duration_s:
            return None  # It was silent at the start, and its next answer stands for that edge.
        # An edge lies halfway between two looks at the counter, which a busy machine draws apart.
        blur_s = abs(read_s - duration_s) / 3**0.5
    # Where samples are lost, the others stand for them.
    scale = duration_s / used.sampled_s if used.sampled_s > 0 else 0.0
    sampled_j = used.sampled_j * scale if used.sampled_s > 0 else None
    power_w = (counter_j if sampled_j is None else sampled_j) or 0.0
    return Joules(
        window,
        counter_j,
        sampled_j,
        abs(power_w) / duration_s * math.hypot(probe.sensor.delta_s / 6**0.5, blur_s),
        scale * used.sampled_var_j2**0.5,
    )
