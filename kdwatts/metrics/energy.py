"""Energies of windows and artifacts with their quality, and how they are summed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdwatts.metrics.quantity import Quantity

MEASURED = ("measured", "attributed")
"""Qualities that come from a sensor; `estimated` comes from a model."""


@dataclass(frozen=True)
class Energy:
    """An amount of energy and how far it can be trusted."""

    energy_j: float | None
    uncertainty_j: float | None
    """One standard deviation; None where the energy is None or nothing is known of its error."""
    quality: str
    """measured, attributed, estimated, missing, or mixed for a sum over different qualities."""
    shared_sd_j: float | None = None
    """The part of `uncertainty_j` that all readings of the meter share: calibration, or the error
    of a model. None in records that do not tell it apart."""


MISSING = Energy(None, None, "missing")


def total_energy(
    energy_j: Mapping[str, float | None],
    quality: Mapping[str, str],
    uncertainty_j: Mapping[str, float | None],
    shared_uncertainty_j: Mapping[str, float | None] | None = None,
) -> Energy:
    """The sum of a window's measured components; of the estimated ones where none is measured.

    Measured and estimated components are never added. Independent sensors: uncertainties add in
    squares. A sum that holds an attributed component is attributed.
    """
    parts = summed_components(energy_j, quality)
    if not parts:
        return MISSING
    # The weaker word of the two sensors' kinds names the sum.
    labels = ("measured", "attributed", "estimated")
    shared = shared_uncertainty_j or {}
    return Energy(
        sum(energy_j[c] or 0.0 for c in parts),
        _root_sum_square(uncertainty_j.get(c) for c in parts),
        max((quality[c] for c in parts), key=labels.index),
        _root_sum_square(shared.get(c) for c in parts),
    )


def window_net_energy_j(
    energy_j: Mapping[str, float | None],
    quality: Mapping[str, str],
    net_energy_j: Mapping[str, float | None],
) -> float | None:
    """Joules of the components that `total_energy` adds, less what they would have drawn idle.

    None where that of one of them is unknown, or none is known.
    """
    found = [net_energy_j.get(part) for part in summed_components(energy_j, quality)]
    return None if None in found or not found else sum(each or 0.0 for each in found)


def summed_components(
    energy_j: Mapping[str, float | None], quality: Mapping[str, str]
) -> list[str]:
    """The components that `total_energy` adds: the measured ones, else the estimated ones."""
    for wanted in (MEASURED, ("estimated",)):
        parts = [c for c, j in energy_j.items() if j is not None and quality[c] in wanted]
        if parts:
            return parts
    return []


def add_energies(energies: Iterable[Energy]) -> Energy:
    """The sum over windows or artifacts. One missing term makes the sum missing, not smaller.

    Terms of different quality give `mixed`, so that a reader sees that the sum is no measurement.
    The meter's calibration is shared by all terms and adds as it is, the rest in squares. What no
    record tells apart counts as shared. The sum of nothing is 0 J, measured.
    """
    terms = list(energies)
    if not terms:
        return Energy(0.0, 0.0, "measured", 0.0)
    if any(term.energy_j is None for term in terms):
        return MISSING
    qualities = {term.quality for term in terms}
    shared_j = [term.shared_sd_j for term in terms]
    return Energy(
        sum(term.energy_j or 0.0 for term in terms),
        _summed_uncertainty_j(terms),
        qualities.pop() if len(qualities) == 1 else "mixed",
        None if None in shared_j else math.fsum(sd or 0.0 for sd in shared_j),
    )


def _summed_uncertainty_j(terms: list[Energy]) -> float | None:
    parts = [as_quantity(term) for term in terms]
    if any(part.random_sd is None for part in parts):
        return None
    return math.hypot(
        *(part.random_sd or 0.0 for part in parts),
        math.fsum(part.shared_sd or 0.0 for part in parts),
    )


def as_quantity(energy: Energy) -> Quantity:
    """The energy with its random and its shared error apart.

    Where a record does not tell them apart all of it counts as shared: calibration, 5 % of a
    sensor's joules and half of a model's, is nearly all that such records hold.
    """
    whole, shared = energy.uncertainty_j, energy.shared_sd_j
    if whole is None:
        return Quantity(energy.energy_j, unit="J", quality=energy.quality)
    shared = whole if shared is None else shared
    random_sd = math.sqrt(max(0.0, whole**2 - shared**2))
    return Quantity(energy.energy_j, random_sd, shared, "J", energy.quality)


def _root_sum_square(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else math.sqrt(sum((value or 0.0) ** 2 for value in known))
