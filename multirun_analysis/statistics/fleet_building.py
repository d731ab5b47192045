"""Joules of building what a fleet serves: distilling a student, and rounding it to few bits.

A teacher as it was trained takes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdwatts.metrics.quantity import Quantity, add
from multirun_analysis.statistics import built
from multirun_analysis.statistics.measured_replicas import Replica
from multirun_analysis.statistics.quantized_runs import quantizing_j
from multirun_analysis.values.rows import Row

NONE_J = Quantity(0.0, 0.0, 0.0, "J")


@dataclass(frozen=True)
class Building:
    """Joules of building, in the parts that are compared."""

    own: Quantity
    """Of the student alone, with rounding it; of a teacher in few bits, rounding it."""
    inherited: Quantity
    """The student's share of inherited work; 0 of a teacher."""
    rows: list[Row]
    """The finished runs that say it; none for a teacher as it is."""

    @property
    def whole(self) -> Quantity:
        """Both parts together."""
        # 0 J beside an estimate must not make it a mixed sum.
        parts = [part for part in (self.own, self.inherited) if part.value != 0]
        return add(parts, unit="J")


def building_of(replica: Replica, runs: Sequence[Row]) -> Building:
    """What building took, over the seeds of the setting."""
    rows, quantization = runs_of(replica, runs), replica.first["quantization"]
    if replica.subject == "teacher":
        own = quantizing_j(rows, "teacher", quantization) if quantization else NONE_J
        return Building(own, NONE_J, rows if quantization else [])
    own = built.over_seeds(rows, built.own)
    if quantization:
        own = add([own, quantizing_j(rows, "student", quantization)], unit="J")
    return Building(own, built.over_seeds(rows, built.share), rows)


def runs_of(replica: Replica, runs: Sequence[Row]) -> list[Row]:
    """Finished runs of the student's setting, or those that served the teacher.

    Each student counts once where that leaves any.
    """
    finished = [run for run in runs if run["finished"]]
    if replica.setting is not None:
        rows = [run for run in finished if run["group"] == replica.setting]
    else:
        rows = [run for run in finished if run["run"] in replica.runs]
    return [run for run in rows if run["duplicate_of"] is None] or rows
