"""What is known about each setting that may be served: accuracy kept, joules, its teacher.

A setting's seeds are grouped by how their joules were obtained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdwatts.metrics.quantity import Quantity, add, scaled
from multirun_analysis.statistics import built
from multirun_analysis.statistics.accuracy_words import MeanInterval, mean_interval_of, names_of
from multirun_analysis.statistics.pareto import worst_class
from multirun_analysis.statistics.served import by_machine, served
from multirun_analysis.values.rows import Row, grouped, known


@dataclass(frozen=True)
class Point:
    """Where a model was served: batch size and lengths."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Candidate:
    """One setting, over its seeds, and how much it will serve, in tokens or in requests."""

    label: str
    group: str
    runs: tuple[str, ...]
    units: float
    """Tokens that it will serve; requests where it is a fleet's."""
    energy_quality: str
    """measured, mixed, estimated or missing: the weaker one of building and serving."""
    accuracy: MeanInterval
    """Accuracy kept, with chance subtracted. No value where it cannot be told."""
    om_perf: MeanInterval
    teacher_at_chance: tuple[str, ...]
    """Benchmarks on which the teacher is at chance in most of its seeds."""
    student_at_chance: tuple[str, ...]
    """Benchmarks on which the student is at chance in most of its seeds."""
    own: Quantity
    """Joules of building the student alone."""
    inherited: Quantity
    """Joules of the student's share of inherited work."""
    inherits: frozenset[str | None]
    """Keys of what was inherited. Two settings with the same keys inherit the same joules."""
    serving: Quantity
    """J/token of the student: the pooled figure of all that serves alike. Of a fleet J/request."""
    serving_key: str | None
    num_measurements: int | None
    teacher: Quantity
    """Of its teacher, likewise."""
    point: Point | None
    grid: tuple[float, float] | None
    """Least and most J/token over all measured points. None for a single point."""
    machines: frozenset[tuple[Any, ...]]
    """Host and GPUs of its runs. Calibration cancels between two settings that share one."""
    is_reference: bool = False
    """Whether it is the teacher itself, which saves nothing against itself."""
    same_meter_as_teacher: bool = True
    """Whether the joules of its teacher are from the same meter, whose calibration then cancels."""


def candidates(students: Sequence[Row], tokens: float) -> list[Candidate]:
    """One candidate for each setting and class of joules, in the order in which they appear."""
    return [_candidate(rows, tokens) for rows in _kinds(students)]


def candidates_by_machine(students: Sequence[Row], tokens: float) -> list[Candidate]:
    """The same, with one candidate for each machine where seeds were served on several."""
    return [
        _candidate(part, tokens, apart)
        for rows in _kinds(students)
        for apart, part in by_machine(rows)
    ]


def _kinds(students: Sequence[Row]) -> list[list[Row]]:
    return list(grouped(students, lambda run: (run["group"], worst_class([run]))).values())


def building_j(candidate: Candidate) -> Quantity:
    """Joules of building the student, with its share of inherited work."""
    return add([candidate.own, candidate.inherited])


def whole_j(candidate: Candidate) -> Quantity:
    """Joules of building the student and serving with it."""
    return add([building_j(candidate), serving_j(candidate)])


def serving_j(candidate: Candidate) -> Quantity:
    """Joules of serving all tokens or requests."""
    return scaled(candidate.serving, candidate.units, unit="J")


def teacher_j(candidate: Candidate) -> Quantity:
    """Joules that the teacher takes to serve as much."""
    return scaled(candidate.teacher, candidate.units, unit="J")


def _candidate(rows: list[Row], tokens: float, apart: str = "") -> Candidate:
    kind = worst_class(rows)
    measurements = _common(rows, "student_served_measurements")
    return Candidate(
        label=rows[0]["group_label"] + apart,
        group=rows[0]["group"],
        runs=tuple(run["run"] for run in rows),
        units=tokens,
        energy_quality=kind,
        accuracy=_share(rows, "accuracy_kept"),
        om_perf=_share(rows, "om_perf"),
        teacher_at_chance=_mostly(rows, "teacher_at_chance"),
        student_at_chance=_mostly(rows, "student_at_chance"),
        own=replace(built.over_seeds(rows, built.own), quality=kind),
        inherited=replace(built.over_seeds(rows, built.share), quality=kind),
        inherits=frozenset(run.get("inherited_energy_by_artifact_j") for run in rows),
        serving=built.over_seeds(rows, lambda run: served(run, "student")),
        serving_key=_common(rows, "student_served_key"),
        num_measurements=None if measurements is None else int(measurements),
        teacher=built.over_seeds(rows, lambda run: served(run, "teacher")),
        point=_point(rows),
        grid=_grid(rows),
        machines=frozenset(
            tuple(run.get(key) for key in ("host", "gpu", "gpu_name", "num_gpus")) for run in rows
        ),
    )


def _share(rows: list[Row], column: str) -> MeanInterval:
    """Mean over seeds with its interval; without a value where a seed has none."""
    spread = mean_interval_of(rows, column) if _all(rows, column) else None
    return spread or MeanInterval(None)


def _all(rows: list[Row], column: str) -> list[float]:
    """The column's values; none where one run has none."""
    values = [run[column] for run in known(rows, column)]
    return values if len(values) == len(rows) else []


def _mostly(rows: list[Row], column: str) -> tuple[str, ...]:
    counts = Counter(name for run in rows for name in names_of(run, column))
    return tuple(name for name, count in counts.items() if 2 * count >= len(rows))


def _common(rows: list[Row], column: str) -> Any:
    """The value that all rows have; None where they differ."""
    values = {run.get(column) for run in rows}
    return values.pop() if len(values) == 1 else None


def _point(rows: list[Row]) -> Point | None:
    columns = ("serving_batch_size", "serving_prompt_tokens", "serving_new_tokens")
    batch_size, prompt_tokens, new_tokens = (_common(rows, column) for column in columns)
    if None in (batch_size, prompt_tokens, new_tokens):
        return None
    return Point(int(batch_size), int(prompt_tokens), int(new_tokens))


def _grid(rows: list[Row]) -> tuple[float, float] | None:
    least, most = (_all(rows, f"student_total_j_per_token_{end}") for end in ("least", "most"))
    # Of a single point there is no range, only what one run measured of the pooled figure.
    ranges = least and most and any(low < high for low, high in zip(least, most, strict=True))
    return (min(least), max(most)) if ranges else None
