"""What the meter makes of known power: exactly from readings, and in words from NVML's replays.

`folded.jsonl` are readings at fixed times, folded as the meter does: every joule in full. Of the
replays, which run in real time on the genuine bindings, joules differ from one make to the next by
when a window began; of them is kept whether the figure is as near the truth as promised, and what
is said of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdwatts.telemetry.energy import Reading, Sensor, Tally, advance, span
from kdwatts.telemetry.parts import columns, component
from kdwatts.telemetry.recover import recover_components
from tests.bench.baselines.places import fresh, masked, write_table
from tests.telemetry.cases import LENGTH_S, TRACES, Result, build_library, measure, truth_j

GPU = Sensor("gpu", "GPU-0", "nvml_counter", limit_w=700, delta_s=0.02, max_gap_s=0.3)
SLOW = Sensor("gpu", "GPU-1", "nvml_counter", limit_w=700, delta_s=0.1, max_gap_s=0.3)
SAMPLED = Sensor("gpu", "GPU-2", "nvml_samples", limit_w=700, delta_s=0.1, max_gap_s=0.3)
PACKAGE = Sensor("cpu", "package-0", "rapl", 500, delta_s=0.001, max_gap_s=3, range_j=4000)
SENSORS = (GPU, SLOW, SAMPLED, PACKAGE)

INTERVAL_S = 0.1
WINDOWS = ((3.0, 23.0), (3.0, 4.5), (5.9, 8.9), (9.5, 13.5))
"""From and to, in seconds of the trace."""
SILENCES = {
    "none": (0.0, 0.0),
    "short": (10.0, 10.2),
    "long": (10.0, 13.0),
    "at the end": (22.8, 40.0),
}
RESETS_S = (None, 12.34)

REPLAYED = ("exact", "refused")
"""Replays whose every word is the same at each make; the gaps of others hang on the clock."""


def make(folder: Path, work_dir: Path) -> None:
    """Write folded.jsonl, recovered.jsonl and replays.jsonl."""
    fresh(work_dir)
    write_table(folder / "folded.jsonl", _folded())
    write_table(folder / "recovered.jsonl", _recovered(work_dir))
    (work_dir / "nvml").mkdir()
    results = measure(build_library(work_dir / "nvml"), work_dir / "cases")
    write_table(folder / "replays.jsonl", [_told(one) for one in results if _is_kept(one)])


def _readings(
    trace: str, sensor: Sensor, *, silence_s: tuple[float, float], reset_s: float | None
) -> list[Reading]:
    """A reading every tick; the counter moves at its own updates, and wraps at its range."""
    found = []
    for tick in range(round(LENGTH_S / INTERVAL_S)):
        time_s = tick * INTERVAL_S
        if silence_s[0] <= time_s < silence_s[1]:
            continue
        updated_s = int(time_s / sensor.delta_s + 1e-9) * sensor.delta_s
        since_s = reset_s if reset_s is not None and updated_s >= reset_s else 0.0
        counter_j = truth_j(TRACES[trace], since_s, updated_s)
        if sensor.range_j:
            counter_j %= sensor.range_j
        power_w = [power_w for from_s, power_w in TRACES[trace] if from_s <= time_s][-1]
        has_counter = sensor.method != "nvml_samples"
        is_card = sensor.kind == "gpu"
        found.append(
            Reading(time_s, counter_j if has_counter else None, power_w if is_card else None)
        )
    return found


def _folded() -> list[dict[str, Any]]:
    rows = []
    for sensor in SENSORS:
        for trace in TRACES:
            for silence, silence_s in SILENCES.items():
                for reset_s in RESETS_S:
                    readings = _readings(trace, sensor, silence_s=silence_s, reset_s=reset_s)
                    name = f"{sensor.label} {trace}, silence {silence}, reset {reset_s}"
                    for window, row in _windows(sensor, readings).items():
                        rows.append({"of": f"{name}, {window}"} | row)
    return rows


def _windows(sensor: Sensor, readings: Sequence[Reading]) -> dict[str, dict[str, Any]]:
    """The columns of a row of stages.jsonl for each window, with and without idle power."""
    found = {}
    for from_s, to_s in WINDOWS:
        start, end = _tally(sensor, readings, from_s), _tally(sensor, readings, to_s)
        one = span(sensor, start, end)
        for idle_w in (None, 60.0):
            part = component([one], to_s - from_s, idle_power_w=idle_w, note="a note")
            found[f"{from_s} to {to_s} s, idle {idle_w}"] = columns({sensor.kind: part})
    return found


def _tally(sensor: Sensor, readings: Sequence[Reading], until_s: float) -> Tally:
    tally = Tally()
    for reading in readings:
        if reading.time_s <= until_s + 1e-9:
            tally = advance(tally, reading, sensor)
    return tally


def _recovered(work_dir: Path) -> list[dict[str, Any]]:
    """Rows of killed attempts, from the file that a run leaves."""
    rows = []
    for sensor in (GPU, SAMPLED, PACKAGE):
        for trace in TRACES:
            for silence, silence_s in SILENCES.items():
                readings = _readings(trace, sensor, silence_s=silence_s, reset_s=None)
                path = work_dir / "telemetry.jsonl"
                path.write_text("".join(_line(sensor, reading) for reading in readings))
                row = recover_components(path, "run/distill", 1, lost_end_s=0.05)
                name = f"{sensor.label} {trace}, silence {silence}"
                rows.append({"of": name} | (vars(row) if row else {}))
    return rows


def _line(sensor: Sensor, reading: Reading) -> str:
    """A row of telemetry.jsonl; the attempt was in its fourth second when the stage began."""
    row = {
        "time_utc": "2026-01-01T00:00:00.000+00:00",
        "monotonic_s": reading.time_s,
        "attempt": 1,
        "window": "run/distill/train" if 4 <= reading.time_s < 30 else "run",
        "device_kind": sensor.kind,
        "device_index": 0,
        "uuid": sensor.label,
        "method": sensor.method,
        "power_w": reading.power_w,
        "energy_counter_j": reading.energy_counter_j,
        "power_limit_w": sensor.limit_w,
        "schema": 1,
    }
    return f"{json.dumps(row)}\n"


def _is_kept(one: Result) -> bool:
    return one.case.expects in REPLAYED


def _told(one: Result) -> dict[str, Any]:
    """What is the same whenever the window began."""
    row, is_exact = one.row, abs(one.error_pct) < 0.1
    return {
        "of": f"{one.case.name}, {len(one.case.ours)} of {len(one.case.traces)} GPUs",
        "columns": list(row),
        **{name: row[name] for name in ("window", "parent", "outcome", "method", "quality")},
        "coverage": row["coverage"],
        "energy_j": None if one.energy_j is None else f"within 0.1 %: {is_exact}",
        "reason": {kind: masked(said) for kind, said in row["reason"].items()},
        "inner": [part["quality"] for part in one.inner],
    }
