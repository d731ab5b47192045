"""What the store knows about serving a subject: its measurements, and their mean at one point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdwatts.artifacts.artifact import read_artifact
from kdwatts.metrics.quantity import MEASURED
from kdwatts.metrics.student_t import mean_and_half_width
from kdwatts.records.files import read_json
from kdwatts.stages.inference import COST_NAME

BEST_FIRST = ("measured", "attributed", "estimated", "mixed", "missing")
"""Qualities of a figure."""

Point = tuple[int, int, int]
"""Batch size, prompt tokens, new tokens."""


@dataclass(frozen=True)
class Pooled:
    """A subject's figures at one point: means of run means, over all that have one quality."""

    cost: dict[str, Any]
    """The figures in the form of one measurement's record.

    `total_interval_95_j` is t[R-1] times the spread of R run means. For a single run it is the
    spread of its repeats.
    """
    measurements: int


@dataclass(frozen=True)
class Served:
    """The measurements of one subject that were in the store at the end of a run."""

    key: str
    """The key of what serves alike, without the number of the measurement."""
    rows: list[dict[str, Any]]
    """The rows of inference.json: one for each point of each measurement, with number and key."""

    def at(self, point: Point) -> Pooled | None:
        """The figures at a point. None where no measurement is there yet."""
        rows = [row for row in self.rows if _point_of(row) == point]
        return _pooled(rows) if rows else None

    def range_j_per_token(self) -> tuple[float | None, float | None]:
        """Least and most joules per token over the points, for reading and writing together."""
        points = dict.fromkeys(map(_point_of, self.rows))
        totals = [pooled.cost["total_j_per_token"] for p in points if (pooled := self.at(p))]
        if not totals or None in totals:
            return None, None
        return min(totals), max(totals)


def read_served(folders: Mapping[int, Path], key: str) -> Served:
    """The measurements in these folders of the store, by number, of what serves alike as `key`."""
    rows = [
        {**row, "measurement": number, "key": read_artifact(folder).key}
        for number, folder in folders.items()
        for row in read_json(folder / COST_NAME)
    ]
    return Served(key, rows)


def _point_of(row: Mapping[str, Any]) -> Point:
    return row["batch_size"], row["prompt_tokens"], row["new_tokens"]


def _pooled(rows: Sequence[dict[str, Any]]) -> Pooled:
    """The means over measurements of the best quality there is: others are not mixed with them.

    Sensors are one quality, a share of them included, whose word then names the mean.
    """
    rows = sorted(rows, key=lambda row: BEST_FIRST.index(row["quality"]))
    best = MEASURED if rows[0]["quality"] in MEASURED else (rows[0]["quality"],)
    alike = [row for row in rows if row["quality"] in best]
    if len(alike) == 1:
        return Pooled(alike[0], 1)
    phases = {
        phase: _mean_of([row[phase] for row in alike], "j_per_token", "interval_95_j")
        for phase in ("prefill", "decode")
    }
    whole = _mean_of(alike, "total_j_per_token", "total_interval_95_j")
    return Pooled(whole | phases | {"quality": alike[-1]["quality"]}, len(alike))


def _mean_of(rows: Sequence[dict[str, Any]], energy: str, interval: str) -> dict[str, Any]:
    """The first record with the mean over all in place of every figure, and the interval of one.

    What one of them lacks, such as a net figure without idle power, is missing from the mean.
    """
    figures = [name for name, value in rows[0].items() if isinstance(value, float | None)]
    means = {name: _mean_and_half_width([row.get(name) for row in rows]) for name in figures}
    pooled = rows[0] | {name: mean for name, (mean, _) in means.items()}
    return pooled | {interval: means[energy][1]}


def _mean_and_half_width(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    return (None, None) if len(known) < len(values) else mean_and_half_width(known)
