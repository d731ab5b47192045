"""The runs that no other run beats: less energy at no less quality, or more quality for no more energy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from kdwatts.metrics import MEASURED


def on_front(
    energy_j: Sequence[float], quality: Sequence[float], *, higher_is_better: bool = True
) -> list[bool]:
    """Whether each point is on the front. Equal points are on it together; NaN never is."""
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


def energy_class(quality: object) -> str:
    """measured (also attributed: a sensor's), estimated, mixed or missing."""
    return "measured" if quality in MEASURED else str(quality)


def front_by_class(
    runs: pd.DataFrame, *, energy: str, quality: str, energy_quality: str, higher_is_better: bool
) -> pd.Series:
    """Whether each run is on the front of its class: measured joules never meet estimated ones."""
    front = pd.Series(False, index=runs.index)
    for _, rows in runs.groupby(runs[energy_quality].map(energy_class)):
        energies_j, qualities = rows[energy].astype(float), rows[quality].astype(float)
        front[rows.index] = on_front(
            energies_j.to_list(), qualities.to_list(), higher_is_better=higher_is_better
        )
    return front
