"""Joules of a server slice by slice: what lies between two edges of the meter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kdwatts.metrics.quantity import MISSING_J, Quantity
from kdwatts.records.schema import Components


@dataclass(frozen=True)
class Slice:
    """What the server used between two moments. Slices follow each other without a gap."""

    start_s: float
    """Monotonic seconds of this host, as the client's times are."""
    end_s: float
    energy: Quantity
    """Joules of all components of the best quality, the client's share left out where it can be."""
    energy_j: Components
    """Per component. One that a model estimates stands here beside measured ones, of which alone
    `energy` is."""
    server_cpu_s: float | None
    """CPU time of the server's processes; None where they are not to be seen."""
    client_cpu_s: float | None
    """CPU time of the client's process."""
    counters: dict[str, float] = field(default_factory=dict)
    """Increase of the engine's counters, named as in Server.read_counters. Empty where it has
    none."""
    methods: dict[str, str | None] = field(default_factory=dict)
    """Component to how its joules were obtained; null where it has none."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Component without joules to the reason."""

    @property
    def duration_s(self) -> float:
        """Seconds between the two moments."""
        return self.end_s - self.start_s


def why_missing(slices: Sequence[Slice]) -> str | None:
    """Why the slices together have no joules: the first reason of a component that counts.

    A component counts that has joules in another slice; where none has, each does.
    """
    known = {kind for one in slices for kind, value in one.energy_j.items() if value is not None}
    for one in slices:
        for kind, reason in one.reasons.items():
            if kind in known or kind == "gpu" or not known:
                return f"{kind}: {reason}"
    return None


def of_the_same_components(slices: Sequence[Slice]) -> list[Slice]:
    """The slices; one that lacks a component of another has no joules.

    A GPU that gave no reading in one slice leaves the joules of the CPU there. Added to the others,
    they would pass for those of both.
    """
    known = [
        {name for name, joules in one.energy_j.items() if joules is not None} for one in slices
    ]
    every = set[str]().union(*known)
    return [
        one if names == every else replace(one, energy=MISSING_J)
        for one, names in zip(slices, known, strict=True)
    ]
