"""The runs that no other run beats on energy and quality at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdwatts.metrics.quantity import MEASURED
from multirun_analysis.values.rows import Row, grouped

CLASSES = ("measured", "mixed", "estimated", "missing")
"""How energies were obtained, the most trustworthy first."""


def on_front(
    energy_j: Sequence[float], quality: Sequence[float], *, higher_is_better: bool = True
) -> list[bool]:
    """Whether each point is on the Pareto front. Equal points are on it together, NaN never is."""
    goodness = [value if higher_is_better else -value for value in quality]
    known = [
        i for i in range(len(energy_j)) if not (math.isnan(energy_j[i]) or math.isnan(goodness[i]))
    ]
    front = [False] * len(energy_j)
    best, best_j = -math.inf, math.nan
    for i in sorted(known, key=lambda i: (energy_j[i], -goodness[i])):
        if goodness[i] > best:
            best, best_j = goodness[i], energy_j[i]
        front[i] = goodness[i] == best and energy_j[i] == best_j
    return front


def energy_class(quality: str | None) -> str:
    """One of CLASSES. An attributed energy comes from a sensor and counts as measured."""
    if quality in MEASURED:
        return "measured"
    return quality if quality in CLASSES else "missing"


def worst_class(rows: Sequence[Row]) -> str:
    """The worst class of how the joules of building and of serving were obtained."""
    columns = ("total_energy_quality", "inference_energy_quality")
    kinds = {energy_class(run[column]) for run in rows for column in columns}
    return max(kinds, key=CLASSES.index)


def quality_of(energy: str) -> str:
    """The column that says how the energies of a column were obtained."""
    return "own_energy_quality" if energy == "own_energy_j" else "total_energy_quality"


def front_by_class(
    runs: list[Row], *, energy: str, quality: str, higher_is_better: bool
) -> dict[str, list[str]]:
    """Class of energy to the names of the runs on its front. Measured never meets estimated."""
    front = {}
    for kind, rows in grouped(runs, lambda run: energy_class(run[quality_of(energy)])).items():
        joules, values = [row[energy] for row in rows], [row[quality] for row in rows]
        flags = on_front(joules, values, higher_is_better=higher_is_better)
        front[kind] = [row["run"] for row, flag in zip(rows, flags, strict=True) if flag]
    return front
