"""Joules of nodes that waited while one rank built a stage alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.quantity import Quantity, add, ratio
from multirun_analysis.values.rows import Row


@dataclass(frozen=True)
class Waiting:
    """What waiting took in some windows of a run."""

    energy: Quantity
    """Joules of the nodes that waited."""
    of_rows: Quantity
    """Joules of all nodes in the same windows."""
    share: Interval
    """Waiting over the joules of the whole run, from 0 to 1, with its 95 % interval."""


def waiting_in(rows: list[Row], windows: list[Row]) -> Waiting:
    """What waiting took in some rows of `stages`; `windows` are all top windows of the run.

    Windows of one node have no waiting in them. The error of a sum counts as calibration, which all
    windows share. The share's interval takes the nodes that waited and the rest for two meters.
    """
    waited = add((_waited(row) for row in rows if row["num_nodes"] > 1), unit="J")
    of_rows, whole = (add(map(_drawn, each), unit="J") for each in (rows, windows))
    return Waiting(waited, of_rows, _share(waited, whole))


def _drawn(row: Row) -> Quantity:
    return _stated(row, "energy_j", "uncertainty_j")


def _waited(row: Row) -> Quantity:
    return _stated(row, "waiting_energy_j", "waiting_uncertainty_j")


def _stated(row: Row, energy: str, error: str) -> Quantity:
    sd = row.get(error)
    random_sd = None if sd is None else 0.0
    return Quantity(row.get(energy), random_sd, sd, "J", row["energy_quality"])


def _share(part: Quantity, whole: Quantity) -> Interval:
    """Part over whole by way of part over rest, whose errors have nothing in common."""
    if part.value is None or whole.value is None:
        return Interval(None)
    rest_sd = None
    if whole.shared_sd is not None and part.shared_sd is not None:
        rest_sd = math.sqrt(max(0.0, whole.shared_sd**2 - part.shared_sd**2))
    rest = Quantity(
        whole.value - part.value, None if rest_sd is None else 0.0, rest_sd, "J", whole.quality
    )
    over_rest = ratio(part, rest, same_meter=False)

    def of_whole(value: float | None) -> float | None:
        return None if value is None else max(0.0, value) / (1 + max(0.0, value))

    low, high = of_whole(over_rest.low), of_whole(over_rest.high)
    return replace(over_rest, value=of_whole(over_rest.value), low=low, high=high)
