"""The energy of an attempt that was killed before its windows could close, from its trace."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdwatts.records import COMPONENTS, StageRow, read_jsonl
from kdwatts.telemetry import parts
from kdwatts.telemetry.energy import (
    MAX_DELTA_S,
    UNKNOWN_LIMIT_W,
    Reading,
    Sensor,
    Tally,
    advance,
    span,
)

MODELS = ("tdp_model", "attributed")
"""Methods that compute a figure: it has no limit that would tell a wrong one."""


@dataclass
class _Device:
    sensor: Sensor
    tally: Tally = field(default_factory=Tally)


def recover_components(
    telemetry_path: Path,
    window_prefix: str,
    attempt: int,
    *,
    interval_s: float = 0.1,
    note: str = "recovered from the trace of a killed attempt",
) -> StageRow | None:
    """What the attempt drew inside the window and those below it; None when no row is of them.

    Adds counter differences per device, else the trapezoid of its powers, as the meter does. Lost
    are the ends before the first and after the last row, up to one sampling interval each. The
    outcome is `failed`. Windows of the same path that closed are inside the sum: take a window
    that never closed. Rows outside the window end a stretch and what lies between is not counted.

    Raises ValueError for a trace that is broken anywhere but in its last line.
    """
    devices: dict[tuple[str, str], _Device] = {}
    first: dict[str, Any] | None = None
    duration_s = last_s = 0.0
    inside = False
    for row in read_jsonl(telemetry_path):
        if row["attempt"] != attempt:
            continue
        if not f"{row['window']}/".startswith(f"{window_prefix}/"):
            inside = False
            continue
        if not inside:
            for device in devices.values():
                device.tally = device.tally._replace(counter=None, sample=None)
            last_s = row["monotonic_s"]
            inside = True
        first = first or row
        duration_s += max(0.0, row["monotonic_s"] - last_s)
        last_s = max(last_s, row["monotonic_s"])
        _take(devices, row, interval_s)
    if first is None:
        return None
    found: dict[str, parts.Part] = {}
    for kind in COMPONENTS:
        spans = [
            span(d.sensor, Tally(), d.tally) for d in devices.values() if d.sensor.kind == kind
        ]
        found[kind] = (
            parts.component(spans, duration_s, note=note)
            if spans
            else parts.missing("no rows of it in the trace")
        )
    return StageRow(
        window=window_prefix,
        parent=window_prefix.rpartition("/")[0] or None,
        key=None,
        attempt=attempt,
        outcome="failed",
        start_utc=first["time_utc"],
        start_s=first["monotonic_s"],
        duration_s=duration_s,
        data_wait_s=None,
        idle_power_w=dict.fromkeys(COMPONENTS),
        **parts.columns(found),
    )


def _take(devices: dict[tuple[str, str], _Device], row: dict[str, Any], interval_s: float) -> None:
    kind, method = row["device_kind"], row["method"]
    if kind not in COMPONENTS or method is None:
        return
    label = row["uuid"] or f"{kind} {row['device_index']}"
    if (kind, label) not in devices:
        devices[kind, label] = _Device(_sensor(kind, label, method, row, interval_s))
    device = devices[kind, label]
    if row["power_limit_w"] is not None:
        device.sensor = replace(device.sensor, limit_w=row["power_limit_w"])
    if row["energy_counter_j"] is None and row["power_w"] is None:
        return
    is_gpu = kind == "gpu"
    reading = Reading(
        row["monotonic_s"], row["energy_counter_j"], row["power_w"] if is_gpu else None
    )
    device.tally = advance(device.tally, reading, device.sensor)


def _sensor(kind: str, label: str, method: str, row: dict[str, Any], interval_s: float) -> Sensor:
    return Sensor(
        kind=kind,
        label=label,
        method=method,
        limit_w=math.inf if method in MODELS else row["power_limit_w"] or UNKNOWN_LIMIT_W,
        delta_s=MAX_DELTA_S if method == "nvml_counter" else interval_s,
        max_gap_s=3 * interval_s,
    )
