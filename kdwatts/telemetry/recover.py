"""The energy of an attempt that was killed before its windows could close, from its trace."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdwatts.records.files import read_jsonl
from kdwatts.records.schema import COMPONENTS, StageRow
from kdwatts.telemetry import parts
from kdwatts.telemetry.energy import Span, Tally, advance, span
from kdwatts.telemetry.readings import MAX_DELTA_S, Reading, Sensor, known_limit_w

MODELS = ("tdp_model", "attributed")
"""Methods that compute a figure. They have no limit that would show a wrong one."""

_USUAL = 1.5
"""When two readings are further apart than this many usual steps, one is missing between them."""


@dataclass
class _Device:
    """One device in a trace: what it used, and its last readings, of whatever window."""

    sensor: Sensor
    tally: Tally = field(default_factory=Tally)
    readings: tuple[Reading, ...] = ()
    """The last two."""
    bridged_j: float = 0.0
    """Of the ends of stretches, before the first and after the last reading."""
    bridged_s: float = 0.0
    was_read: bool = False
    """Inside the window."""

    @property
    def is_new(self) -> bool:
        """Whether it was not read yet in this stretch."""
        return self.tally.counter is None and self.tally.sample is None

    def bridge(self, readings: Sequence[Reading], seconds: float) -> None:
        """Add what it drew in some seconds at its mean power between two readings."""
        step = span(self.sensor, Tally(), _folded(readings, self.sensor))
        if step.covered_s > 0 and seconds > 0:
            self.bridged_j += step.energy_j / step.covered_s * seconds
            self.bridged_s += seconds


def _folded(readings: Iterable[Reading], sensor: Sensor) -> Tally:
    tally = Tally()
    for reading in readings:
        tally = advance(tally, reading, sensor)
    return tally


def recover_components(
    telemetry_path: Path,
    window_prefix: str,
    attempt: int,
    *,
    interval_s: float = 0.1,
    note: str = "recovered from the trace of a killed attempt",
    lost_end_s: float = 0.0,
    before_first_tick: bool = False,
) -> StageRow | None:
    """A StageRow with the joules of one attempt inside a window, read from its trace.

    Per device it adds counter differences, or else the area under its power samples, as the meter
    does. Windows below the given one count too. Rows outside of the window end a stretch, and the
    time between two stretches is not counted. A device that is read less often than others gets its
    mean power up to the stretch's ends, and all of that energy is in doubt. The ends before the
    first row and after the last row are lost: up to one sampling interval each. `lost_end_s`, half
    of one interval, is added at both ends, so that the error is no larger than that. The outcome is
    `failed`. Closed windows of the same path are inside the sum: name a window that never closed.

    None when no row belongs to the window. Where the caller knows that the kill came
    `before_first_tick`, it is `lost_end_s` at the mean power between the attempt's last rows.
    Raises ValueError for a trace that is broken anywhere but in its last line.
    """
    devices: dict[tuple[str, str], _Device] = {}
    first: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    duration_s = start_s = begin_s = last_s = before_s = 0.0
    inside = False
    for row in read_jsonl(telemetry_path):
        if row["attempt"] != attempt:
            continue
        row_s = row["monotonic_s"]
        was_inside = inside
        inside = f"{row['window']}/".startswith(f"{window_prefix}/")
        if was_inside and not inside:
            duration_s += _end(devices.values(), begin_s, min(row_s, last_s + lost_end_s))
        if inside and not was_inside:
            begin_s = last_s = row_s
            if before_s:
                begin_s -= min(max(0.0, row_s - before_s) / 2, lost_end_s)
        if inside:
            if first is None:
                first, start_s = row, begin_s
            last_s = max(last_s, row_s)
        _take(devices, row, interval_s, begin_s if inside else None)
        before_s, last = row_s, row
    if first is None and last is not None and before_first_tick:
        first, start_s, duration_s = last, before_s, lost_end_s
        for device in devices.values():
            if len(device.readings) == 2:
                device.bridge(device.readings, lost_end_s)
                device.was_read = True
    if first is None:
        return None
    if inside:
        duration_s += _end(devices.values(), begin_s, last_s + lost_end_s)
    components: dict[str, parts.Part] = {}
    for kind in COMPONENTS:
        known = [device for device in devices.values() if device.sensor.kind == kind]
        components[kind] = _component(known, duration_s, note)
    return StageRow(
        window=window_prefix,
        parent=window_prefix.rpartition("/")[0] or None,
        key=None,
        attempt=attempt,
        outcome="failed",
        start_utc=first["time_utc"],
        start_s=start_s,
        duration_s=duration_s,
        data_wait_s=None,
        idle_power_w=dict.fromkeys(COMPONENTS),
        host=first.get("host"),  # Older rows do not say it.
        **parts.columns(components),
    )


def _component(devices: Sequence[_Device], duration_s: float, note: str) -> parts.Part:
    read = [device for device in devices if device.was_read]
    if not read:
        return parts.missing("no rows of it in the trace")
    spans = [_span(device) for device in read]
    part = parts.component(spans, duration_s, note=note)
    if duration_s < parts.MIN_NVML_WINDOW_S and spans[0].sensor.kind == "gpu":
        return _short(spans, duration_s, note) or part
    if part.uncertainty_j is None:
        return part
    # The power may be anything from 0 to twice the mean.
    bridged_j = sum(device.bridged_j for device in read)
    return replace(part, uncertainty_j=math.hypot(part.uncertainty_j, bridged_j / math.sqrt(3)))


def _short(spans: Sequence[Span], duration_s: float, note: str) -> parts.Part | None:
    """GPUs in an attempt too short for their sensors, which would else hide that of all attempts.

    What they showed may be wrong by all that they can draw in the time: uniform from 0 to that
    limit, and so the error is that over the square root of 3. None where nothing was read.
    """
    if not any(one.covered_s > 0 for one in spans):
        return None
    most_j = sum(one.sensor.limit_w for one in spans) * duration_s
    methods = {one.sensor.method for one in spans}
    method = "nvml_samples" if "nvml_samples" in methods else min(methods)
    covered_s = sum(min(one.covered_s, duration_s) for one in spans)
    energy_j = sum(one.energy_j for one in spans)
    shared_j = parts.CALIBRATION[method] * energy_j
    return parts.Part(
        energy_j=energy_j,
        method=method,
        quality=parts.QUALITY[method],
        uncertainty_j=math.hypot(shared_j, most_j / math.sqrt(3)),
        coverage=covered_s / (len(spans) * duration_s),
        reason=parts.joined(
            f"{duration_s:.2f} s are too short for the GPU's sensor, so that it may be anything up "
            f"to {most_j:.3g} J",
            note,
        ),
        shared_uncertainty_j=shared_j,
    )


def _span(device: _Device) -> Span:
    one = span(device.sensor, Tally(), device.tally)
    return replace(
        one,
        energy_j=one.energy_j + device.bridged_j,
        covered_s=one.covered_s + device.bridged_s,
    )


def _end(devices: Iterable[_Device], begin_s: float, end_s: float) -> float:
    """End a stretch and return its length: each device is told up to there, and begins anew."""
    for device in devices:
        if device.is_new:
            continue
        if len(device.readings) == 2:
            before, last = device.readings
            rest_s = end_s - last.time_s
            if rest_s <= _USUAL * (last.time_s - before.time_s):
                device.bridge(device.readings, rest_s)
        device.tally = device.tally._replace(
            counter=None, sample=None, good=None, moved=None, doubted_j=0.0, doubted_s=0.0
        )
    return end_s - begin_s


def _take(
    devices: dict[tuple[str, str], _Device],
    row: dict[str, Any],
    interval_s: float,
    begin_s: float | None,
) -> None:
    """Fold one row in, where a stretch is on since `begin_s`; else only remember it."""
    kind, method = row["device_kind"], row["method"]
    if kind not in COMPONENTS or method is None:
        return
    label = row["uuid"] or f"{kind} {row['device_index']}"
    if (kind, label) not in devices:
        devices[kind, label] = _Device(_sensor(kind, label, method, row, interval_s))
    device = devices[kind, label]
    if row["power_limit_w"] is not None:
        device.sensor = replace(device.sensor, limit_w=known_limit_w(row["power_limit_w"]))
    power_w = row["power_w"] if row["power_w"] is not None else row.get("refused_power_w")
    if row["energy_counter_j"] is None and power_w is None:
        return
    reading = Reading(
        row["monotonic_s"], row["energy_counter_j"], power_w if kind == "gpu" else None
    )
    if begin_s is not None:
        device.was_read = True
        if device.is_new and device.readings:
            apart_s = reading.time_s - device.readings[-1].time_s
            usual_s = (
                device.readings[1].time_s - device.readings[0].time_s
                if len(device.readings) == 2
                else math.inf
            )
            if apart_s <= _USUAL * usual_s:
                head_s = min(apart_s, reading.time_s - begin_s)
                device.bridge([device.readings[-1], reading], head_s)
        device.tally = advance(device.tally, reading, device.sensor)
    device.readings = (*device.readings[-1:], reading)


def _sensor(kind: str, label: str, method: str, row: dict[str, Any], interval_s: float) -> Sensor:
    return Sensor(
        kind=kind,
        label=label,
        method=method,
        limit_w=math.inf if method in MODELS else known_limit_w(row["power_limit_w"]),
        delta_s=MAX_DELTA_S if method == "nvml_counter" else interval_s,
        max_gap_s=3 * interval_s,
    )
