"""What the store knows about a subject behind an engine: its measurements, and their figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdwatts.config.serving import Serving
from kdwatts.metrics.pooled_serving_points import pooled_points
from kdwatts.metrics.quantity import MEASURED
from kdwatts.records.files import read_json
from kdwatts.stages.serving import RECORD_NAME

PER = ("output_token", "token", "request", "good_request")
"""What joules are divided by."""


@dataclass(frozen=True)
class EngineServed:
    """The measurements of one subject behind the engine that were in the store at a run's end."""

    key: str
    """The key of what serves alike, without the number of the measurement."""
    records: list[dict[str, Any]]
    """The records of serving.json, one for each measurement."""

    def points(self, asked: Serving) -> list[dict[str, Any]]:
        """The figures of the load that metrics.json states, for each measurement that has it."""
        name = "speed" if asked.is_replayed else "level"
        return [
            point
            for record in self.records
            for point in record["points"]
            if point.get(name) == reported_load(asked)
        ]


def read_engine_served(folders: Mapping[int, Path], key: str) -> EngineServed:
    """The measurements in these folders of the store, by number, of what serves alike as `key`."""
    records = [
        {**record, "key": key, "measurement": number}
        for number, folder in folders.items()
        for record in read_json(folder / RECORD_NAME)
    ]
    return EngineServed(key, records)


def engines(served: Mapping[str, EngineServed]) -> dict[str, Any]:
    """Subject to the engine that served it, as its first measurement states it."""
    return {subject: one.records[0]["engine"] for subject, one in served.items() if one.records}


def reported_load(asked: Serving) -> float:
    """The load that metrics.json states: eval.serving.point, or the largest.

    Of a replay it is a speed.
    """
    return max(asked.loads) if asked.point is None else asked.point


def engine_columns(
    served: Mapping[str, EngineServed], asked: Serving, *, has_loop: bool
) -> dict[str, Any]:
    """The columns of metrics.json about the engine, at the load that is reported.

    Where no engine was measured, the eager loop is named if it was.
    """
    if not served:
        return {"serving_engine": "loop" if has_loop else None}
    found = {subject: one.points(asked) for subject, one in served.items()}
    levels = [point["level"] for points in found.values() for point in points]
    columns: dict[str, Any] = {
        "serving_engine": asked.engine,
        "serving_engine_version": None,
        "serving_load": _kind(asked),
        "serving_level": next(iter(levels), None) if asked.is_replayed else reported_load(asked),
    }
    for engine in engines(served).values():
        columns |= {"serving_engine": engine["name"], "serving_engine_version": engine["version"]}
    for subject, one in served.items():
        figures = engine_figures(one, asked)
        columns |= {f"{subject}_engine_{name}": value for name, value in figures.items()}
    return columns


def _kind(asked: Serving) -> str:
    if asked.is_replayed:
        return "replay"
    return asked.arrivals if asked.rates_per_s else "closed"


def engine_figures(one: EngineServed, asked: Serving) -> dict[str, Any]:
    """The figures of a subject at the load that is reported, by the end of their column's name.

    Only `measurements`, 0, where other runs are still making them.
    """
    points = one.points(asked)
    if not points:
        return {"measurements": 0}
    return _of_point(pooled_points(points)) | _of_records(one.records)


def _of_point(point: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one load, by the end of their column's name."""
    figures = {
        f"j_per_{per}{suffix}": point[f"j_per_{per}"][end]
        for per in PER
        for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
    return {
        **figures,
        "energy_quality": point["energy_quality"],
        "verdict": point["verdict"],
        "measurements": point["measurements"],
        "power_w": point["power_w"]["value"],
        **{f"{name}_p99_s": point[f"{name}_s"]["p99"]["value"] for name in ("ttft", "tpot", "e2e")},
        **{
            name: point[name]["value"]
            for name in ("output_tokens_per_s", "requests_per_s", "goodput_per_s")
        },
    }


def _of_records(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """What belongs to no single load; None where one of the measurements lacks it.

    Parking power is a mean over measurements by sensors. The capacity is the least: at a higher
    rate one of the servers did not keep the SLO.
    """
    parked = [record["parking_power_w"] for record in records]
    capacities = [record["capacity"] for record in records]
    found = [
        capacity["requests_per_s"] if capacity and capacity["verdict"] == "found" else None
        for capacity in capacities
    ]
    return {
        "parking_power_w": _if_all_known(
            [one["value"] if one["quality"] in MEASURED else None for one in parked], _mean
        ),
        "capacity_per_s": _if_all_known(found, min),
    }


def _if_all_known(
    values: Sequence[float | None], join: Callable[[Sequence[float]], float]
) -> float | None:
    known = [value for value in values if value is not None]
    return join(known) if known and len(known) == len(values) else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
