"""Fleets of all candidates at an operating point, and when each student's building is repaid.

A candidate is a student's setting or a teacher, in the numbers in which it was served, on one kind
of hardware, behind one engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from multirun_analysis.statistics.fleet_repayment import with_break_even
from multirun_analysis.statistics.measured_replicas import measured_replicas
from multirun_analysis.statistics.one_fleet import Fleet, fleet_of
from multirun_analysis.statistics.operating_point import OperatingPoint
from multirun_analysis.statistics.rent import Rent, check_names
from multirun_analysis.statistics.replica_names import labels
from multirun_analysis.statistics.serving_curves import SLO
from multirun_analysis.statistics.site import Site
from multirun_analysis.values.rows import Row

ARRIVALS = {
    "rate": ("poisson", "gamma", "constant", "replay"),
    "replay": ("replay", "gamma", "poisson", "constant"),
}
"""Which arrivals of a measurement are preferred, by the source of the operating point."""


def fleets(
    serving: Iterable[Row],
    runs: Sequence[Row],
    point: OperatingPoint,
    *,
    rent: Rent | None = None,
    site: Site | None = None,
) -> list[Fleet]:
    """A fleet for each candidate at `point`, in order of appearance.

    `serving` and `runs` are the rows of these tables. Where a candidate was measured under several
    kinds of arrivals, or with several objectives, the one that answers best is taken: with an
    answer, with the lengths of the log, with the objective asked for, with arrivals as in the
    operating point, over more loads.

    Raises ValueError where no server was measured in an open loop, and for a price whose name fits
    no GPU.
    """
    rent = rent or Rent()
    found = measured_replicas(serving, runs)
    check_names(rent, [gpu for replica in found for gpu in replica.gpus])
    best: dict[tuple, Fleet] = {}
    for fleet in (fleet_of(replica, point, rent, site) for replica in found):
        before = best.get(fleet.replica.kind)
        if before is None or _rank(fleet) < _rank(before):
            best[fleet.replica.kind] = fleet
    names = labels([fleet.replica for fleet in best.values()], {run["run"]: run for run in runs})
    named = [replace(one, label=name) for one, name in zip(best.values(), names, strict=True)]
    return [with_break_even(fleet, named, runs) for fleet in named]


def _rank(fleet: Fleet) -> tuple:
    """The order in which measurements of one candidate are preferred."""
    first, order = fleet.replica.first, ARRIVALS[fleet.point.source]
    kept = tuple(first[name] for name in SLO) == tuple(vars(fleet.point.limits).values())
    load = order.index(first["load"]) if first["load"] in order else len(order)
    unanswered = fleet.why_not is not None
    return unanswered, bool(fleet.doubts), not kept, load, -len(fleet.replica.curve.points)
