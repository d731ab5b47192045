"""Telemetry of a foreign recorder as rows of ours, its energy counter held against its power."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from kdwatts.records.schema import TelemetryRow
from kdwatts.telemetry.energy import Tally, advance
from kdwatts.telemetry.parts import AGREEMENT
from kdwatts.telemetry.readings import MAX_DELTA_S, UNKNOWN_LIMIT_W, Reading, Sensor, may_be_power
from multirun_analysis.importer.foreign import (
    CORRECT,
    Source,
    as_object,
    count,
    number,
    read_lines,
    section,
)

WINDOW = "run/distill"
"""The recorder ran from the start of a distillation to its end; ours calls that window so."""


@dataclass(frozen=True)
class DeviceTick:
    """One GPU at one moment."""

    index: int
    name: str | None
    power_w: float | None
    declared_j: float | None
    """The energy counter, if `energy_mJ` were what its name says."""
    util_pct: float | None
    memory_used_gib: float | None
    temperature_c: float | None


@dataclass(frozen=True)
class Tick:
    """All devices at one moment."""

    time: datetime
    devices: tuple[DeviceTick, ...]
    util_pct: float | None
    memory_used_gib: float | None
    has_cpu_energy: bool


@dataclass(frozen=True)
class Trace:
    """What was recorded of one run."""

    source: Source
    ticks: list[Tick]
    is_torn: bool

    @property
    def intervals_s(self) -> list[float]:
        times = [tick.time for tick in self.ticks]
        return [(after - before).total_seconds() for before, after in pairwise(times)]

    @property
    def interval_s(self) -> float:
        """The usual time between samples: the median, which a pause does not move."""
        return median(self.intervals_s)

    @property
    def mean_interval_s(self) -> float:
        return fmean(self.intervals_s)

    @property
    def devices(self) -> dict[int, str | None]:
        """Index and name of every GPU that was seen."""
        seen = {device.index: device.name for tick in self.ticks for device in tick.devices}
        return dict(sorted(seen.items()))


def read_trace(source: Source) -> Trace:
    """The samples of a telemetry file.

    Raises ValueError with file and line for a sample that is not as agreed.
    """
    lines, is_torn = read_lines(source)
    ticks: list[Tick] = []
    for where, record in lines:
        tick = _tick(record, where)
        if ticks and tick.time <= ticks[-1].time:
            raise ValueError(
                f"{where}: timestamp {record['timestamp']} is not after the line before; "
                "sort the samples by time and keep each once"
            )
        ticks.append(tick)
    trace = Trace(source, ticks, is_torn)
    if len(ticks) < 2 or not trace.devices:
        raise ValueError(
            f"{source.path}: {len(ticks)} samples of {len(trace.devices)} GPUs; an "
            "energy needs two samples of one GPU; leave this run out"
        )
    return trace


def counter_over_samples(trace: Trace) -> dict[int, float | None]:
    """Per GPU its counter's difference over the integral of its power, over the same intervals.

    1 where the field's name is right, 1000 where it holds microjoules; None without a counter.

    Raises ValueError for a counter without power samples beside it: its unit cannot be checked.
    """
    ratios: dict[int, float | None] = {}
    for index in trace.devices:
        has_counter = any(device.declared_j is not None for _, device in _of_device(trace, index))
        # In the wrong unit it rises a thousand times too fast; in another, or stuck, it is not to
        # be believed at all, and then said to be so by its ratio.
        tally = _tally(trace, index, 1000 * UNKNOWN_LIMIT_W)
        if not tally.checked_sampled_j:
            tally = _tally(trace, index, math.inf)
        if has_counter and not tally.checked_sampled_j:
            raise ValueError(
                f"{trace.source.path}: gpu {index} has energy_mJ and no power_watts beside it, so "
                "the counter's unit cannot be checked; leave this run out"
            )
        ratios[index] = tally.checked_counter_j / tally.checked_sampled_j if has_counter else None
    return ratios


def _tally(trace: Trace, index: int, limit_w: float) -> Tally:
    """What counter and samples of a GPU add up to, its counter held to a power limit."""
    sensor = Sensor(
        "gpu", f"gpu {index}", "nvml_counter", limit_w, MAX_DELTA_S, 3 * trace.interval_s
    )
    tally = Tally()
    for time_s, device in _of_device(trace, index):
        if device.declared_j is not None or _is_power(device):
            power_w = device.power_w if _is_power(device) else None
            tally = advance(tally, Reading(time_s, device.declared_j, power_w), sensor)
    return tally


def _is_power(device: DeviceTick) -> bool:
    return device.power_w is not None and may_be_power(device.power_w, UNKNOWN_LIMIT_W)


def unit_correction(ratios: dict[int, float | None], source: Source) -> float | None:
    """The factor that turns the declared energies into joules; None where they are right.

    Raises ValueError unless all GPUs agree with their power samples, as declared or over 1000.
    """
    factors: set[float | None] = set()
    for index, ratio in ratios.items():
        if ratio is None:
            continue
        if abs(ratio - 1) <= AGREEMENT:
            factors.add(None)
        elif abs(ratio / 1000 - 1) <= AGREEMENT:
            factors.add(1e-3)
        else:
            raise ValueError(
                f"{source.path}: energy_mJ of gpu {index} should rise 1 or 1000 times as fast as "
                f"power_watts says, within {100 * AGREEMENT:.0f} %, and rises {ratio:.4g} times as "
                "fast; find out which of the two is wrong, or leave this run out"
            )
    if len(factors) > 1:
        raise ValueError(
            f"{source.path}: energy_mJ of some GPUs is in millijoules and of others in "
            "microjoules; find out which GPUs a different recorder wrote, or leave this run out"
        )
    return factors.pop() if factors else None


def unit_note(ratios: dict[int, float | None], correction: float | None) -> str:
    """What the comparison of counters and power samples found, in words."""
    found = [ratio for ratio in ratios.values() if ratio is not None]
    if not found:
        return "imported; no energy counter, so power samples alone"
    text = f"imported; energy_mJ rises {min(found):.4g} to {max(found):.4g} times as fast as "
    text += "power_watts says"
    return f"{text}, so it is rescaled by {correction:g}" if correction else text


def telemetry_rows(trace: Trace, correction: float | None) -> Iterator[TelemetryRow]:
    """Our rows: a GPU or the host at a tick. CPU and memory were not measured and have none."""
    has_counter = {
        device.index
        for tick in trace.ticks
        for device in tick.devices
        if device.declared_j is not None
    }
    start = trace.ticks[0].time
    for tick in trace.ticks:
        time_utc = tick.time.astimezone(UTC).isoformat(timespec="milliseconds")
        time_s = (tick.time - start).total_seconds()
        for device in tick.devices:
            declared_j = device.declared_j
            is_power = _is_power(device)
            yield TelemetryRow(
                time_utc, time_s, 1, WINDOW, "gpu", device.index,
                method="nvml_counter" if device.index in has_counter else "nvml_samples",
                power_w=device.power_w if is_power else None,
                refused_power_w=None if is_power else device.power_w,
                energy_counter_j=None if declared_j is None else declared_j * (correction or 1.0),
                util_pct=device.util_pct,
                memory_used_gib=device.memory_used_gib,
                temperature_c=device.temperature_c,
            )  # fmt: skip
        yield TelemetryRow(
            time_utc, time_s, 1, WINDOW, "host", None,
            util_pct=tick.util_pct, memory_used_gib=tick.memory_used_gib,
        )  # fmt: skip


def cpu_reason(trace: Trace) -> str:
    """Why there is no energy of the CPU."""
    if any(tick.has_cpu_energy for tick in trace.ticks):
        return "cpu_energy_uj has no power samples that could confirm its unit; left out"
    return "cpu_energy_uj is null throughout: not measured"


def _of_device(trace: Trace, index: int) -> Iterator[tuple[float, DeviceTick]]:
    start = trace.ticks[0].time
    for tick in trace.ticks:
        for device in tick.devices:
            if device.index == index:
                yield (tick.time - start).total_seconds(), device


def _tick(record: dict[str, Any], where: str) -> Tick:
    gpus = record.get("gpus")
    if not isinstance(gpus, list):
        raise ValueError(f"{where}: gpus is {gpus!r}, expected a list of GPUs; {CORRECT}")
    devices = tuple(_device(as_object(gpu, f"{where}: gpus"), where) for gpu in gpus)
    if len({device.index for device in devices}) < len(devices):
        raise ValueError(f"{where}: one gpu_index stands on two GPUs; {CORRECT}")
    host = section(record, "cpu", where)
    return Tick(
        time=_time(record.get("timestamp"), where),
        devices=devices,
        util_pct=number(host, "cpu_utilization_percent", where),
        memory_used_gib=_gib(host, "ram_used_MB", where),
        has_cpu_energy=host.get("cpu_energy_uj") is not None,
    )


def _device(gpu: dict[str, Any], where: str) -> DeviceTick:
    energy_mj = number(gpu, "energy_mJ", where)
    return DeviceTick(
        index=count(gpu, "gpu_index", where),
        name=_name(gpu.get("gpu_name"), where),
        power_w=number(gpu, "power_watts", where),
        declared_j=None if energy_mj is None else energy_mj / 1000,
        util_pct=number(gpu, "gpu_utilization_percent", where),
        memory_used_gib=_gib(gpu, "memory_used_MB", where),
        temperature_c=number(gpu, "temperature_C", where),
    )


def _name(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: gpu_name is {value!r}, expected a text or null; {CORRECT}")
    return value


def _gib(record: dict[str, Any], key: str, where: str) -> float | None:
    # The recorder divides bytes by 2^20: an H100 NVL has 95830 of its MB, as NVML counts MiB.
    memory_mib = number(record, key, where)
    return None if memory_mib is None else memory_mib / 1024


def _time(value: Any, where: str) -> datetime:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: timestamp is {value!r}, expected an ISO 8601 time; {CORRECT}"
        ) from None
    if time.tzinfo is None:
        raise ValueError(f"{where}: timestamp {value} has no offset from UTC; add it")
    return time
