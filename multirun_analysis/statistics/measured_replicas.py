"""What one replica draws and carries, as measured in open loops: a server with its GPUs.

A closed loop says nothing of a rate, so it decides nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from kdwatts.metrics.fleet import Knot
from kdwatts.metrics.quantity import MEASURED, Quantity
from multirun_analysis.statistics.operating_point import Limits
from multirun_analysis.statistics.pareto import CLASSES, energy_class
from multirun_analysis.statistics.serving_curves import (
    SLO,
    WORKLOAD,
    Curve,
    curve_of,
    finished_rows,
    quantity_of,
    setup_of,
    verdict_words,
)
from multirun_analysis.values.rows import Row, grouped, known

USABLE = ("steady", "unsteady")
"""Verdicts of loads whose power lasts: a saturated queue grows for as long as it is fed."""
_KIND = ("engine", "engine_version", "flags", "precision", "quantization", "gpus", "cpu")
_KIND += ("power_limit_w",)


@dataclass(frozen=True)
class Replica:
    """One model behind one kind of server, over the seeds of its setting."""

    subject: str
    """student, teacher, or model where a server was measured without a run."""
    model: str | None
    """The pair; None without a run."""
    setting: str | None
    """The student's setting; None for a teacher, and without a run."""
    runs: tuple[str, ...]
    rows: tuple[Row, ...]
    """Loads of the curve in the table `serving`, those of each measurement once for each run."""
    curve: Curve
    searched: tuple[Row, ...]
    """Loads of the search for the capacity, pooled, in the order of their rates."""

    @property
    def first(self) -> Row:
        """A row of the table, for what all loads share."""
        return self.curve.first

    @property
    def gpus(self) -> list[str]:
        """The names of a replica's GPUs; empty on a CPU."""
        return self.first["gpus"].split(", ") if self.first["gpus"] else []

    @property
    def workload(self) -> tuple:
        """Lengths and text of what was asked; only equal ones are compared."""
        return tuple(self.first[f"workload_{name}"] for name in WORKLOAD)

    @property
    def machine(self) -> tuple[str | None, str | None, int]:
        """Host, kind of GPU and number: calibration cancels between what one machine measured.

        No host where there are several, which have a meter each.
        """
        hosts = {row["host"] for row in self.rows}
        host = hosts.pop() if len(hosts) == 1 else None
        return host, self.gpus[0] if self.gpus else None, len(self.gpus)

    @property
    def kind(self) -> tuple:
        """Model, engine, numbers and hardware: what differs in this is another candidate."""
        owner = (self.subject, self.model, self.setting)
        alone = self.runs if self.subject == "model" else ()
        return (*owner, alone, *(self.first[name] for name in _KIND), self.workload)

    @property
    def servers(self) -> frozenset[tuple]:
        """The measurements that its figures are of."""
        return frozenset(map(_server, self.rows))


def measured_replicas(serving: Iterable[Row], runs: Iterable[Row]) -> list[Replica]:
    """Replicas of finished runs, and of measurements without a run, in order of appearance.

    Raises ValueError where no server was measured, or none in an open loop.
    """
    by_name = {run["run"]: run for run in runs}
    rows = finished_rows(serving, by_name)
    curves = [row for row in rows if not row["is_of_search"]]
    if not curves:
        raise ValueError(f"no server was measured under load; {MEASURE}")
    arrivals = {_server(row): {name: row[name] for name in ("load", "burstiness")}
                for row in curves}  # fmt: skip
    # Loads of a search are Poisson, and belong to the curve of their server, whatever its arrivals.
    # Hosts of one kind are not told apart: seeds of one setting may have run on several.
    rows = [
        row | {"_setup": setup_of(row | {"host": None} | arrivals.get(_server(row), {}))}
        for row in rows
    ]
    open_rows = [row for row in rows if arrivals.get(_server(row), row)["load"] != "closed"]
    if not open_rows:
        raise ValueError(
            f"servers were measured in closed loops alone, which say nothing of a rate; {MEASURE}"
        )
    found = []
    for (_, *owner), part in grouped(
        open_rows, lambda r: (r["_setup"], *_owner(r, by_name))
    ).items():
        loads = [row for row in part if not row["is_of_search"]]
        searched = [row for row in part if row["is_of_search"]]
        if not loads:
            continue
        subject, model, setting, _ = owner
        found.append(
            Replica(
                *(subject, model, setting),
                tuple(dict.fromkeys(row["run"] for row in part)),
                tuple(loads),
                curve_of(subject, loads),
                tuple(curve_of(subject, searched).points) if searched else (),
            )
        )
    return found


MEASURE = (
    "measure one in an open loop: python -m kdwatts ... eval.serving.engine=vllm "
    "'eval.serving.rates_per_s=[1,2,4]' eval.serving.slo.tpot_p99_s=0.05"
)


def _server(row: Row) -> tuple:
    """What tells one measured server from another."""
    return row["subject"], row["key"] or row["run"], row["measurement"], row["started_utc"]


def _owner(row: Row, by_name: dict[str, Row]) -> tuple:
    """Whose server it was: a setting's student, a pair's teacher, or a folder without a run."""
    run = by_name.get(row["run"])
    if run is None:
        return row["subject"], None, None, row["run"]
    setting = run["group"] if row["subject"] == "student" else None
    return row["subject"], row["model"], setting, None


@dataclass(frozen=True)
class PowerCurve:
    """Power of one replica over its rate."""

    knots: tuple[Knot, ...]
    """In rising order; the first is the parked replica where its power is known."""
    points: tuple[Row, ...]
    """The loads of the knots above rate 0."""
    energy_class: str
    """measured, mixed, estimated or missing."""
    remarks: tuple[str, ...]


def power_curve(replica: Replica) -> PowerCurve:
    """Power at each rate whose load lasted; loads of the search only above those of the curve.

    Only joules of the best class are taken. An estimate by CPU time has no idle power: it is 0 W
    at rate 0, as it leaves idle power out at every rate.
    """
    loads = known([p for p in replica.curve.points if p["verdict"] in USABLE], "power_w")
    greatest = max((point["level"] for point in loads), default=0.0)
    loads += [
        point
        for point in known(replica.searched, "power_w")
        if point["verdict"] in USABLE and point["level"] > greatest
    ]
    if not loads:
        return PowerCurve((), (), "missing", ())
    best = min((energy_class(point["energy_quality"]) for point in loads), key=CLASSES.index)
    loads = [point for point in loads if energy_class(point["energy_quality"]) == best]
    loads.sort(key=_served_per_s)
    knots = [
        Knot(_served_per_s(point), quantity_of(point, "power_w"), _watts_by_server(replica, point))
        for point in loads
    ]
    remarks = []
    parked = parked_w(replica, best)
    if parked.value is not None:
        knots.insert(0, Knot(0.0, parked, _parked_w_by_server(replica, best)))
    if best == "estimated":
        remarks.append(
            "Joules are estimated from CPU time, so idle power is in no figure: a parked replica "
            "counts as 0 W."
        )
    unsteady = [f"{point['level']:g}" for point in loads if point["verdict"] == "unsteady"]
    if unsteady:
        rates = " and ".join(unsteady)
        remarks.append(f"At {rates} requests/s power was not steady, and is used all the same.")
    failed = [
        f"{point['failed']} of {point['failed'] + (point['completed'] or 0)} requests at "
        f"{point['level']:g} requests/s"
        for point in loads
        if point["failed"]
    ]
    if failed:
        remarks.append(f"Its power is also of requests that failed: {', '.join(failed)}.")
    return PowerCurve(tuple(knots), tuple(loads), best, tuple(remarks))


def _served_per_s(point: Row) -> float:
    """The rate that the power is of: the level of a replay is of more than its window."""
    served = point["requests_per_s"] if point["load"] == "replay" else None
    return served or point["level"]


def _watts_by_server(replica: Replica, point: Row) -> dict[Hashable, float]:
    """Power of each server at the load of a point, of the same class of joules."""
    rows = [point] if point["is_of_search"] else replica.rows
    kind = energy_class(point["energy_quality"])
    return {
        _server(row): row["power_w"]
        for row in known(rows, "power_w")
        if row["level"] == point["level"] and energy_class(row["energy_quality"]) == kind
    }


def _parked_w_by_server(replica: Replica, energy_class_of_loads: str) -> dict[Hashable, float]:
    if energy_class_of_loads == "estimated":
        return {_server(row): 0.0 for row in replica.rows}
    return {_server(row): row["parking_power_w"] for row in known(replica.rows, "parking_power_w")}


def parked_w(replica: Replica, energy_class_of_loads: str) -> Quantity:
    """Power of the idle replica. No value where it is not known."""
    if energy_class_of_loads == "estimated":
        return Quantity(0.0, 0.0, 0.0, "W", "estimated")
    parked = replica.curve.parking_w
    if energy_class_of_loads == "measured" and parked.quality in MEASURED:
        return parked
    return Quantity(None, unit="W", quality="missing")


@dataclass(frozen=True)
class ReplicaCapacity:
    """The greatest rate that one replica may get, or the reason why it is not known."""

    requests_per_s: float | None
    is_lower_bound: bool = False
    """Whether it may carry more: then fewer replicas may be enough."""
    words: str = ""
    """Where it is from, or why it is not known, as the end of a sentence."""


_BOUNDS = {
    "above": "the greatest rate that was tried kept the latency",
    "undecided": "the search for it ended too early",
}


def capacity_of(replica: Replica, limits: Limits) -> ReplicaCapacity:
    """What a replica carries within the limits.

    The capacity that was searched for counts where its objective is the one asked for: the least
    over the measurements. Otherwise it is the greatest rate of the curve up to which the whole 95 %
    interval of each p99 lies within the limits, and no request failed: a lower bound. What was
    searched for with stricter limits is a lower bound too, and the greater one counts.
    """
    of_search = Limits(*(replica.first[name] for name in SLO))
    searched = _searched_capacity(replica)
    if of_search == limits and searched is not None:
        return searched
    of_curve = _from_latencies(replica.curve.points, limits)
    rate = None if searched is None else searched.requests_per_s
    if rate and rate > (of_curve.requests_per_s or 0) and of_search.are_as_strict_as(limits):
        return ReplicaCapacity(rate, True, "searched for with stricter limits")
    return of_curve


def _searched_capacity(replica: Replica) -> ReplicaCapacity | None:
    """What the searches found with their own limits; None where they say nothing."""
    searched = {_server(row): row for row in replica.rows}.values()
    if any(row["capacity_verdict"] == "none" for row in searched):
        return ReplicaCapacity(None, words="no rate that was tried keeps the latency asked for")
    kept = known(searched, "capacity_requests_per_s")
    if not kept:
        return None
    least = min(kept, key=lambda row: row["capacity_requests_per_s"])
    rate, bound = least["capacity_requests_per_s"], _BOUNDS.get(least["capacity_verdict"])
    several = f"the least of {len(kept)} searches" if len(kept) > 1 else "found by a search"
    return ReplicaCapacity(rate, bound is not None, bound or several)


def _from_latencies(points: Sequence[Row], limits: Limits) -> ReplicaCapacity:
    greatest, why = None, "it has no figures"
    for point in points:
        if why := _why_not_kept(point, limits):
            break
        greatest = point["level"]
    if greatest is None:
        return ReplicaCapacity(None, words=f"at the least rate that was measured {why}")
    return ReplicaCapacity(
        greatest, True, "the greatest measured rate whose p99 surely lies within the limits"
    )


def _why_not_kept(point: Row, limits: Limits) -> str:
    """Why a load is not known to keep the limits; empty where it surely keeps them."""
    if point["verdict"] not in USABLE:
        return f"the load was {verdict_words(point['verdict'])}"
    if point["failed"]:
        return "requests failed"
    for name, limit_s in vars(limits).items():
        high_s, figure = point[f"{name}_high"], f"the {name.split('_')[0].upper()} p99"
        if limit_s is not None and high_s is None:
            return f"too few requests ended to tell {figure}"
        if limit_s is not None and high_s > limit_s:
            return f"{figure} is not surely within {limit_s:g} s"
    return ""
