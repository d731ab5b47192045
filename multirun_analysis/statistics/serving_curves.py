"""Figures of servers over their load, pooled over measurements, one engine apart from the other.

What is compared has one setup: engine, version, flags, numbers, hardware, lengths, kind of load and
SLO.
A measurement that several runs share counts once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.pooled_serving_points import pooled_points
from kdwatts.metrics.pooling import pool
from kdwatts.metrics.quantity import MEASURED, Quantity, add, ratio
from kdwatts.records.schema import COMPONENTS
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.serving_points import figure_of, flat_point, nested_point
from multirun_analysis.values.rows import Row, grouped

_SETUP = ("engine", "engine_version", "flags", "precision", "quantization", "gpus", "cpu", "host")
_SETUP += ("power_limit_w", "burstiness")
WORKLOAD = ("prompt_tokens", "prompt_tokens_p95", "output_tokens", "output_tokens_p95", "length",
            "prompts", "replay_sha256", "replay_from_s", "replay_for_s",
            "replay_sessions")  # fmt: skip
SLO = ("slo_ttft_p99_s", "slo_tpot_p99_s", "slo_e2e_p99_s")


@dataclass(frozen=True)
class Curve:
    """One model behind one server over its loads."""

    name: str
    """student, teacher or model, and what else tells it from the others of its setup."""
    subject: str
    model: str | None
    """The pair; None without a run."""
    runs: tuple[str, ...]
    """Finished runs that hold it, or the folder of a measurement without a run."""
    points: list[Row]
    """One for each load, in the order of the loads, with `measurements`."""
    first: Row
    """A row of the table `serving`, for what all loads share. Its capacity is the least over the
    measurements."""
    num_servers: int
    """Independent measurements, each of a fresh server."""
    parking_w: Quantity
    """Power of the idle server, over its measurements."""


@dataclass(frozen=True)
class Setup:
    """The curves that may be compared."""

    first: Row
    """A row of the table `serving`, for what all curves share."""
    curves: list[Curve]

    @property
    def is_closed(self) -> bool:
        """Whether so many requests are always under way."""
        return self.first["load"] == "closed"


def setups(serving: Iterable[Row], runs: Iterable[Row]) -> list[Setup]:
    """The setups of finished runs, and of measurements without a run, in order of appearance.

    Loads of a search for the capacity are left out, since their windows may be short.
    """
    by_name = {run["run"]: run for run in runs}
    rows = [row for row in finished_rows(serving, by_name) if not row["is_of_search"]]
    found = []
    for same in grouped(rows, setup_of).values():
        parts = grouped(same, lambda row: (row["subject"], row["key"] or row["run"]))
        names = _names([part[0] for part in parts.values()], by_name)
        curves = [curve_of(name, part) for name, part in zip(names, parts.values(), strict=True)]
        found.append(Setup(same[0], [curve for curve in curves if curve.points]))
    return found


def finished_rows(serving: Iterable[Row], by_name: Mapping[str, Row]) -> list[Row]:
    """The rows of finished runs, and of measurements without a run; `by_name` are the runs."""
    return [row for row in serving if by_name.get(row["run"], {"finished": True})["finished"]]


def setup_of(row: Row) -> tuple:
    """What two loads must have in common to be compared."""
    asked = (row[f"workload_{name}"] for name in WORKLOAD)
    return (*(row[name] for name in (*_SETUP, *SLO)), row["load"], *asked)


def _names(firsts: Sequence[Row], by_name: dict[str, Row]) -> list[str]:
    """A name for each curve: its subject, and its pair or setting where there are several."""
    names = []
    subjects = [row["subject"] for row in firsts]
    pairs = {row["model"] for row in firsts}
    for row in firsts:
        name = row["subject"]
        run = by_name.get(row["run"])
        if subjects.count(name) > 1:
            if run is None:
                name = f"{name} {row['run']}"
            elif len(pairs) > 1:
                name = f"{name} of {row['model']}"
            else:
                name = f"{name} · {run['group_label']}"
        names.append(name)
    twice = {name for name in names if names.count(name) > 1}
    return [
        f"{name} ({row['run']})" if name in twice else name
        for name, row in zip(names, firsts, strict=True)
    ]


def curve_of(name: str, rows: list[Row]) -> Curve:
    """The rows of one model in one setup as one curve; each measurement counts once."""
    once = {_measurement(row): row for row in reversed(rows)}
    loads = grouped(reversed(list(once.values())), "level")
    points = [_pooled(loads[level]) for level in sorted(loads)]
    servers = {(row["key"] or row["run"], row["measurement"], row["started_utc"]): row
               for row in once.values()}  # fmt: skip
    first = min(servers.values(), key=lambda row: row["capacity_requests_per_s"] or 0.0)
    return Curve(
        name,
        first["subject"],
        first["model"],
        tuple(dict.fromkeys(row["run"] for row in rows)),
        points,
        first,
        len(servers),
        _parking_w(list(servers.values())),
    )


def _measurement(row: Row) -> tuple:
    """What tells one measurement of one load from another."""
    of = row["key"] or row["run"]
    return of, row["measurement"], row["started_utc"], row["level"]


def _pooled(rows: list[Row]) -> Row:
    """One load over its measurements, flat, with `measurements` and what the rows share."""
    pooled = pooled_points([nested_point(row) for row in rows])
    return rows[0] | flat_point(pooled) | {"measurements": pooled["measurements"]}


def _parking_w(rows: list[Row]) -> Quantity:
    """The mean over servers whose power a sensor measured. A single one keeps its own error.

    An estimate by CPU time has no idle power: older records state one.
    """
    every = [quantity_of(row, "parking_power_w") for row in rows]
    known = [one for one in every if one.value is not None and one.quality in MEASURED]
    if len(known) < 2:
        return known[0] if known else Quantity(None, unit="W", quality="missing")
    quality = max((one.quality for one in known), key=MEASURED.index)
    pooled = pool([one.number for one in known], unit="W", quality=quality)
    together = add(known)
    shared_sd = None if together.shared_sd is None else together.shared_sd / len(known)
    return replace(pooled, shared_sd=shared_sd)


def quantity_of(row: Row, name: str) -> Quantity:
    """A figure of the table with both of its errors."""
    figure = figure_of(row, name)
    value, degrees = figure["value"], figure["degrees"]
    return Quantity(
        value,
        figure["random_sd"],
        figure["shared_sd"],
        "W" if name.endswith("_w") else "J",
        figure["quality"] or ("missing" if value is None else "measured"),
        math.inf if degrees is None else degrees,
    )


@dataclass(frozen=True)
class Beside:
    """Teacher and student of one setup at one load."""

    level: float
    teacher: Row | None
    student: Row | None
    times: Interval
    """Teacher over student joules per written token, with its 95 % interval by Fieller."""
    why_no_ratio: str | None
    """None where there is a ratio."""


def side_by_side(teacher: Curve, student: Curve) -> list[Beside]:
    """Both at each load that either has, in the order of the loads."""
    found = []
    by_level = [{row["level"]: row for row in curve.points} for curve in (teacher, student)]
    for level in sorted({*by_level[0], *by_level[1]}):
        one, other = (rows.get(level) for rows in by_level)
        why = _why_no_ratio(one, other)
        times = Interval(None)
        if one and other and not why:
            name = "j_per_output_token"
            times = ratio(quantity_of(one, name), quantity_of(other, name))
        found.append(Beside(level, one, other, times, why))
    return found


def _why_no_ratio(teacher: Row | None, student: Row | None) -> str | None:
    if teacher is None or student is None:
        return f"{'teacher' if teacher is None else 'student'} not measured"
    both = (("teacher", teacher), ("student", student))
    verdicts = [f"{who} {verdict_words(row['verdict'])}" for who, row in both
                if row["verdict"] != "steady"]  # fmt: skip
    if verdicts:
        return ", ".join(verdicts)
    lacking = [who for who, row in both if row["j_per_output_token"] is None]
    if lacking:
        return f"joules of the {lacking[0]} unknown"
    kinds = {energy_class(row["energy_quality"]) for _, row in both}
    if len(kinds) > 1:
        return "measured against estimated"
    of = [
        (row["scope"], *(row[f"{part}_energy_j"] is None for part in COMPONENTS)) for _, row in both
    ]
    return "joules of other components" if of[0] != of[1] else None


def verdict_words(verdict: str) -> str:
    """A verdict as readers are told it."""
    return {"client_bound": "held back by our client"}.get(verdict, verdict)


def pairs_of(setup: Setup) -> list[tuple[Curve, Curve]]:
    """Each student of a setup with the teacher of its pair."""
    teachers = [curve for curve in setup.curves if curve.subject == "teacher"]
    return [
        (teacher, student)
        for student in setup.curves
        if student.subject == "student"
        for teacher in teachers
        if teacher.model == student.model and set(teacher.runs) & set(student.runs)
    ]


def apart_of(found: Sequence[Setup]) -> list[tuple[Setup, Curve, Setup]]:
    """Each student whose teacher was served in other setups alone: its own, itself, the teacher's.

    The two are never compared.
    """
    teachers = [(s, curve) for s in found for curve in s.curves if curve.subject == "teacher"]
    apart = []
    for setup in found:
        paired = [student for _, student in pairs_of(setup)]
        for student in setup.curves:
            if student.subject != "student" or student in paired:
                continue
            others = [s for s, teacher in teachers if set(teacher.runs) & set(student.runs)]
            apart += [(setup, student, other) for other in others[:1]]
    return apart
