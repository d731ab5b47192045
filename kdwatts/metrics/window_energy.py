"""The energy of a window: one sum over its components, for rows in memory and rows on disk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kdwatts.metrics.quantity import MEASURED, MISSING_J, Quantity, add, from_whole_sd

_WEAKEST_LAST = (*MEASURED, "estimated")


def window_energy(row: Mapping[str, Any]) -> Quantity:
    """Joules of a StageRow's fields: the sum of the measured components, or of the estimated ones.

    Measured and estimated components are never added to each other: estimated ones count only where
    nothing is measured. Sensors of different kinds err independently, so both errors add in
    squares. A sum with an attributed component is attributed.
    """
    components = _summed(row)
    if not components:
        return MISSING_J
    energy_j, quality = row["energy_j"], row["quality"]
    shared_j = row.get("shared_uncertainty_j") or {}  # Older rows do not tell it apart.
    return from_whole_sd(
        sum(energy_j[component] for component in components),
        _in_squares(row["uncertainty_j"].get(component) for component in components),
        _in_squares(shared_j.get(component) for component in components),
        unit="J",
        quality=max((quality[c] for c in components), key=_WEAKEST_LAST.index),
    )


def window_net_energy_j(row: Mapping[str, Any]) -> float | None:
    """Joules of the same components, less the joules that idle devices would have drawn.

    None where this is unknown for one of them, as in older rows.
    """
    net_energy_j = row.get("net_energy_j") or {}
    nets_j = [net_energy_j.get(component) for component in _summed(row)]
    known_j = [net_j for net_j in nets_j if net_j is not None]
    return sum(known_j) if known_j and len(known_j) == len(nets_j) else None


def waiting_energy(row: Mapping[str, Any]) -> Quantity:
    """The part of `window_energy` that nodes drew while they waited for what one rank did alone.

    It is 0 J where no node waits, so also in a row of one node. It is missing where the row's
    energy is. Random errors of nodes add in squares, and calibration errors as they are, as in the
    row's own sum (`node_sums`).
    """
    nodes = [one if isinstance(one, Mapping) else vars(one) for one in row.get("nodes") or ()]
    waiting = [node for node in nodes if node["waits"]]
    components = _summed(row)
    if not waiting:
        return Quantity(0.0, 0.0, 0.0, "J")
    of_row = [{c: node["energy_j"].get(c) for c in components} for node in waiting]
    if not components or any(None in energy_j.values() for energy_j in of_row):
        return MISSING_J
    pairs = zip(waiting, of_row, strict=True)
    energies = [window_energy({**node, "energy_j": energy_j}) for node, energy_j in pairs]
    weakest = max((energy.quality for energy in energies), key=_WEAKEST_LAST.index)
    return replace(add(energies), quality=weakest)


def _summed(row: Mapping[str, Any]) -> list[str]:
    """The components that are added: the measured ones, else the estimated ones."""
    energy_j, quality = row["energy_j"], row["quality"]
    for qualities in (MEASURED, ("estimated",)):
        known = [c for c, j in energy_j.items() if j is not None and quality[c] in qualities]
        if known:
            return known
    return []


def _in_squares(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else math.sqrt(sum((value or 0.0) ** 2 for value in known))
